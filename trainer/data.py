"""What the trainer asks of data: a deterministic source whose position can be saved."""

from collections.abc import Mapping
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
    """A data set as the trainer sees it (group `trainer.data`)."""

    def prepare(self) -> None:
        """Builds or downloads what is missing, with progress; raises `DataError` where it cannot."""

    def iterator(self, *, seed: int, process_index: int = 0, process_count: int = 1) -> DataIterator:
        """A fresh iterator over this process's share; the same seed gives the same batches."""

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able description of what a saved position is valid for (name, version, size, batch, lengths …)."""
