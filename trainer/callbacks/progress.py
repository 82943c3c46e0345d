"""How far the run is, how fast, and when it will be done."""

import dataclasses
import time
from typing import ClassVar

import jax

from trainer.callbacks.bar import Bar, fit_line, is_terminal
from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError
from trainer.metrics import RUN_AHEAD, StepMetrics
from trainer.writers.console import plain, say

_FIGURES = 3  # of evaluations, at most


@dataclasses.dataclass(kw_only=True)
class Progress(Callback):
    """A bar on a terminal; elsewhere a plain line now and then.

    Both tell the step, when the run will be done, steps and frames per second, the share of the device's matrix-product
    rate that the task uses, and the newest figures of the evaluations. Times are of training: evaluations, saves and
    compilation are left out.

    Attributes:
      interval: seconds between two plain lines.
      refresh: seconds between two drawings of the bar.
    """

    order: int = 100
    everywhere: ClassVar[bool] = False
    interval: float = 30.0
    refresh: float = 0.2

    def __post_init__(self) -> None:
        if not (self.interval >= 0 and self.refresh >= 0):
            raise ConfigError(f"Progress: interval={self.interval}, refresh={self.refresh} must not be negative.")
        self._bar: Bar | None = None
        self._shown = False  # several hosts that train together need but one line

    def on_fit_start(self, run: Run) -> None:
        """Says where the run starts."""
        self._shown = jax.process_index() == 0
        self._printed, self._drawn = time.monotonic(), 0.0
        self._begun: tuple[int, float] | None = None  # step and training seconds after the first step
        self._speed = {name: value for name, value in run.scalars.items() if name in _SPEED}
        self._figures = {name: value for name, value in run.scalars.items() if not name.startswith("train/")}
        if self._shown:
            verb = "starts" if run.step == 0 else f"continues at step {run.step:,}"
            say(f"{run.workdir.name}: {verb}, {run.steps:,} steps")
            if is_terminal():
                self._bar = Bar()
                self._bar.open()

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """Draws the bar."""
        if self._begun is None:
            self._begun = run.step, run.clock.seconds
            if self._shown:
                say(f"first step after {duration(run.first_step_s or 0.0)}")
        now = time.monotonic()
        if self._bar and now - self._drawn >= self.refresh:
            self._drawn = now
            self._bar.draw(fit_line(run.step / max(run.steps, 1), self._parts(run), self._bar.columns()))

    def on_log(self, run: Run, scalars: dict[str, float]) -> None:
        """Takes the speed, and prints the plain line when it is time."""
        self._speed = {name: value for name, value in scalars.items() if name in _SPEED}
        now = time.monotonic()
        if self._shown and not self._bar and (now - self._printed >= self.interval or run.step >= run.steps):
            self._printed = now
            say("  ".join(self._parts(run)))

    def on_eval(self, run: Run, scalars: dict[str, float]) -> None:
        """Takes the figures."""
        self._figures.update(scalars)

    def on_exception(self, run: Run, error: BaseException) -> None:
        """Makes room for the message."""
        self._close()

    def on_fit_end(self, run: Run) -> None:
        """Says how it ended."""
        self._close()
        if not self._shown:
            return
        if run.stopped:
            hint = "start it again to continue" if run.stopped.resumable else "finished"
            say(f"{run.workdir.name}: stopped at step {run.step:,}: {run.stopped.reason}; {hint}")
        else:
            say(f"{run.workdir.name}: done, {run.step:,} steps in {duration(run.clock.seconds)} of training")

    def _close(self) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None

    def _parts(self, run: Run) -> list[str]:
        """What there is to say, the most important first."""
        steps_per_s = self._speed.get("train/steps_per_s") or self._first_speed(run)
        parts = [f"step {run.step:,}/{run.steps:,}"]
        if steps_per_s:
            parts += [f"ETA {duration((run.steps - run.step) / steps_per_s)}", f"{steps_per_s:.3g} steps/s"]
        if frames_per_s := self._speed.get("train/frames_per_s"):
            parts.append(f"{frames_per_s:,.0f} frames/s")
        if utilization := self._speed.get("train/utilization"):
            parts.append(f"utilization {utilization:.0%}")
        judged = [comparison.metric for comparison in run.comparisons]
        names = list(dict.fromkeys([*(name for name in judged if name in self._figures), *self._figures]))
        return parts + [plain(f"{name} {self._figures[name]:.4g}") for name in names[:_FIGURES]]

    def _first_speed(self, run: Run) -> float:
        """Steps per second before the first log line tells."""
        step, seconds = self._begun or (run.step, 0.0)
        done = run.step - step - RUN_AHEAD
        return done / max(run.clock.seconds - seconds, 1e-9) if done > 0 else 0.0


_SPEED = ("train/steps_per_s", "train/frames_per_s", "train/utilization")


def duration(seconds: float) -> str:
    """Seconds as people say them: `2 d 04 h`, `1 h 02 min`, `2 min 10 s`, `8 s`, `0.4 s`."""
    if seconds < 0.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
