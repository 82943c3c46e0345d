"""What the trainer itself costs per step: loop, feeding, metrics, callbacks and writers, beside a bare loop."""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.options import Options
from trainer import experiment, program, sharding
from trainer.config import base_config
from trainer.feed import shapes
from trainer.task import LossOutput, Task
from trainer.writers import read_jsonl

ROUNDS = 5
SHORT_STEPS, LONG_STEPS = 2000, 100  # steps per round: of a step that does nothing, and of one of LONG_STEP_S
LONG_STEP_S, TOLERANCE = 0.02, 0.2
LEARNING_RATE = 1e-3
TRIALS, ATTEMPTS = 8, 3  # to find a step that takes as long, and to measure it while it does


class Work(Task):
    """A step of `products` matrix products and ten metrics; only its time matters."""

    def __init__(self, products: int, size: int = 256):
        self.products, self.size = products, size

    def init_params(self, rng: jax.Array, batch: Any) -> Any:
        return {"w": jnp.eye(self.size)}

    def loss(self, params: Any, frozen: Any, batch: Any, *, rng: Any, step: Any, extra: Any, train: bool) -> LossOutput:
        def product(_: Any, x: jax.Array) -> jax.Array:
            return x @ jax.lax.stop_gradient(params["w"])

        x = jax.lax.fori_loop(0, self.products, product, jax.lax.stop_gradient(params["w"]))
        loss = jnp.mean(params["w"]) + 0 * jnp.mean(x) + jnp.mean(batch["x"])
        return LossOutput(loss, {f"metric_{n}": loss * n for n in range(10)}, extra)

    def frames_per_batch(self, batch: Any) -> int:
        return 8


class Zeros:
    """The same batch for ever."""

    def __init__(self) -> None:
        self.batch = {"x": np.zeros((8, 16), np.float32)}

    def prepare(self) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        return {"name": "zeros"}

    def iterator(self, *, seed: int, process_index: int = 0, process_count: int = 1) -> "Zeros":
        return self

    def __next__(self) -> Any:
        return self.batch

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: Any) -> None:
        pass


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Lines for people go to a file."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _bare(products: int, steps: int) -> float:
    """Seconds per step of a loop that does nothing but dispatch."""
    task, batch = Work(products), jax.device_put(Zeros().batch)
    built = program.build(task, optax.sgd(LEARNING_RATE), shapes(batch), mesh=sharding.make_mesh())
    state, metrics = built.step(built.init(jax.random.key(0)), built.frozen, batch)
    jax.block_until_ready(metrics)
    started = time.perf_counter()
    for _ in range(steps):
        state, metrics = built.step(state, built.frozen, batch)
    jax.block_until_ready(metrics)
    return (time.perf_counter() - started) / steps


def _fitted(products: int, steps: int) -> float:
    """Seconds per step of a run with the callbacks and writers of every run, from its first log line to its last."""
    config = base_config()
    config.name, config.steps, config.log_every = "overhead", steps + 50, 50
    config.eval_every = config.checkpoint_every = 0
    config.optimizer.name, config.optimizer.learning_rate = "sgd", LEARNING_RATE  # the same step as the bare one
    config.task = {"target": "benchmarks.trainer_overhead:Work", "products": products}
    config.data = {"target": "benchmarks.trainer_overhead:Zeros"}
    config.compilation_cache = ""
    with tempfile.TemporaryDirectory() as folder, _silent():
        experiment.run(config, folder)
        times = [line["time"] for line in read_jsonl(Path(folder) / "metrics.jsonl")]
    return (times[-1] - times[0]) / steps


def _compare(products: int, steps: int) -> dict[str, float]:
    """Medians over pairs that are taken one after the other, as machines are noisy."""
    pairs = [(_bare(products, steps), _fitted(products, steps)) for _ in range(ROUNDS)]
    return {
        "bare_step_s": statistics.median(bare for bare, _ in pairs),
        "step_s": statistics.median(fitted for _, fitted in pairs),
        "overhead_s": statistics.median(fitted - bare for bare, fitted in pairs),
        "ratio": statistics.median(fitted / bare for bare, fitted in pairs),
    }


def _calibrated() -> int:
    """Products that a bare step of about LONG_STEP_S has, as far as a machine with other work lets that be found."""
    products = 200
    for _ in range(TRIALS):
        bare_s = statistics.median(_bare(products, 20) for _ in range(ROUNDS))
        if _is_long(bare_s):
            break
        products = max(1, round(products * LONG_STEP_S / bare_s))
    return products


def _is_long(bare_s: float) -> bool:
    return abs(bare_s / LONG_STEP_S - 1) <= TOLERANCE


def measure(options: Options) -> dict[str, Any]:
    """Microseconds per step beside a step that does nothing, and the share of a step of 20 ms.

    `calibrated` says whether the long step took as long as that; on a machine that others keep busy it may not, and
    the share is then one of `long_step.bare_step_s`.
    """
    del options
    empty = _compare(0, SHORT_STEPS)
    for _ in range(ATTEMPTS):
        long = _compare(_calibrated(), LONG_STEPS)
        if _is_long(long["bare_step_s"]):
            break
    return {
        "overhead_us": 1e6 * empty["overhead_s"],
        "overhead_share_of_long_step": long["ratio"] - 1,
        "calibrated": _is_long(long["bare_step_s"]),
        "empty_step": empty,
        "long_step": long,
    }
