"""Checkpoints: whole, atomic, verified, and refused with reasons; the only file that touches Orbax.

checkpoints/<step>/params/       the parameters            (Orbax, nested dicts)
                   ema/          their moving average, where the run keeps one
                   state/        optimiser, extra, rng, counters
                   data-0.json   the data position of process 0
                   meta.json     what the arrays are, and everything else
                   manifest.json size and checksum of each file above
"""

import concurrent.futures
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from trainer.errors import CheckpointError, DataError
from trainer.feed import differences
from trainer.manifest import DamagedError, read_json, sync, verify_manifest, write_manifest
from trainer.sharding import put_tree
from trainer.state import PyTree, TrainState
from trainer.tree_index import Entry, index_of, mismatches, name_of, nest, storage_keys

_FORMAT = 1
_FOLDER = "checkpoints"
_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint that was read.

    Attributes:
      state: the training state, placed as the target asks.
      meta: what `save` was given, and `step`.
    """

    state: TrainState
    meta: dict[str, Any]


class RunStatus(NamedTuple):
    """How far a run is, as its newest checkpoint says.

    Attributes:
      step: the step of the checkpoint.
      steps: the steps that it was asked for.
      complete: whether it has done them, or was stopped for good.
    """

    step: int
    steps: int
    complete: bool


class ReadParams(NamedTuple):
    """Parameters for another run.

    Attributes:
      params: the moving average where the run keeps one; numpy arrays in nested dicts, or the target's structure.
      step: the step of the checkpoint.
      meta: its `meta.json` (`config`, `provenance`, `scalars` …).
    """

    params: PyTree
    step: int
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder.

    A save copies the state to the host, returns, and writes in a thread; a checkpoint appears under its name only
    when all its files are on the disk. There is one writing process per run folder.

    Args:
      run_folder: the run folder.
      keep: the newest checkpoints that are kept.
    """

    def __init__(self, run_folder: Path, keep: int = 3) -> None:
        self._folder = Path(run_folder) / _FOLDER
        self._keep = max(keep, 1)
        self._damaged: list[int] = []
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._saving: concurrent.futures.Future[None] | None = None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint on the disk, rising."""
        return _steps(self._folder)

    def save(self, step: int, state: TrainState, data_position: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Starts to save; a checkpoint of the same step is replaced. The state may be donated after the return.

        Raises:
          CheckpointError: this or the save before failed (no space, no permission, data that JSON cannot hold).
        """
        self.wait()
        parts = _split(state)
        arrays = {name: index_of(tree) for name, tree in parts.items()}
        items = {name: _host_tree(tree, arrays[name]) for name, tree in parts.items()}
        meta = {**meta, "format": _FORMAT, "step": step, "arrays": arrays}
        try:
            texts = {f"data-{jax.process_index()}.json": json.dumps(data_position), "meta.json": json.dumps(meta)}
        except TypeError as error:
            raise CheckpointError(
                f"Step {step} cannot be saved: the data position and callback states must be JSON-able ({error})."
            ) from error
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving = self._thread.submit(self._write, step, items, texts)

    def wait(self) -> None:
        """Waits until the last save is on the disk.

        Raises:
          CheckpointError: it failed.
        """
        if self._saving is not None:
            saving, self._saving = self._saving, None
            try:
                saving.result()
            except Exception as error:
                raise CheckpointError(f"A checkpoint could not be saved in {self._folder}: {error}") from error

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def restore(self, target: TrainState, fingerprint: Mapping[str, Any] | None = None) -> Restored | None:
        """Restores the newest checkpoint that can be read; each damaged one gets a line of warning.

        Args:
          target: `jax.ShapeDtypeStruct`s with shardings.
          fingerprint: what the data position has to be valid for; None to accept any.

        Returns:
          The checkpoint, bit for bit as it was saved, or None where there is none at all. `meta["data_position"]`
          is the data position.

        Raises:
          CheckpointError: none can be read, or it holds other arrays than the target.
          DataError: it is of other data.
        """
        self._damaged = []
        for step in reversed(self.steps()):
            folder = self._folder / str(step)
            try:
                meta = _read_meta(folder)
                _refuse_other_arrays(folder, meta, target)
                _refuse_other_data(folder, meta, fingerprint)
                state = _restore_state(folder, meta, target)
                meta["data_position"] = read_json(folder / f"data-{jax.process_index()}.json")
                return Restored(state, meta)
            except DamagedError as error:
                self._damaged.append(step)
                _log.warning("The checkpoint %s is damaged (%s); trying the one before.", folder, error)
        if self._damaged:
            raise _none_usable(self._folder)
        return None

    def _write(self, step: int, items: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        _quiet_orbax()
        for stale in self._folder.glob("tmp-*"):  # of a process that was killed
            shutil.rmtree(stale)
        temporary, final = self._folder / f"tmp-{step}", self._folder / str(step)
        temporary.mkdir(parents=True)
        for name, tree in items.items():
            if tree:
                with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                    checkpointer.save(temporary.absolute() / name, args=ocp.args.StandardSave(tree))
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        write_manifest(temporary)
        if final.exists():
            final.rename(self._folder / f"tmp-old-{step}")
        temporary.rename(final)
        sync(self._folder)
        good = [s for s in self.steps() if s not in self._damaged or s == step]
        gone = [s for s in self.steps() if s not in good[-self._keep :]]
        for old in gone:  # renamed first: a kill half-way leaves nothing that looks like a checkpoint
            (self._folder / str(old)).rename(self._folder / f"tmp-old-{old}")
        for stale in self._folder.glob("tmp-*"):
            shutil.rmtree(stale)
        self._damaged = []


def read_params(run_folder: Path, step: int | None = None, target: PyTree | None = None) -> ReadParams:
    """Reads the parameters of a run, and nothing else of it.

    Without a target, nested dicts come back as they were, with their int and str keys; sequences come back as lists,
    named tuples and dataclasses as dicts.

    Args:
      run_folder: the run folder.
      step: the checkpoint; None for the newest that can be read.
      target: a pytree with the structure, shapes and dtypes wanted.

    Raises:
      CheckpointError: there is none, it is damaged, or it holds other arrays than the target.
    """
    folder = Path(run_folder) / _FOLDER
    steps = [s for s in reversed(_steps(folder)) if step in (None, s)]
    if not steps:
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise CheckpointError(f"{folder} has {wanted}; steps there: {_steps(folder) or 'none'}.")
    for candidate in steps:
        path = folder / str(candidate)
        try:
            meta = _read_meta(path)
            item = "ema" if "ema" in meta["arrays"] else "params"
            if target is not None:
                _refuse(path, mismatches(meta["arrays"][item], index_of(target), item))
            leaves = _read_item(path, meta, item)
            params = nest(meta["arrays"][item], leaves) if target is None else _like(target, leaves)
            return ReadParams(params, candidate, meta)
        except DamagedError as error:
            _log.warning("The checkpoint %s is damaged (%s).", path, error)
    raise _none_usable(folder)


def finished(run_folder: Path) -> RunStatus | None:
    """How far a run is, or None where it has no checkpoint that can be read; reads no arrays."""
    folder = Path(run_folder) / _FOLDER
    for step in reversed(_steps(folder)):
        try:
            meta = read_json(folder / str(step) / "meta.json")
            return RunStatus(step, meta["steps"], meta["complete"])
        except (DamagedError, KeyError):
            continue
    return None


def _steps(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []


def _split(state: TrainState) -> dict[str, PyTree]:
    """The items that are stored apart."""
    rest = state._replace(params=None, ema=None)._asdict()
    items = {"params": state.params, "ema": state.ema, "state": rest}
    return {name: tree for name, tree in items.items() if tree is not None}


def _host_tree(tree: PyTree, index: Sequence[Entry]) -> dict[str, Any]:
    """Nested dicts with copies in host memory; empty arrays, which Orbax refuses, stay in the index alone."""
    nested: dict[str, Any] = {}
    leaves = jax.device_get([jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)])
    for entry, leaf in zip(index, leaves, strict=True):
        if leaf.size:
            *parents, last = storage_keys(entry)
            node = nested
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = np.array(leaf)  # a copy: on a CPU the host would see the very buffer that is donated
    return nested


def _read_item(folder: Path, meta: Mapping[str, Any], item: str) -> list[np.ndarray]:
    """The leaves of an item in the order of its index."""
    nested: Any = {}
    if (folder / item).exists():
        _quiet_orbax()
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                nested = checkpointer.restore((folder / item).absolute(), args=ocp.args.StandardRestore(None))
        except Exception as error:
            raise DamagedError(f"{item}: {(str(error) or repr(error)).splitlines()[0]}") from error
    leaves = []
    for entry in meta["arrays"][item]:
        if 0 in entry["shape"]:
            leaves.append(np.zeros(entry["shape"], entry["dtype"]))
            continue
        node = nested
        for key in storage_keys(entry):
            if key not in node:
                raise DamagedError(f"{item}/{name_of(entry)} is missing")
            node = node[key]
        leaves.append(np.asarray(node))
    return leaves


def _restore_state(folder: Path, meta: Mapping[str, Any], target: TrainState) -> TrainState:
    parts = {name: _like(tree, _read_item(folder, meta, name)) for name, tree in _split(target).items()}
    state = TrainState(**{**parts["state"], "params": parts["params"], "ema": parts.get("ema")})
    return put_tree(state, jax.tree.map(lambda leaf: leaf.sharding, target))


def _like(target: PyTree, leaves: Sequence[np.ndarray]) -> PyTree:
    wanted, treedef = jax.tree.flatten(target)
    restored = [_wrap_key(x, t.dtype) if _is_key(t) else x for t, x in zip(wanted, leaves, strict=True)]
    return jax.tree.unflatten(treedef, restored)


def _wrap_key(data: np.ndarray, dtype: Any) -> jax.Array:
    kinds = {str(jax.random.key(0, impl=impl).dtype): impl for impl in ("threefry2x32", "rbg", "unsafe_rbg")}
    return jax.random.wrap_key_data(jnp.asarray(data), impl=kinds[str(dtype)])


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _refuse_other_arrays(folder: Path, meta: Mapping[str, Any], target: TrainState) -> None:
    wanted = _split(target)
    lines = []
    for item in sorted(wanted.keys() | meta["arrays"].keys()):
        prefix = "" if item == "state" else item
        lines += mismatches(meta["arrays"].get(item, []), index_of(wanted.get(item)), prefix)
    _refuse(folder, lines)


def _refuse(folder: Path, lines: Sequence[str]) -> None:
    if lines:
        shown = "".join(f"\n  {line}" for line in lines[:10])
        more = f"\n  … and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise CheckpointError(
            f"The checkpoint {folder} does not fit the model:{shown}{more}\n"
            "Nothing was changed. Use the config that it was trained with, or another run folder (--workdir=DIR)."
        )


def _refuse_other_data(folder: Path, meta: Mapping[str, Any], fingerprint: Mapping[str, Any] | None) -> None:
    if fingerprint is None:
        return
    lines = differences(meta.get("fingerprint"), json.loads(json.dumps(fingerprint)))
    if lines:
        shown = "".join(f"\n  {line}" for line in lines[:10])
        raise DataError(
            f"The checkpoint {folder} holds a position in other data:{shown}\n"
            "Nothing was changed. Use the data that it was trained with, or another run folder (--workdir=DIR)."
        )


def _none_usable(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"None of the checkpoints in {folder} can be read. To start from scratch, remove the folder or give "
        "another one with --workdir=DIR."
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json`, after each file was compared with the manifest."""
    verify_manifest(folder)
    meta = read_json(folder / "meta.json")
    if meta.get("format") != _FORMAT:
        raise CheckpointError(
            f"The checkpoint {folder} has format {meta.get('format')}; this version reads format {_FORMAT}. "
            "Use the version that wrote it."
        )
    return meta


class _OrbaxFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or f"{os.sep}orbax{os.sep}" not in record.pathname


def _quiet_orbax() -> None:
    """Drops Orbax's information lines, some 30 per save; it has no logger of its own."""
    logger = logging.getLogger("absl")
    if not any(isinstance(f, _OrbaxFilter) for f in logger.filters):
        logger.addFilter(_OrbaxFilter())
