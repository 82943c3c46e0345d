"""Which checkpoints of a run are kept."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Best:
    """Which checkpoints are kept for being good.

    Attributes:
      metric: a scalar of the evaluations, such as `eval/loss`.
      mode: whether lower ("min") or higher ("max") is better.
      count: how many are kept; 0 for none.
    """

    metric: str
    mode: Literal["min", "max"]
    count: int

    def figure(self, measured: Mapping[str, Any]) -> float | None:
        """What to compare by, lower is better; None where it was not measured or is not a number."""
        value = measured.get(self.metric)
        if not isinstance(value, int | float) or math.isnan(value):
            return None
        return float(value) if self.mode == "min" else -float(value)

    def ranked(self, figures: Mapping[int, float | None]) -> list[int]:
        """The steps that have a figure, the best first; of equal ones the earlier."""
        return sorted((s for s, f in figures.items() if f is not None), key=lambda s: (figures[s], s))


def kept(
    steps: Collection[int], newest: int, every: int = 0, best: Best | None = None,
    figures: Mapping[int, float | None] | None = None,
) -> set[int]:  # fmt: skip
    """The steps whose checkpoints are kept.

    Args:
      steps: of all checkpoints that can be read.
      newest: so many of the last are kept, at least one.
      every: multiples of it are kept; 0 for none.
      best: which of them are kept for being good.
      figures: `best.figure` by step.
    """
    keep = set(sorted(steps)[-max(newest, 1) :])
    keep |= {step for step in steps if every and step % every == 0}
    if best is not None:
        ranked = best.ranked({step: figure for step, figure in (figures or {}).items() if step in steps})
        keep |= set(ranked[: best.count])
    return keep
