"""`Checkpoints`: the checkpoints of a run, whole and atomic; see `trainer.checkpoints.reading` for what is in one."""

import concurrent.futures
import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from trainer import hosts
from trainer.checkpoints import reading
from trainer.checkpoints.array_files import write_arrays
from trainer.checkpoints.manifest import DamagedError, sync, write_manifest
from trainer.checkpoints.packed import fits
from trainer.checkpoints.retention import Best, kept
from trainer.checkpoints.tree_index import Entry, index_of, storage_keys
from trainer.errors import CheckpointError, DataError
from trainer.sharding import put_tree
from trainer.state import PyTree, TrainState

_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint that was read.

    Attributes:
      state: the training state, placed as the target asks.
      meta: what `save` was given, and `step`.
    """

    state: TrainState
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder.

    A save copies the state to the host, returns, and writes in a thread; a checkpoint appears under its name only
    when all its files are on the disk. Of several processes that train together the first one writes, the others give
    it what it needs: all of them call every method but `steps` and `close`, and what fails in one is raised in all.

    Args:
      run_folder: the run folder.
      keep: the newest checkpoints that are kept.
      keep_every: checkpoints at multiples of this are kept too; 0 for none.
      best: the best ones are kept too, by the entry `measured` of what `save` is given; None for none.

    Attributes:
      pinned: steps whose checkpoints are kept as long as they stand here.
    """

    def __init__(self, run_folder: Path, keep: int = 3, keep_every: int = 0, best: Best | None = None) -> None:
        self._folder = Path(run_folder) / reading.FOLDER
        self._keep, self._keep_every, self._best = keep, keep_every, best
        self.pinned: set[int] = set()
        self._figures: dict[int, float | None] = {}  # of `best`, by step
        self._damaged: list[int] = []
        self._good: int | None = None  # the newest that was written or read here
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._saving: concurrent.futures.Future[None] | None = None
        self._saving_step = 0

    def steps(self) -> list[int]:
        """The steps that have a checkpoint on the disk, rising."""
        return reading.steps_in(self._folder)

    @property
    def newest_good(self) -> int | None:
        """The step of the newest checkpoint that was written or read here."""
        return self._good

    def is_best(self, measured: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with these figures is better than one of the best kept, or these are not full yet."""
        if self._best is None:
            return False
        return hosts.gather_json(hosts.is_first() and self._is_best(self._best, measured))[0]

    def save(self, step: int, state: TrainState, data_position: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Starts to save; a checkpoint of the same step is replaced. The state may be donated after the return.

        Raises:
          CheckpointError: this or the save before failed (no space, no permission, data that JSON cannot hold).
        """
        parts = reading.split_state(state)
        arrays = {name: index_of(tree) for name, tree in parts.items()}
        with hosts.together():
            self._wait()
            try:
                position = json.dumps(data_position)
                text = json.dumps({**meta, "format": reading.FORMAT, "step": step, "arrays": arrays})
            except TypeError as error:
                raise CheckpointError(
                    f"Step {step} cannot be saved: the data position and callback states must be JSON-able ({error})."
                ) from error
        positions = hosts.gather_json(position)
        texts = {"meta.json": text, **{f"data-{process}.json": there for process, there in enumerate(positions)}}
        items = {name: hosts.whole(tree, everywhere=False) for name, tree in parts.items()}
        with hosts.together():
            if hosts.is_first():
                nested = {name: _nested(tree, arrays[name]) for name, tree in items.items()}
                gone = self._gone(step, meta.get("measured") or {})
                if self._thread is None:
                    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
                self._saving = self._thread.submit(self._write, step, nested, texts, gone)
                self._saving_step = step

    def wait(self) -> None:
        """Waits until the last save is on the disk.

        Raises:
          CheckpointError: it failed.
        """
        with hosts.together():
            self._wait()

    def check(self) -> None:
        """Raises CheckpointError where the last save is known to have failed; does not wait for it."""
        with hosts.together():
            if self._saving is not None and self._saving.done():
                self._wait()

    def close(self) -> None:
        """Waits, for this process alone, and ends the thread."""
        try:
            self._wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def restore(
        self, target: TrainState, fingerprint: Mapping[str, Any] | None = None, step: int | None = None
    ) -> Restored | None:
        """Restores the newest checkpoint that can be read; each damaged one gets a line of warning.

        Args:
          target: `jax.ShapeDtypeStruct`s with shardings.
          fingerprint: what the data position has to be valid for; None where the position does not matter.
          step: the checkpoint of this step and no other.

        Returns:
          The checkpoint, bit for bit as it was saved, or None where there is none at all. `meta["data_position"]`
          is the data position of this process.

        Raises:
          CheckpointError: none can be read, or it holds other arrays than the target; there is none of the step.
          DataError: it is of other data, or of another number of processes and cannot be divided among these.
        """
        self._damaged = []
        steps = [s for s in reversed(hosts.gather_json(self.steps())[0]) if step in (None, s)]
        if not steps and step is not None:
            raise reading.no_checkpoint(self._folder, step)
        for candidate in steps:
            path, damage = reading.path_of(self._folder, candidate), None
            with hosts.together():
                try:
                    meta, state = _read(path, target, fingerprint)
                except DamagedError as error:
                    damage = str(error)
            damage = next((found for found in hosts.gather_json(damage) if found is not None), None)
            if damage is None:
                self._good = candidate
                return Restored(put_tree(state, jax.tree.map(lambda leaf: leaf.sharding, fits(meta, target))), meta)
            self._damaged.append(candidate)
            before = "" if step is not None else "; trying the one before"
            _log.warning("The checkpoint %s is damaged (%s)%s.", path, damage, before)
        if self._damaged:
            raise reading.none_usable(self._folder, step)
        return None

    def _wait(self) -> None:
        if self._saving is not None:
            saving, self._saving = self._saving, None
            try:
                saving.result()
            except Exception as error:
                why = (str(error) or repr(error)).splitlines()[0]
                good = "none" if self._good is None else f"that of step {self._good}"
                raise CheckpointError(
                    f"The checkpoint of step {self._saving_step} could not be saved in {self._folder}: {why}. "
                    f"The newest good one: {good}."
                ) from error
            self._good, self._damaged = self._saving_step, []

    def _is_best(self, best: Best, measured: Mapping[str, Any]) -> bool:
        figure, there = best.figure(measured), self._readable()
        if figure is None or not best.count:
            return False
        if self._saving is not None and not (self._saving.done() and self._saving.exception()):
            there.add(self._saving_step)
        kept_now = sorted(f for f in (self._figure(best, step) for step in there) if f is not None)[: best.count]
        return len(kept_now) < best.count or figure < kept_now[-1]

    def _figure(self, best: Best, step: int) -> float | None:
        if step not in self._figures:
            self._figures[step] = reading.read_figure(self._folder, step, best)
        return self._figures[step]

    def _readable(self) -> set[int]:
        return {step for step in self.steps() if step not in self._damaged}

    def _gone(self, step: int, measured: Mapping[str, Any]) -> list[int]:
        """The checkpoints to remove when that of `step` is there."""
        there = self._readable() | {step}
        if self._best is not None:
            self._figures = {s: self._figure(self._best, s) for s in there}
            self._figures[step] = self._best.figure(measured)
        keep = kept(there, self._keep, self._keep_every, self._best, self._figures)
        return [s for s in self.steps() if s not in keep | self.pinned]

    def _write(self, step: int, items: Mapping[str, Any], texts: Mapping[str, str], gone: Collection[int]) -> None:
        self._tidy()
        temporary, final, old = (self._folder / name for name in (f"tmp-{step}", str(step), f"old-{step}"))
        try:
            temporary.mkdir(parents=True)
            for name, tree in items.items():
                if tree:
                    write_arrays(temporary / name, tree)
            for name, text in texts.items():
                (temporary / name).write_text(text, encoding="utf-8")
            write_manifest(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # the space may be what was missing
            raise
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        sync(self._folder)
        for unwanted in gone:  # renamed first: a kill half-way leaves nothing that looks like a checkpoint
            (self._folder / str(unwanted)).rename(self._folder / f"tmp-gone-{unwanted}")
        self._tidy()

    def _tidy(self) -> None:
        """Removes what is no checkpoint any more, also what a process that was killed has left."""
        for old in self._folder.glob("old-*"):
            final = old.with_name(old.name.removeprefix("old-"))
            old.rename(final if not final.exists() else old.with_name(f"tmp-{old.name}"))
        for stale in self._folder.glob("tmp-*"):
            shutil.rmtree(stale)


def _read(path: Path, target: TrainState, fingerprint: Mapping[str, Any] | None) -> tuple[dict[str, Any], TrainState]:
    """Meta, with the data position of this process, and state, on the host."""
    index, count = jax.process_index(), jax.process_count()
    if count > 1 and not path.is_dir():
        raise CheckpointError(
            f"{path} is not there for each of the {count} processes: the run folder must lie where all can read it."
        )
    meta = reading.read_meta(path)
    if meta.get("packed") and fingerprint is not None:
        raise CheckpointError(f"{path} was packed: it can be evaluated and built on, but not trained further.")
    target = fits(meta, target)
    reading.refuse_other_arrays(path, meta, target)
    position = reading.read_position(path, index, count)
    if fingerprint is not None:
        reading.refuse_other_data(path, meta, fingerprint)
        if position is None:
            saved = len(list(path.glob("data-*.json")))
            raise DataError(
                f"The checkpoint {path} was saved by {saved} processes at different positions in their data, which "
                f"cannot be divided among {count}. Continue with {saved} processes, or in another run folder "
                "(--workdir=DIR)."
            )
    meta["data_position"] = position
    return meta, reading.read_state(path, meta, target)


def _nested(tree: PyTree, index: Sequence[Entry]) -> dict[str, Any]:
    """Host arrays in nested dicts; empty ones, which Orbax refuses, stay in the index alone."""
    nested: dict[str, Any] = {}
    for entry, leaf in zip(index, jax.tree.leaves(tree), strict=True):
        if np.size(leaf):
            *parents, last = storage_keys(entry)
            node = nested
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = leaf
    return nested
