"""`Described`: batches of given shapes, all zeros, that take no memory: for dry runs at sizes that no data here has."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Described:
    """A data source for `--mode=dry_run`: frames, actions and what comes with them, without content.

    Attributes:
      batch_size: rows B, over all processes.
      length: frames per row T.
      image: height, width and channels.
      actions: numbers per component, by name: 0 for one of several choices, [B, T], else [B, T, numbers].
    """

    batch_size: int
    length: int
    image: tuple[int, int, int]
    actions: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def prepare(self) -> None:
        """Nothing to do."""

    def fingerprint(self) -> dict[str, Any]:
        """The shapes."""
        return {"name": "described", **dataclasses.asdict(self), "actions": dict(self.actions)}

    def iterator(self, *, seed: int, process_index: int = 0, process_count: int = 1) -> "Described":
        """Itself: every batch is the same."""
        del seed, process_index
        return dataclasses.replace(self, batch_size=self.batch_size // process_count)

    def __next__(self) -> Batch:
        def zeros(dtype: Any, *shape: int) -> np.ndarray:
            return np.broadcast_to(np.zeros((), dtype), shape)

        steps = self.batch_size, self.length
        actions = {name: zeros(np.int32, *steps, *([count] if count else [])) for name, count in self.actions.items()}
        return {
            "frames": zeros(np.uint8, *steps, *self.image),
            **({"actions": actions} if actions else {}),
            "is_first": zeros(bool, *steps),
        }

    def get_state(self) -> dict[str, Any]:
        """No position."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""
