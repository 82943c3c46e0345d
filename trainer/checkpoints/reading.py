"""Reading checkpoints: which there are, whether they are whole and fit, and what is in them.

checkpoints/<step>/params/       the parameters            (see `trainer.array_files`)
                   ema/          their moving average, where the run keeps one
                   state/        optimiser, extra, rng, counters
                   data-0.json   the data position of process 0, and so on
                   meta.json     what the arrays are, and everything else
                   manifest.json size and checksum of each file above
            old-<step>/          a checkpoint that is just being replaced by another of the same step
            tmp-…                nothing that counts
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainer.checkpoints.array_files import read_arrays
from trainer.checkpoints.manifest import DamagedError, read_json, verify_manifest
from trainer.checkpoints.retention import Best
from trainer.checkpoints.tree_index import index_of, mismatches, name_of, nest, storage_keys
from trainer.errors import CheckpointError, DataError
from trainer.feed import differences
from trainer.state import PyTree, TrainState

FOLDER = "checkpoints"
FORMAT = 1
_log = logging.getLogger(__name__)


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


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, rising."""
    names = [path.name.removeprefix("old-") for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({int(name) for name in names if name.isdecimal()})


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    path = folder / str(step)
    old = folder / f"old-{step}"  # a kill while it was replaced may have left this one alone
    return old if old.exists() and not path.exists() else path


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
    folder = Path(run_folder) / FOLDER
    steps = [s for s in reversed(steps_in(folder)) if step in (None, s)]
    if not steps:
        raise no_checkpoint(folder, step)
    for candidate in steps:
        path = path_of(folder, candidate)
        try:
            meta = read_meta(path)
            item = "ema" if "ema" in meta["arrays"] else "params"
            if target is not None:
                _refuse(path, mismatches(meta["arrays"][item], index_of(target), item))
            leaves = _read_item(path, meta, item)
            params = nest(meta["arrays"][item], leaves) if target is None else _like(target, leaves)
            return ReadParams(params, candidate, meta)
        except DamagedError as error:
            _log.warning("The checkpoint %s is damaged (%s).", path, error)
    raise none_usable(folder, step)


def finished(run_folder: Path) -> RunStatus | None:
    """How far a run is, or None where it has no checkpoint that can be read; reads no arrays."""
    folder = Path(run_folder) / FOLDER
    for step in reversed(steps_in(folder)):
        try:
            meta = read_json(path_of(folder, step) / "meta.json")
            return RunStatus(step, meta["steps"], meta["complete"])
        except (DamagedError, KeyError):
            continue
    return None


def find_step(run_folder: Path, which: str, best: Best | None) -> int | None:
    """The step of the checkpoint `last` (None: the newest that can be read), `best` or a number.

    Raises:
      CheckpointError: there is none.
    """
    if which == "last":
        return None
    steps = steps_in(Path(run_folder) / FOLDER)
    there = f"Steps there: {', '.join(map(str, steps)) or 'none'}."
    if which == "best":
        if best is None:
            raise CheckpointError("checkpoint=best needs best_metric in the config, the figure to compare them by.")
        found = best_step(run_folder, best)
        if found is None:
            raise CheckpointError(f"no checkpoint in {run_folder} was saved with a figure {best.metric!r}. {there}")
        return found
    if not which.isdecimal() or int(which) not in steps:
        raise CheckpointError(f"{run_folder} has no checkpoint {which!r}: give last, best or a step. {there}")
    return int(which)


def best_step(run_folder: Path, best: Best) -> int | None:
    """The step of the checkpoint with the best figure, the earlier of equal ones; None where none has one."""
    folder = Path(run_folder) / FOLDER
    ranked = best.ranked({step: read_figure(folder, step, best) for step in steps_in(folder)})
    return ranked[0] if ranked else None


def read_figure(folder: Path, step: int, best: Best) -> float | None:
    """What evaluations measured at the very step of a checkpoint, see `Best.figure`."""
    try:
        return best.figure(read_json(path_of(folder, step) / "meta.json").get("measured") or {})
    except DamagedError:
        return None


def read_meta(path: Path) -> dict[str, Any]:
    """`meta.json` of a checkpoint, after each of its files was compared with the manifest.

    Raises:
      DamagedError: a file is not what was written.
      CheckpointError: another version wrote it.
    """
    verify_manifest(path)
    meta = read_json(path / "meta.json")
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"The checkpoint {path} has format {meta.get('format')}; this version reads format {FORMAT}. "
            "Use the version that wrote it."
        )
    if str(meta.get("step")) != path.name.removeprefix("old-"):
        raise DamagedError(f"it holds step {meta.get('step')}: was the folder renamed or copied?")
    return meta


def read_position(path: Path, process: int, count: int) -> dict[str, Any] | None:
    """The data position of one of `count` processes, or None where the checkpoint cannot tell.

    It can where it was saved by as many processes, or where the positions of all were the same.
    """
    files = sorted(path.glob("data-*.json"))
    if len(files) == count:
        return read_json(path / f"data-{process}.json")
    positions = [read_json(file) for file in files]
    return positions[0] if positions and all(position == positions[0] for position in positions) else None


def split_state(state: TrainState) -> dict[str, PyTree]:
    """The items that are stored apart."""
    rest = state._replace(params=None, ema=None)._asdict()
    items = {"params": state.params, "ema": state.ema, "state": rest}
    return {name: tree for name, tree in items.items() if tree is not None}


def read_state(path: Path, meta: Mapping[str, Any], target: TrainState) -> TrainState:
    """The training state on the host, in the structure of `target`."""
    parts = {name: _like(tree, _read_item(path, meta, name)) for name, tree in split_state(target).items()}
    return TrainState(**{**parts["state"], "params": parts["params"], "ema": parts.get("ema")})


def refuse_other_arrays(path: Path, meta: Mapping[str, Any], target: TrainState) -> None:
    """Raises CheckpointError where a checkpoint holds other arrays than the target."""
    wanted = split_state(target)
    lines = []
    for item in sorted(wanted.keys() | meta["arrays"].keys()):
        prefix = "" if item == "state" else item
        lines += mismatches(meta["arrays"].get(item, []), index_of(wanted.get(item)), prefix)
    _refuse(path, lines)


def refuse_other_data(path: Path, meta: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Raises DataError where a checkpoint's data position is of other data."""
    lines = differences(meta.get("fingerprint"), json.loads(json.dumps(fingerprint)))
    if lines:
        shown = "".join(f"\n  {line}" for line in lines[:10])
        raise DataError(
            f"The checkpoint {path} holds a position in other data:{shown}\n"
            "Nothing was changed. Use the data that it was trained with, or another run folder (--workdir=DIR)."
        )


def no_checkpoint(folder: Path, step: int | None) -> CheckpointError:
    """The error for a checkpoint that is not there."""
    wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    return CheckpointError(f"{folder} has {wanted}; steps there: {steps_in(folder) or 'none'}.")


def none_usable(folder: Path, step: int | None) -> CheckpointError:
    """The error for checkpoints that cannot be read: that of a step, or all there are."""
    if step is not None:
        return CheckpointError(
            f"The checkpoint {path_of(folder, step)} cannot be read; steps there: {steps_in(folder)}."
        )
    return CheckpointError(
        f"None of the checkpoints in {folder} can be read. To start from scratch, remove the folder or give "
        "another one with --workdir=DIR."
    )


def _read_item(path: Path, meta: Mapping[str, Any], item: str) -> list[np.ndarray]:
    """The leaves of an item in the order of its index."""
    nested = read_arrays(path / item) if (path / item).exists() else {}
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


def _like(target: PyTree, leaves: Sequence[np.ndarray]) -> PyTree:
    wanted, treedef = jax.tree.flatten(target)
    restored = [_wrap_key(x, t.dtype) if _is_key(t) else x for t, x in zip(wanted, leaves, strict=True)]
    return jax.tree.unflatten(treedef, restored)


def _wrap_key(data: np.ndarray, dtype: Any) -> jax.Array:
    kinds = {str(jax.random.key(0, impl=impl).dtype): impl for impl in ("threefry2x32", "rbg", "unsafe_rbg")}
    return jax.random.wrap_key_data(jnp.asarray(data), impl=kinds[str(dtype)])


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _refuse(path: Path, lines: Sequence[str]) -> None:
    if lines:
        shown = "".join(f"\n  {line}" for line in lines[:10])
        more = f"\n  … and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise CheckpointError(
            f"The checkpoint {path} does not fit the model:{shown}{more}\n"
            "Nothing was changed. Use the config that it was trained with, or another run folder (--workdir=DIR)."
        )
