"""Stops in time for a job that may only last so long."""

import dataclasses
import time

from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError
from trainer.metrics import StepMetrics


@dataclasses.dataclass(kw_only=True)
class TimeLimit(Callback):
    """Asks for a resumable stop when this process has trained for `seconds`.

    Attributes:
      seconds: wall-clock seconds since the start of `fit`, evaluations and saves included. What is due at the
        step on which the time is over, an evaluation say, is still done: leave room for it and for the last save.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ConfigError(f"TimeLimit: seconds={self.seconds} must not be negative.")

    def on_fit_start(self, run: Run) -> None:
        """Starts the clock."""
        self._end = time.monotonic() + self.seconds

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """Looks at the clock."""
        if time.monotonic() >= self._end:
            run.request_stop(f"the time limit of {self.seconds:g} s is over", resumable=True)
