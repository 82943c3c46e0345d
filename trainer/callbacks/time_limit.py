"""Stops in time for a job that may only last so long."""

import dataclasses
import time
from typing import ClassVar

from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError
from trainer.metrics import StepMetrics


@dataclasses.dataclass(kw_only=True)
class TimeLimit(Callback):
    """Asks for a resumable stop when `seconds` have gone by since the command began.

    Attributes:
      seconds: wall-clock seconds, with everything that the command does: upstream runs that it trains first,
        preparations, compilation, evaluations, saves. What is due at the step on which the time is over, an evaluation
        say, is still done: leave room for it and for the last save.
    """

    watches_upstream: ClassVar[bool] = True
    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ConfigError(f"TimeLimit: seconds={self.seconds} must not be negative.")

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """Looks at the clock."""
        if time.monotonic() >= run.flag.made + self.seconds:
            run.request_stop(f"the time limit of {self.seconds:g} s is over", resumable=True)
