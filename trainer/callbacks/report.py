"""Keeps the run's `report.html` up to date."""

import dataclasses
import datetime
import logging
import math
import platform
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from trainer import run_folder
from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError
from trainer.task import Comparison

_SHARE = 0.02  # of the time may go into reports


@dataclasses.dataclass(kw_only=True)
class Report(Callback):
    """Writes `report.html` after checkpoints and at the end; see `trainer.report.write_report`.

    A report that cannot be written is a line of warning and never ends a run.

    Attributes:
      interval: least seconds between two reports while the run goes on.
    """

    order: int = 200
    everywhere: ClassVar[bool] = False
    interval: float = 60.0

    def __post_init__(self) -> None:
        if not self.interval >= 0:
            raise ConfigError(f"Report: interval={self.interval} must not be negative.")
        self._started: str | None = None
        self._due = -math.inf

    def on_fit_start(self, run: Run) -> None:
        """Notes the time of a new run."""
        self._started = self._started or _now()

    def on_checkpoint(self, run: Run, step: int) -> None:
        """Writes it when it is time; an evaluation of the same step has been written before."""
        ends = run.step >= run.steps or run.stopped is not None
        if not ends and time.monotonic() >= self._due:
            self._write(run, "running")

    def on_exception(self, run: Run, error: BaseException) -> None:
        """Writes it with the error; a run that has come to nothing leaves no trace."""
        try:
            any_results = run_folder.has_results(run.workdir)
        except OSError:
            return
        if any_results:
            self._write(run, "failed", f"{type(error).__name__}: {error}")

    def on_fit_end(self, run: Run) -> None:
        """Writes it with the run's end."""
        if run.step >= run.steps or run.stopped is None:
            self._write(run, "finished")
        else:
            self._write(run, "stopped", run.stopped.reason, resumable=run.stopped.resumable)

    def state(self) -> dict[str, Any]:
        """When the run was started first."""
        return {"started": self._started}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues a run."""
        self._started = state.get("started")

    def _write(self, run: Run, state: str, reason: str = "", resumable: bool = False) -> None:
        if jax.process_index() != 0:
            return
        began = time.monotonic()
        try:
            from trainer import report  # with what it draws with, only when there is something to draw

            about = {"state": state, "reason": reason, "resumable": resumable, "started": self._started, **_about(run)}
            run_folder.write_json(run.workdir / "report.json", about)
            report.write_report(run.workdir)
        except Exception as e:
            why = " ".join(f"{type(e).__name__}: {e}".split())
            logging.getLogger(__name__).warning("The report in %s could not be written: %s", run.workdir, why)
        now = time.monotonic()
        self._due = now + max(self.interval, (now - began) / _SHARE)


def _about(run: Run) -> dict[str, Any]:
    """What the run folder does not hold otherwise, as JSON data."""
    devices = jax.device_count()
    return {
        "written": _now(),
        "step": run.step,
        "steps": run.steps,
        "parameters": _size(run.state.params),
        "frozen": {name: _size(params) for name, params in run.frozen.items()},
        "device": (f"{devices} × " if devices > 1 else "") + jax.devices()[0].device_kind,
        "versions": {"reverie": run_folder.version(), "Python": platform.python_version(), "jax": jax.__version__},
        "comparisons": [_plain(comparison) for comparison in run.comparisons],
    }


def _plain(comparison: Comparison) -> dict[str, Any]:
    references = {k: r if isinstance(r, str) else float(r) for k, r in comparison.references.items()}
    finite = {k: r for k, r in references.items() if isinstance(r, str) or math.isfinite(r)}
    return {**comparison._asdict(), "references": finite}


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
