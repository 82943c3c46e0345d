"""`TfdsData`: batches of clips from any TFDS data set of episodes.

```python
data = TfdsData(name="bouncing_square/reference", split="train", batch_size=64, length=64)
data.prepare()
batch = next(data.iterator(seed=0))
```
"""

import dataclasses
import functools
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from datasets import builders
from datasets.episodes import Alignment, Episodes, EpisodeSource, frames_of
from datasets.errors import DataError
from datasets.features import PER_EPISODE, Names
from datasets.schedule import Schedule

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TfdsData:
    """A data source for training and evaluation.

    A batch is a dict of numpy arrays; B rows of T frames:

    - `frames` uint8 [B, T, H, W, C];
    - `actions` [B, T, …], or a dict of such arrays; `actions[:, t]` led to `frames[:, t]`; zeros where not `labelled`;
    - `rewards` float32 [B, T], received on arriving at the frame;
    - `continues` float32 [B, T], 0 where the episode terminates at the frame, else 1;
    - `is_first` bool [B, T], true at an episode's first frame only, wherever the clip starts;
    - `independent` bool [B], rows of T single frames, each from another episode where there are so many;
    - `labelled` bool [B], whether `actions` may be used; the data set may say so of each episode. Never so in
      independent rows: an action says nothing without the frame before it;
    - `task` int32 [B], which of the data set's tasks the episode shows;
    - `relevant` bool [B], whether cloning should learn from the episode.

    Actions, rewards, continues, task and relevant are absent where the data set has none. Task and relevant may be
    stored per episode, or per step, of which the episode's first counts, wherever the clip starts; an independent row
    takes those of its first frame's episode.

    Attributes:
      name: "name", "name/config" or "name/config:version": a folder of this package, or any data set known to TFDS
        whose examples are episodes.
      split: in TFDS's notation: "train", "train[:90%]" …
      data_dir: where data sets lie; None for TFDS's own place (`TFDS_DATA_DIR`, else ~/tensorflow_datasets).
      batch_size: rows of a batch, over all processes; each has an equal, contiguous share of them.
      length: frames per row.
      short_length: frames per row of the short batches in between; None for long batches only.
      short_batch_size: rows of a short batch, likewise; None for as many frames as a long batch has.
      long_every: where there are short batches, of so many batches the first is long.
      independent_share: share of rows that hold unrelated single frames.
      unlabelled_share: share of episodes whose actions are hidden; the same ones whatever the seed.
      skip_short: leave out the episodes that are shorter than a clip, and say how many; else they are an error.
      start: "any": clips start anywhere in an episode; "reset": at its first frame.
      reset_share: with start="any", the share of clips that start at an episode's first frame nonetheless. Few do by
        chance, and an agent begins there every time.
      shuffle: every epoch in another random order.
      num_epochs: passes over the episodes, each giving one clip per pass; rows left over at the end are dropped. None
        for ever.
      keys: feature names by batch name, where they differ: {"frames": "observation/image", "is_terminal": "done"}; for
        actions also the names of several components: {"actions": {"move": "action/move", "fire": "action/fire"}}. An
        empty name leaves a feature out. See `datasets.features`.
      alignment: whether the action and the reward stored with a frame led to it ("before") or came after it ("after",
        as in RLDS; the batch has them with the next frame). None: "before", but must be given for RLDS episodes.
      cache: keep decoded episodes in memory.
      cache_bytes: up to this much of them. What does not fit is decoded at every use, which costs most in
        independent rows: T episodes each.
      read_threads: threads that make batches, a batch each.
      read_ahead: batches made in advance.
    """

    name: str
    split: str
    batch_size: int
    length: int
    data_dir: str | None = None
    short_length: int | None = None
    short_batch_size: int | None = None
    long_every: int = 2
    independent_share: float = 0.0
    unlabelled_share: float = 0.0
    skip_short: bool = False
    start: Literal["any", "reset"] = "any"
    reset_share: float = 0.0
    shuffle: bool = True
    num_epochs: int | None = None
    keys: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    alignment: Alignment | None = None
    cache: bool = True
    cache_bytes: int = 3 * 2**30
    read_threads: int = 2
    read_ahead: int = 4

    def __post_init__(self):
        _check(self)

    def prepare(self) -> None:
        """Builds or downloads the data set where it is missing, and opens it.

        Raises:
          DataError: there is no such data set, config, split or feature, or its folder cannot be written.
        """
        _ = self.episodes

    def iterator(self, *, seed: int, process_index: int = 0, process_count: int = 1) -> grain.DatasetIterator:
        """Iterates over this process's rows of the batches, made ahead in background threads.

        `get_state` and `set_state` speak of the batches handed out, not of those made ahead. Batch n depends on the
        seed and n alone: the rows of all processes, one after the other, are those that a single process would get.

        Raises:
          DataError: the split has fewer episodes than asked for, or the rows cannot be dealt out to the processes
            evenly; or, from the iterator, an episode does not fit.
        """
        return self.iterate(self.episodes, seed, process_index, process_count)

    def iterate(
        self, episodes: EpisodeSource, seed: int, process_index: int = 0, process_count: int = 1
    ) -> grain.DatasetIterator:
        """The batches of `iterator`, made of `episodes` in place of `self.episodes`: as many, of the same lengths."""
        schedule = self._schedule(seed, process_index, process_count)
        if len(episodes) == 0 or len(schedule) == 0:
            raise DataError(
                f"{episodes.label} has {len(episodes)} episodes: too few for one batch of "
                f"{self.batch_size} rows in {self.num_epochs} epoch(s). Lower the batch_size of this data "
                "(--config.data.batch_size, --config.eval_data.batch_size)."
            )
        batches = _Batches(episodes, schedule, self._labelled)
        options = grain.ReadOptions(
            num_threads=self.read_threads, prefetch_buffer_size=max(self.read_ahead, self.read_threads)
        )
        return iter(grain.MapDataset.source(batches).to_iter_dataset(options))

    def fingerprint(self) -> dict[str, Any]:
        """What a saved position is valid for: the content, and all settings that decide what batch n holds."""
        same_batches = {"data_dir", "cache", "cache_bytes", "read_threads", "read_ahead", "name", "keys", "alignment"}
        # What is off is as if there were no such setting: older checkpoints know of none.
        same_batches |= {name for name in ("skip_short", "reset_share") if not getattr(self, name)}
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in same_batches
        }
        return {
            "name": self._builder.info.full_name,
            "num_episodes": len(self.episodes),
            **self.episodes.contents(),
            "keys": {key: names if isinstance(names, str) else dict(names) for key, names in self.keys.items()},
            **settings,
        }

    def batch_sizes(self) -> list[int]:
        """Rows of a long batch and, where there are any, of a short one, over all processes."""
        schedule = self._schedule(seed=0, process_index=0, process_count=1)
        return sorted({schedule.shape(step)[0] for step in range(2)})

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        return builders.prepare(self.name, self.data_dir)

    @functools.cached_property
    def episodes(self) -> Episodes:
        """The episodes of the split, decoded where they are asked for."""
        # Kept, so that all iterators share one cache.
        cache_bytes = self.cache_bytes if self.cache else 0
        min_length = max(self.length, self.short_length or 1) if self.skip_short else 1
        return Episodes(
            self._builder, self.split, keys=self.keys, cache_bytes=cache_bytes, alignment=self.alignment,
            min_length=min_length,
        )  # fmt: skip

    @functools.cached_property
    def _labelled(self) -> np.ndarray:
        """Whether an episode's actions are shown, bool [episodes]."""
        count = len(self.episodes)
        rank = np.random.default_rng(0).permutation(count)
        return rank >= round(self.unlabelled_share * count)

    def _schedule(self, seed: int, process_index: int, process_count: int) -> Schedule:
        short_length = self.short_length or self.length
        return Schedule(
            num_episodes=len(self.episodes),
            batch_size=self.batch_size,
            length=self.length,
            short_length=short_length,
            short_batch_size=self.short_batch_size or self.batch_size * self.length // short_length,
            long_every=self.long_every if self.short_length else 1,
            independent_share=self.independent_share,
            reset_share=1.0 if self.start == "reset" else self.reset_share,
            shuffle=self.shuffle,
            num_epochs=self.num_epochs,
            seed=seed,
            process_index=process_index,
            process_count=process_count,
        )


@dataclasses.dataclass(frozen=True)
class _Batches:
    """The batches by number: what Grain reads ahead from."""

    episodes: EpisodeSource
    schedule: Schedule
    labelled: np.ndarray

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, step: int) -> Batch:
        plan = self.schedule.plan(step)
        rows = [
            _single_frames(self.episodes, *row) if independent else _clip(self.episodes, *row)
            for *row, independent in zip(*plan, strict=True)
        ]
        batch = _join(self.episodes.label, np.stack, rows)
        labelled = self.labelled[plan.episodes[:, 0]] & ~plan.independent
        if "labelled" in batch:
            labelled = labelled & batch.pop("labelled")[:, 0]
        if "actions" in batch:
            batch["actions"] = jax.tree.map(lambda leaf: _zero_unless(labelled, leaf), batch["actions"])
        if "rewards" in batch:
            batch["rewards"] = batch["rewards"].astype(np.float32)
        if "is_terminal" in batch:
            batch["continues"] = 1 - batch.pop("is_terminal").astype(np.float32)
        for key in PER_EPISODE:
            if key in batch:
                batch[key] = batch[key][:, 0]
        return {**batch, "independent": plan.independent, "labelled": labelled}


def _clip(episodes: EpisodeSource, numbers: np.ndarray, places: np.ndarray) -> Batch:
    """One row: consecutive frames of the episode `numbers[0]`."""
    length, number = len(numbers), int(numbers[0])
    episode = episodes[number]
    available = frames_of(episode)
    if available < length:
        raise DataError(
            f"Episode {number} of {episodes.label} has {available} frames, and clips of {length} are wanted. "
            f"Lower the length of this data (--config.data.length, --config.eval_data.length) to {available} or less, "
            "or leave such episodes out (--config.data.skip_short=true, --config.eval_data.skip_short=true)."
        )
    start = int(places[0] * (available - length + 1))
    return _slice(episode, slice(start, start + length))


def _single_frames(episodes: EpisodeSource, numbers: np.ndarray, places: np.ndarray) -> Batch:
    """One row: a frame each of the episodes `numbers`."""
    frames = []
    for number, place in zip(numbers, places, strict=True):
        episode = episodes.apart(int(number))
        index = int(place * frames_of(episode))
        frames.append(_slice(episode, slice(index, index + 1)))
    return _join(episodes.label, np.concatenate, frames)


def _join(label: str, join: Callable[[Sequence[np.ndarray]], np.ndarray], parts: Sequence[Batch]) -> Batch:
    try:
        return jax.tree.map(lambda *leaves: join(leaves), *parts)
    except ValueError as error:
        shapes = sorted({part["frames"].shape[1:] for part in parts if "frames" in part})
        shown = f" Frames in it are of shape {shapes}." if shapes else ""
        raise DataError(f"The episodes of {label} do not fit into one batch: {error}.{shown}") from error


def _slice(episode: Batch, part: slice) -> Batch:
    row = jax.tree.map(lambda leaf: leaf[part], episode)
    if "is_first" not in row:
        row["is_first"] = np.arange(part.start, part.stop) == 0
    return row


def _zero_unless(keep: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    return np.where(keep.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, np.zeros((), leaf.dtype))


# Settings that are whole numbers, with the least they may be.
_AT_LEAST = {
    "batch_size": 1,
    "length": 1,
    "short_length": 1,
    "short_batch_size": 1,
    "long_every": 1,
    "num_epochs": 1,
    "read_threads": 1,
    "read_ahead": 0,
    "cache_bytes": 0,
}
_MAY_BE_NONE = ("short_length", "short_batch_size", "num_epochs")


def _check(data: TfdsData) -> None:
    """Raises `DataError` for settings that cannot work, whatever the data set."""
    for name, least in _AT_LEAST.items():
        value = getattr(data, name)
        if value is None and name in _MAY_BE_NONE:
            continue
        _check_type(name, value, numbers.Integral, "a whole number")
        if value < least:
            raise DataError(f"{name} must be at least {least}, not {value}.")
    for name, end in (("independent_share", 1.0), ("unlabelled_share", 1.01), ("reset_share", 1.01)):
        value = getattr(data, name)
        _check_type(name, value, numbers.Real, "a number")
        if not 0 <= value < end:
            raise DataError(f"{name} must be a share between 0 and 1 (independent rows: below 1), not {value}.")
    for name in ("skip_short", "shuffle", "cache"):
        _check_type(name, getattr(data, name), bool, "True or False")
    if data.start not in ("any", "reset"):
        raise DataError(f"start must be 'any' or 'reset', not {data.start!r}.")
    if data.start == "reset" and data.reset_share:
        raise DataError(f"with start='reset' all clips start there: leave reset_share at 0, not {data.reset_share}.")
    if data.alignment not in ("before", "after", None):
        raise DataError(f"alignment must be 'before' or 'after', not {data.alignment!r}.")
    if data.short_length is None and data.short_batch_size is not None:
        raise DataError("short_batch_size is set, but without short_length there are no short batches.")
    if data.short_length is not None and data.long_every == 1:
        raise DataError("short_length is set, but with long_every=1 every batch is long.")


def _check_type(name: str, value: Any, kind: type, expected: str) -> None:
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise DataError(f"{name} must be {expected}, not {value!r} ({type(value).__name__}).")
