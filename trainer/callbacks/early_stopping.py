"""Ends a run whose evaluations no longer improve."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError


@dataclasses.dataclass(kw_only=True)
class EarlyStopping(Callback):
    """Stops for good after `patience` evaluations in a row without a better `metric`.

    Attributes:
      metric: a name from the evaluations, such as `eval/loss`.
      patience: evaluations without improvement until the stop.
      mode: whether lower ("min") or higher ("max") is better.
      min_delta: an improvement is at least by this much.
    """

    metric: str
    patience: int = 5
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if not self.metric:
            raise ConfigError("EarlyStopping: metric is empty; give a name from the evaluations, such as eval/loss.")
        if self.mode not in ("min", "max") or self.patience < 1 or not self.min_delta >= 0:
            raise ConfigError(
                f"EarlyStopping: mode={self.mode!r} must be 'min' or 'max', patience={self.patience} at least 1, "
                f"min_delta={self.min_delta} not negative."
            )
        self._best: float | None = None
        self._waited = 0

    def on_fit_start(self, run: Run) -> None:
        """Stops a run again that has been continued though it had waited long enough."""
        self._stop_where_due(run)

    def on_eval(self, run: Run, scalars: dict[str, float]) -> None:
        """Compares with the best so far; a value that is not finite is no improvement."""
        if self.metric not in scalars:
            return
        value, sign = scalars[self.metric], 1 if self.mode == "min" else -1
        best = math.inf if self._best is None else sign * self._best
        if math.isfinite(value) and sign * value < best - self.min_delta:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        self._stop_where_due(run)

    def _stop_where_due(self, run: Run) -> None:
        if self._waited >= self.patience:
            reason = f"{self.metric} has not improved on {self._best} for {self._waited} evaluations"
            run.request_stop(reason, resumable=False)

    def awaits(self) -> Mapping[str, str]:
        """The metric."""
        return {"metric": self.metric}

    def state(self) -> dict[str, Any]:
        """The best value and the evaluations since, and of what."""
        return {"best": self._best, "waited": self._waited, "metric": self.metric, "mode": self.mode}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues to wait; for another figure, afresh."""
        if state.get("metric", self.metric) == self.metric and state.get("mode", self.mode) == self.mode:
            self._best, self._waited = state["best"], state["waited"]
