"""What the trainer asks of data: a deterministic source whose position can be saved."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable


class DataIterator(Protocol):
    """Yields batches (nested dicts of numpy arrays) and knows its position."""

    def __next__(self) -> Mapping[str, Any]:
        """The next batch, in arrays that are never written to again; raises StopIteration where the source ends."""

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch that was handed out, as JSON-able data that later batches leave alone."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly after the position `state`."""


@runtime_checkable
class DataSource(Protocol):
    """A data set as the trainer sees it (group `trainer.data`).

    A source whose batches differ in size may have one more method, `batch_sizes() -> Collection[int]`: all numbers of
    rows, over all processes, that a batch may have. What cannot be dealt out evenly is then refused before the start.
    """

    def prepare(self) -> None:
        """Builds or downloads what is missing, with progress; raises `DataError` where it cannot."""

    def iterator(self, *, seed: int, process_index: int = 0, process_count: int = 1) -> DataIterator:
        """A fresh iterator; the same seed gives the same batches, of whose rows every process has an equal share."""

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able description of what a saved position is valid for (name, version, size, batch, lengths …)."""


class FirstBatches:
    """The first batches of a source, kept in memory: over and over, or once.

    Args:
      source: the data set.
      count: batches.
      repeat: start again after the last one.
    """

    def __init__(self, source: DataSource, count: int, *, repeat: bool) -> None:
        self._source, self._count, self._repeat = source, count, repeat

    def prepare(self) -> None:
        """Prepares the source."""
        self._source.prepare()

    def iterator(self, *, seed: int, process_index: int = 0, process_count: int = 1) -> DataIterator:
        """Iterates over this process's share of the first batches."""
        own = self._source.iterator(seed=seed, process_index=process_index, process_count=process_count)
        return _First(own, self._count, self._repeat)

    def fingerprint(self) -> dict[str, Any]:
        """The source's, and how much of it is used."""
        return {**self._source.fingerprint(), "first_batches": self._count}

    def batch_sizes(self) -> Collection[int]:
        """The source's."""
        return batch_sizes(self._source)


def batch_sizes(source: DataSource) -> Collection[int]:
    """All numbers of rows, over all processes, that a batch may have; none where the source does not tell."""
    tell = getattr(source, "batch_sizes", None)
    return () if tell is None else tell()


class _First:
    def __init__(self, iterator: DataIterator, count: int, repeat: bool) -> None:
        self._iterator, self._count, self._repeat = iterator, count, repeat
        self._kept: list[Mapping[str, Any]] = []
        self._position = 0

    def __next__(self) -> Mapping[str, Any]:
        while len(self._kept) < self._count:
            batch = next(self._iterator, None)
            if batch is None:
                break
            self._kept.append(batch)
        if not self._kept or (not self._repeat and self._position >= len(self._kept)):
            raise StopIteration
        batch = self._kept[self._position % len(self._kept)]
        self._position += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"position": self._position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._position = state["position"]
