"""Ends a run whose evaluations no longer improve."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError, near_matches


@dataclasses.dataclass(kw_only=True)
class EarlyStopping(Callback):
    """Stops for good after `patience` evaluations in a row without a better `metric`.

    Attributes:
      metric: a name from the evaluations, such as `eval/loss`.
      patience: evaluations without improvement until the stop.
      mode: whether lower ("min") or higher ("max") is better.
      min_delta: what counts as an improvement.
    """

    metric: str
    patience: int = 5
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max") or self.patience < 1:
            raise ConfigError(
                f"EarlyStopping: mode={self.mode!r} must be 'min' or 'max', patience={self.patience} at least 1."
            )
        self._best: float | None = None
        self._waited = 0

    def on_eval(self, run: Run, scalars: dict[str, float]) -> None:
        """Compares with the best so far; a value that is not a number is no improvement."""
        if self.metric not in scalars:
            return
        value, sign = scalars[self.metric], 1 if self.mode == "min" else -1
        best = math.inf if self._best is None else sign * self._best
        if sign * value < best - self.min_delta:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            reason = f"{self.metric} has not improved on {self._best} for {self._waited} evaluations"
            run.request_stop(reason, resumable=False)

    def on_fit_end(self, run: Run) -> None:
        """Says so when the metric never came."""
        if self._best is None and not self._waited:
            hint = near_matches(self.metric, run.scalars)
            logging.getLogger(__name__).warning("EarlyStopping: no evaluation gave %r. %s", self.metric, hint)

    def state(self) -> dict[str, Any]:
        """The best value and the evaluations since."""
        return {"best": self._best, "waited": self._waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues to wait."""
        self._best, self._waited = state["best"], state["waited"]
