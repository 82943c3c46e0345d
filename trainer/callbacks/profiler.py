"""Looks at a few steps through `jax.profiler`."""

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax

from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError
from trainer.metrics import StepMetrics
from trainer.writers.console import say

REQUEST = "PROFILE"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class Profiler(Callback):
    """Writes a trace of some steps into `profile/` of the run folder, for TensorBoard, XProf or Perfetto.

    Besides the steps from `start` on, it takes those that come after a request: `touch RUN/PROFILE` while the run goes
    on; the file is looked for at log lines and removed. A trace that cannot be taken is a line of warning and never
    ends a run.

    Attributes:
      start: the first step of the trace; 0 for none. A run that is continued behind it does not go back for it.
      steps: how many steps are traced.
    """

    order: int = -80
    start: int = 0
    steps: int = 3

    def __post_init__(self) -> None:
        if self.start < 0 or self.steps < 1:
            raise ConfigError(f"Profiler: start={self.start} must be 0 or more, steps={self.steps} at least 1.")
        self._first = self.start
        self._traced: range | None = None  # the steps of the trace that is being taken
        self._step = contextlib.ExitStack()

    def on_step_start(self, run: Run) -> None:
        """Begins a trace where one is due, and marks the step in it."""
        step = run.step + 1
        if self._traced is None and step == self._first:
            jax.block_until_ready(run.state)  # earlier steps do not belong to it
            with run.clock.paused():
                self._begin(run, range(step, step + self.steps))
        if self._traced is not None:
            self._step.enter_context(jax.profiler.StepTraceAnnotation("train", step_num=step))

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """Ends the trace after its last step, when the device has done it."""
        self._step.close()
        if self._traced is not None and run.step >= self._traced[-1]:
            jax.block_until_ready((run.state, metrics.values))
            with run.clock.paused():
                self._end(run)

    def on_log(self, run: Run, scalars: dict[str, float]) -> None:
        """Takes a request."""
        if jax.process_index() != 0 or self._traced is not None:
            return
        with contextlib.suppress(OSError):
            (run.workdir / REQUEST).unlink()
            self._first = run.step + 1

    def on_exception(self, run: Run, error: BaseException) -> None:
        """Ends the trace as it is."""
        self._step.close()
        self._end(run)

    def on_fit_end(self, run: Run) -> None:
        """Ends the trace as it is, where the run ends first."""
        self._end(run)

    def _begin(self, run: Run, steps: range) -> None:
        if self._try(jax.profiler.start_trace, str(_folder(run))):
            self._traced = steps

    def _end(self, run: Run) -> None:
        steps, self._traced = self._traced, None
        if steps is not None and self._try(jax.profiler.stop_trace):
            last = min(steps[-1], run.step)
            say(f"profile of steps {steps[0]:,} to {last:,}: {_folder(run)}")

    def _try(self, function: Any, *args: Any) -> bool:
        try:
            function(*args)
        except (RuntimeError, OSError) as error:
            _log.warning("Profiler: %s", error)
            return False
        return True


def _folder(run: Run) -> Path:
    return run.workdir / "profile"
