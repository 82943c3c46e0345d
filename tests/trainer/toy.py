"""A tiny task and a counting data source."""

import atexit
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainer.callbacks import Callback
from trainer.task import Evaluation, Evaluator, LossOutput, Task
from trainer.trainer import Trainer
from trainer.writers import JsonlWriter

# Every trainer compiles its own functions; most of them are the same.
_CACHE = tempfile.mkdtemp(prefix="jax-cache-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Counter:
    """An endless (or finite) stream whose n-th batch depends on the seed and n alone."""

    def __init__(self, batch=8, long_every=0, length=None, version=1, poison=()):
        self.batch, self.long_every, self.length, self.version, self.poison = batch, long_every, length, version, poison
        self.opened = 0

    def prepare(self):
        pass

    def fingerprint(self):
        return {"name": "counter", "version": self.version, "shape": (self.batch, 3)}

    def iterator(self, *, seed, process_index=0, process_count=1):
        self.opened += 1
        return CounterIterator(self, seed)


class Sized(Counter):
    """Says beforehand which sizes its batches may have."""

    def __init__(self, *sizes, **settings):
        super().__init__(**settings)
        self.sizes = sizes

    def batch_sizes(self):
        return self.sizes


class CounterIterator:
    def __init__(self, source, seed):
        self.source, self.seed, self.n = source, seed, 0

    def __next__(self):
        if self.source.length is not None and self.n >= self.source.length:
            raise StopIteration
        rng = np.random.default_rng([self.seed, self.n])
        self.n += 1
        size = self.source.batch * (2 if self.source.long_every and self.n % self.source.long_every == 0 else 1)
        x = rng.normal(size=(size, 3)).astype(np.float32)
        if self.n in self.source.poison:
            x[0, 0] = np.nan
        return {"x": x, "n": np.full((size,), self.n, np.int32)}

    def get_state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = state["n"]


class Regression(Task):
    """y = x·w with noise from the step's key, so that a wrong key or batch changes the parameters."""

    def __init__(self, width=3):
        self.width = width

    def init_params(self, rng, batch):
        return {"layer": {"w": 0.1 * jax.random.normal(rng, (3, self.width)), "b": {0: jnp.zeros((self.width,))}}}

    def init_extra(self, params):
        return {"seen": jnp.zeros((), jnp.int32), "key": jax.random.key(7)}

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        noise = 0.1 * jax.random.normal(rng, (batch["x"].shape[0], 1))
        target = batch["x"].sum(-1, keepdims=True) + noise
        error = batch["x"] @ params["layer"]["w"] + params["layer"]["b"][0] - target
        extra = {**extra, "seen": extra["seen"] + 1}
        return LossOutput(jnp.mean(error**2), {"n": batch["n"][0]}, extra)

    def frames_per_batch(self, batch):
        return batch["x"].shape[0]


class Picture(Evaluator):
    def evaluate(self, *, params, frozen, extra, rng, batches, step):
        first = next(iter(batches))
        noise = jax.random.normal(rng, ())
        scalars = {"picture/mean": float((first["x"] @ params["layer"]["w"]).mean() + noise)}
        return Evaluation(scalars, {"picture/image": np.full((4, 5, 3), 9, np.uint8)})


@dataclasses.dataclass(kw_only=True)
class StopAt(Callback):
    step: int
    resumable: bool = True

    def on_step_end(self, run, metrics):
        if run.step == self.step:
            run.request_stop("test", self.resumable)


@dataclasses.dataclass(kw_only=True)
class Recorder(Callback):
    name: str = ""
    events: list = dataclasses.field(default_factory=list)

    def _record(self, event, run):
        self.events.append((self.name + event, run.step))

    def on_fit_start(self, run):
        self._record("fit_start", run)

    def on_step_start(self, run):
        self._record("step_start", run)

    def on_step_end(self, run, metrics):
        self._record("step_end", run)

    def on_log(self, run, scalars):
        self._record("log", run)

    def on_eval(self, run, scalars):
        self._record("eval", run)

    def on_checkpoint(self, run, step):
        self._record("checkpoint", run)

    def on_exception(self, run, error):
        self._record("exception", run)

    def on_fit_end(self, run):
        self._record("fit_end", run)


def make_trainer(workdir, **changes) -> Trainer:
    values = dict(
        task=Regression(), data=Counter(long_every=4), eval_data=Counter(version=2), workdir=Path(workdir), steps=25,
        seed=3, optimizer=optax.adam(1e-2), ema_decay=0.9, log_every=7, eval_every=6, checkpoint_every=10,
        eval_batches=2, evaluators={"picture": Picture()}, writers=[JsonlWriter(Path(workdir) / "metrics.jsonl")],
    )  # fmt: skip
    return Trainer(**{**values, **changes})


def lines(workdir):
    """The metrics file without its timings."""
    text = (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8")
    timings = ("time", "train/steps_per_s", "train/frames_per_s", "train/utilization")
    return [[(k, v) for k, v in json.loads(line).items() if k not in timings] for line in text.splitlines()]


def bits(tree):
    """Every leaf as bytes."""
    leaves = jax.tree.leaves(tree)
    data = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]
    return [np.asarray(x).tobytes() for x in data]
