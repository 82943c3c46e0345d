"""`Schedule`: which frames of which episodes make batch n, as a pure function of n.

So the position in a data set is one integer, a saved position is exact, and no batch depends on those before it.
"""

import bisect
import dataclasses
import functools
import math
import sys
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from datasets.errors import DataError


class Plan(NamedTuple):
    """A process's rows of one batch, before any episode is read.

    Attributes:
      episodes: the episode that each frame comes from; one per row, or, in independent rows, one per frame.
      places: in [0, 1): where in the episode the row's clip, or the independent frame, lies.
      independent: the rows of unrelated single frames.
    """

    episodes: Int[np.ndarray, "B T"]
    places: Float[np.ndarray, "B T"]
    independent: Bool[np.ndarray, "B"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The batches of a data set, and a process's share of them.

    Every epoch shows each episode in one clip, in a new order. All processes have the same plan, and each takes an
    equal, contiguous share of the rows of every batch: batch n is the same, whatever the number of processes.

    Attributes:
      num_episodes: in the whole split.
      batch_size: rows of a long batch, over all processes.
      length: frames of a row of a long batch.
      short_batch_size: rows of a short batch, over all processes.
      short_length: frames of a row of a short batch.
      long_every: of so many batches the first is long, the others are short.
      independent_share: the share of rows of unrelated single frames; exact over time.
      reset_share: the share of clips, by chance, that start at their episode's first frame; the others start anywhere.
      shuffle: epochs in random order, else in the data set's.
      num_epochs: how often the clips go through the episodes; what does not fill a batch at the end is dropped.
        None: for ever.
      seed: of everything drawn.
      process_index: of this process.
      process_count: in all.

    Raises:
      DataError: the rows cannot be dealt out evenly.
    """

    num_episodes: int
    batch_size: int
    length: int
    short_batch_size: int
    short_length: int
    long_every: int
    independent_share: float
    reset_share: float
    shuffle: bool
    num_epochs: int | None
    seed: int
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        sizes = {"batch_size": self.batch_size, "short_batch_size": self.short_batch_size}
        for name in list(sizes)[: 1 if self.long_every == 1 else 2]:
            if sizes[name] % self.process_count:
                raise DataError(
                    f"{name} = {sizes[name]}, the rows of a batch over all processes, cannot be dealt out evenly to "
                    f"{self.process_count} processes: make --config.data.{name} a multiple of {self.process_count}."
                )

    def shape(self, step: int) -> tuple[int, int]:
        """Rows, over all processes, and frames per row of a batch."""
        if step % self.long_every == 0:
            return self.batch_size, self.length
        return self.short_batch_size, self.short_length

    def __len__(self) -> int:
        """Whole batches in all epochs."""
        if self.num_epochs is None:
            return sys.maxsize
        episodes = self.num_epochs * self.num_episodes
        # clips_before grows with the step: at least by this share of a row, since every batch has a row.
        most = math.ceil((episodes + 1) / (1 - self.independent_share)) + 1
        return bisect.bisect_right(range(1, most), episodes, key=self.clips_before)

    def rows_before(self, step: int) -> int:
        """Rows in the batches 0 … step - 1."""
        long_batches = -(-step // self.long_every)
        return long_batches * self.batch_size + (step - long_batches) * self.short_batch_size

    def clips_before(self, step: int) -> int:
        """Rows in the batches 0 … step - 1 that are clips of one episode."""
        rows = self.rows_before(step)
        return rows - int(rows * self.independent_share)

    def plan(self, step: int) -> Plan:
        """Draws this process's rows of the batch `step`."""
        rows, frames = self.shape(step)
        first_clip = self.clips_before(step)
        clips = self.clips_before(step + 1) - first_clip
        rng = np.random.default_rng((self.seed, 0, step))  # the same in all processes

        independent = rng.permutation(rows) >= clips
        episodes = np.empty((rows, frames), np.int64)
        episodes[~independent] = self._clip_episodes(np.arange(first_clip, first_clip + clips))[:, None]
        for row in np.flatnonzero(independent):
            # As many different episodes as there are.
            drawn = rng.choice(self.num_episodes, min(frames, self.num_episodes), replace=False)
            episodes[row] = np.resize(drawn, frames)
        places = rng.random((rows, frames))
        at_reset = rng.random(rows) < self.reset_share
        places[~independent] = np.where(at_reset, 0.0, places[:, 0])[~independent, None]
        share = rows // self.process_count
        own = slice(self.process_index * share, (self.process_index + 1) * share)
        return Plan(episodes[own], places[own], independent[own])

    def _clip_episodes(self, clips: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
        """The episodes of the clips with these numbers, counted from the first batch on."""
        epochs, positions = np.divmod(clips, self.num_episodes)
        if not self.shuffle:
            return positions
        order = np.empty_like(clips)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            order[now] = _epoch_order(self.seed, int(epoch), self.num_episodes)[positions[now]]
        return order


@functools.lru_cache(maxsize=8)
def _epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, "count"]:
    # One number more than a batch's seed has, so that the two never coincide.
    return np.random.default_rng((seed, 0, epoch, 1)).permutation(count)
