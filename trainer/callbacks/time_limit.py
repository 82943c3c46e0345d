"""Stops in time for a job that may only last so long."""

import dataclasses
import time

from trainer.callbacks.base import Callback, Run
from trainer.metrics import StepMetrics


@dataclasses.dataclass(kw_only=True)
class TimeLimit(Callback):
    """Asks for a resumable stop when this process has trained for `seconds`.

    Attributes:
      seconds: wall-clock seconds since the start of `fit`, evaluations and saves included.
    """

    seconds: float

    def on_fit_start(self, run: Run) -> None:
        """Starts the clock."""
        self._end = time.monotonic() + self.seconds

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """Looks at the clock."""
        if time.monotonic() >= self._end:
            run.request_stop(f"the time limit of {self.seconds:g} s is over", resumable=True)
