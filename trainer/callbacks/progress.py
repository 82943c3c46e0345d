"""How far the run is, how fast, and when it will be done."""

import dataclasses
import sys
import time

from trainer.callbacks.base import Callback, Run
from trainer.metrics import StepMetrics


@dataclasses.dataclass(kw_only=True)
class Progress(Callback):
    """A bar on a terminal; elsewhere a plain line now and then.

    Attributes:
      interval: seconds between two plain lines.
      refresh: seconds between two drawings of the bar.
    """

    order: int = 100
    interval: float = 30.0
    refresh: float = 0.2

    def on_fit_start(self, run: Run) -> None:
        """Says where the run starts."""
        self._tty = sys.stderr.isatty()
        self._drawn = self._logged = time.monotonic()
        self._rate: tuple[float, float] | None = None  # steps/s, frames/s of the last log window
        self._evaluation = ""
        verb = "starts" if run.step == 0 else f"continues at step {run.step:,}"
        _print(f"{run.workdir.name}: {verb}, {run.steps:,} steps")

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """Draws the bar."""
        if run.first_step_s is not None and self._rate is None:
            self._rate = (0.0, 0.0)
            _print(f"first step after {run.first_step_s:.1f} s")
        now = time.monotonic()
        if self._tty and now - self._drawn >= self.refresh:
            self._drawn = now
            done = int(24 * run.step / max(run.steps, 1))
            sys.stderr.write(f"\r\x1b[K[{'█' * done}{'·' * (24 - done)}] {self._line(run)}"[:200])
            sys.stderr.flush()

    def on_log(self, run: Run, scalars: dict[str, float]) -> None:
        """Takes the speed, and prints the plain line when it is time."""
        self._rate = scalars.get("train/steps_per_s", 0.0), scalars.get("train/frames_per_s", 0.0)
        now = time.monotonic()
        if not self._tty and (now - self._logged >= self.interval or run.step >= run.steps):
            self._logged = now
            _print(self._line(run))

    def on_eval(self, run: Run, scalars: dict[str, float]) -> None:
        """Takes the figures."""
        self._evaluation = "  ".join(f"{name} {value:.4g}" for name, value in list(scalars.items())[:3])

    def on_fit_end(self, run: Run) -> None:
        """Says how it ended."""
        if run.stopped:
            hint = "start it again to continue" if run.stopped.resumable else "finished"
            _print(f"{run.workdir.name}: stopped at step {run.step:,}: {run.stopped.reason}; {hint}")
        else:
            _print(f"{run.workdir.name}: done, {run.step:,} steps")

    def _line(self, run: Run) -> str:
        steps_per_s, frames_per_s = self._rate or (0.0, 0.0)
        parts = [f"step {run.step:,}/{run.steps:,}"]
        if steps_per_s:
            parts += [f"{steps_per_s:.3g} steps/s", f"ETA {duration((run.steps - run.step) / steps_per_s)}"]
        if frames_per_s:
            parts.append(f"{frames_per_s:,.0f} frames/s")
        return "  ".join([*parts, self._evaluation] if self._evaluation else parts)


def duration(seconds: float) -> str:
    """Seconds as people say them: `3h05m`, `2m10s`, `8s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def _print(line: str) -> None:
    prefix = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(prefix + line, file=sys.stderr, flush=True)
