"""Metrics on their way from a traced step to a log line: packed, averaged over a window, timed."""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainer.errors import ConfigError

RUN_AHEAD = 3  # steps that the host may be ahead of the device: enough to keep it busy, few enough to stop soon


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """The scalars of one step as one device array, so that a step costs one small transfer and not one per metric.

    Attributes:
      values: float32 [N].
      names: N names.
    """

    values: jax.Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def pack(cls, metrics: Mapping[str, Any]) -> "StepMetrics":
        """(traced) Packs scalars.

        Raises:
          ConfigError: a metric is not a scalar.
        """
        names = tuple(sorted(metrics))
        for name in names:
            if jnp.shape(metrics[name]):
                raise ConfigError(f"metrics must be scalars; {name!r} has the shape {jnp.shape(metrics[name])}.")
        values = [jnp.asarray(metrics[name]).astype(jnp.float32) for name in names]
        return cls(jnp.stack(values) if values else jnp.zeros((0,), jnp.float32), names)


class Window:
    """Means over the steps since the last log line.

    Values are fetched once, when they are asked for, and added one after the other in float64, so that a window that
    was saved half-way and continued gives the same bits as one that was not.

    Attributes:
      steps: steps in the window.
      frames: frames in them.
      flops: floating-point operations of them.
      started: the clock's seconds at its beginning.
    """

    def __init__(self, started: float = 0.0) -> None:
        self._pending: list[StepMetrics] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self.steps = 0
        self.frames = 0
        self.flops = 0.0
        self.started = started

    def add(self, metrics: StepMetrics, frames: int = 0, flops: float = 0.0) -> None:
        """Takes a step's metrics without waiting for the device."""
        self._pending.append(metrics)
        self.steps += 1
        self.frames += frames
        self.flops += flops

    def wait(self, behind: int = 0) -> None:
        """Waits until the device has done all steps of the window but the last `behind`."""
        if len(self._pending) > behind:
            self._pending[-1 - behind].values.block_until_ready()

    def means(self) -> dict[str, float]:
        """The mean of each metric over the steps that had it."""
        self._fetch()
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """JSON-able contents, to continue the window in another process."""
        self._fetch()
        plain = {"steps": self.steps, "frames": self.frames, "flops": self.flops, "started": self.started}
        return {"sums": dict(self._sums), "counts": dict(self._counts), **plain}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues a window from `state()`."""
        self._pending = []
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self.steps, self.frames, self.started = state["steps"], state["frames"], state["started"]
        self.flops = state.get("flops", 0.0)

    def _fetch(self) -> None:
        steps, self._pending = self._pending, []
        if jax.default_backend() != "cpu":
            for step in steps:  # all transfers at once; on CPUs there is nothing to transfer, and asking costs time
                step.values.copy_to_host_async()
        for step in steps:
            add_up(self._sums, self._counts, zip(step.names, np.asarray(step.values).tolist(), strict=True))


def add_up(sums: dict[str, float], counts: dict[str, int], values: Iterable[tuple[str, float]]) -> None:
    """Adds named values to running sums and counts."""
    for name, value in values:
        sums[name] = sums.get(name, 0.0) + value
        counts[name] = counts.get(name, 0) + 1


class Clock:
    """Seconds of training, over all resumes, without evaluations, saves and compilation."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None  # None while it stands still

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + (0.0 if self._started is None else time.perf_counter() - self._started)

    def start(self, before: float = 0.0) -> None:
        """Starts at `before` seconds."""
        self._before, self._started = before, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stands still for what happens inside; may be used within itself."""
        if self._started is None:
            yield
            return
        self._before, self._started = self.seconds, None
        try:
            yield
        finally:
            self._started = time.perf_counter()
