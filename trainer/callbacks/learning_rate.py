"""Logs the learning rate."""

import dataclasses
from collections.abc import Callable
from typing import Any

from trainer.callbacks.base import Callback, Run


@dataclasses.dataclass(kw_only=True)
class LearningRateMonitor(Callback):
    """Adds `train/learning_rate` to every log line: the rate of the last update that was applied.

    Updates that were left out because they were not finite do not move the schedule on. A line before the first applied
    update has no rate.

    Attributes:
      schedule: the learning rate of update 0, 1, …; a config need not give it, it gets the one of `config.optimizer`.
        A task that brings an optimiser with another schedule should leave this callback out.
    """

    order: int = -90
    schedule: Callable[[Any], Any]

    def on_log(self, run: Run, scalars: dict[str, float]) -> None:
        """Adds it; the device has done all steps by now, so asking for `skipped` costs no wait."""
        applied = run.step - int(run.state.skipped)
        if applied > 0:
            scalars["train/learning_rate"] = float(self.schedule(applied - 1))
