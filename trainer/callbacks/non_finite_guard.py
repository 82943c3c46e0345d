"""Fails a run that keeps producing updates that are not finite."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError, TrainingError


@dataclasses.dataclass(kw_only=True)
class NonFiniteGuard(Callback):
    """Raises after `windows` log windows in a row in which most updates were skipped, and at the end where all were.

    A single update that is not finite is skipped and counted (`train/update_skipped`) and does no harm. For a task
    whose own `train_step` counts no skipped updates, a `train/loss` that is not finite counts in its place.

    Attributes:
      windows: bad log windows in a row until the run fails.
      max_skipped: share of skipped updates above which a window is bad.
    """

    order: int = -100
    windows: int = 3
    max_skipped: float = 0.5

    def __post_init__(self) -> None:
        if self.windows < 1 or not 0 <= self.max_skipped < 1:
            raise ConfigError(
                f"NonFiniteGuard: windows={self.windows} must be at least 1, max_skipped={self.max_skipped} at least 0 "
                "and below 1."
            )
        self._bad = 0
        self._good_checkpoint: int | None = None

    def on_log(self, run: Run, scalars: dict[str, float]) -> None:
        """Counts bad windows.

        Raises:
          TrainingError: there were too many.
        """
        counted = scalars.get("train/update_skipped")
        skipped = counted
        if skipped is None:
            skipped = 0.0 if math.isfinite(scalars.get("train/loss", 0.0)) else 1.0
        self._bad = self._bad + 1 if skipped > self.max_skipped else 0
        self._pin(run)
        never = counted is not None and run.step >= run.steps and int(run.state.skipped) >= run.step
        if self._bad >= self.windows or never:
            good = self._good_checkpoint
            where = "there is none" if good is None else f"step {good} in {run.workdir / 'checkpoints'}"
            what = "the loss since the last log line was not finite"
            if counted is not None:
                what = f"{skipped:.0%} of the updates since the last log line were not finite and not applied"
            raise TrainingError(
                f"At step {run.step}, {what}; log lines like this in a row: {self._bad} "
                f"(loss {scalars.get('train/loss')}). "
                f"Last checkpoint from before: {where}. Lower the learning rate, clip gradients or look at the data."
            )

    def on_checkpoint(self, run: Run, step: int) -> None:
        """Remembers the last checkpoint before the trouble."""
        if not self._bad:
            self._good_checkpoint = step

    def state(self) -> dict[str, Any]:
        """Bad windows so far and the last good checkpoint."""
        return {"bad": self._bad, "good_checkpoint": self._good_checkpoint}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues to count."""
        self._bad, self._good_checkpoint = state["bad"], state["good_checkpoint"]

    def on_fit_start(self, run: Run) -> None:
        """A checkpoint that was saved in good times is itself a good one."""
        if not self._bad and run.saved is not None:
            self._good_checkpoint = run.saved
        self._pin(run)

    def _pin(self, run: Run) -> None:
        """Keeps the good checkpoint as long as there is trouble."""
        if self._good_checkpoint is not None:
            (run.pinned.add if self._bad else run.pinned.discard)(self._good_checkpoint)
