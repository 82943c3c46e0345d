"""A task, data and further parts that wait or go wrong where a test wants them to.

What a test wants is said in the environment, so that the config of a run stays the same with and without the fault:

- `FAULT_AT=MOMENT`: at that moment the process makes the file `reached` in `FAULT_FOLDER` and waits for the file `go`;
- `FAULT_PACE=SECONDS`: every batch and every file of a checkpoint takes so long.
"""

import hashlib
import json
import os
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trainer.callbacks import Callback
from trainer.task import Evaluation, Evaluator, LossOutput, Task

PACE = float(os.environ.get("FAULT_PACE", "0"))
FOLDER = Path(os.environ.get("FAULT_FOLDER", "."))
PATIENCE = 300.0  # seconds until a process that nobody frees gives up


def moment(name: str) -> None:
    """Waits here if this is the moment that the test has named."""
    if os.environ.get("FAULT_AT") != name:
        return
    (FOLDER / "reached").touch()
    await_file(FOLDER / "go")
    os.environ.pop("FAULT_AT")


def await_file(path: Path) -> None:
    """Waits until a file or folder is there."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {path} in vain")
        time.sleep(0.005)


class SlowDisk:
    """`os.fsync` of the thread that saves: the n-th call is the moment `save:n`."""

    def __init__(self) -> None:
        self._sync, self._calls = os.fsync, 0

    def __call__(self, file) -> None:
        """Waits, then does what `os.fsync` does."""
        if threading.current_thread() is not threading.main_thread():
            self._calls += 1
            moment(f"save:{self._calls}")
            time.sleep(PACE)
        self._sync(file)


if not isinstance(os.fsync, SlowDisk):
    os.fsync = SlowDisk()


class Regression(Task):
    """y = sum of x, with noise from the step's key and a running state, so that a wrong key or batch shows.

    Attributes:
      width: outputs; decides the size of a checkpoint.
      bad_loss: steps (after so many updates) whose loss is not finite.
      bad_gradient: steps whose gradient is not finite, though the loss is.
    """

    def __init__(self, width: int = 4096, bad_loss: tuple[int, ...] = (), bad_gradient: tuple[int, ...] = ()):
        self.width, self.bad_loss, self.bad_gradient = width, tuple(bad_loss), tuple(bad_gradient)

    def setup(self, upstream, example):
        """Takes the runs it builds on."""
        self.upstream = dict(upstream)

    def frozen(self):
        """Their parameters."""
        return {name: run.params for name, run in self.upstream.items()}

    def init_params(self, rng, batch):
        """A matrix."""
        return {"layer": {"w": jax.random.normal(rng, (batch["x"].shape[-1], self.width))}}

    def init_extra(self, params):
        """A counter and a key."""
        return {"seen": jnp.zeros((), jnp.int32), "key": jax.random.key(7)}

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        """The squared error."""
        if train:
            moment("trace")
        w = params["layer"]["w"] + sum(f["layer"]["w"] for f in frozen.values())
        target = batch["x"].sum(-1, keepdims=True) + 0.1 * jax.random.normal(rng, (batch["x"].shape[0], 1))
        loss = jnp.mean(jnp.square(batch["x"] @ w - target))
        metrics = {"n": batch["n"][0].astype(jnp.float32)}
        if train:
            bad = jnp.isin(step, jnp.array([-1, *self.bad_loss]))
            loss *= jnp.where(bad, jnp.nan, 1.0)
            # Adds 0, but the slope of a square root at 0 is infinite.
            bad = jnp.isin(step, jnp.array([-1, *self.bad_gradient]))
            loss += jnp.sqrt(jnp.where(bad, jnp.sum(w) * 0.0, 1.0)) - jnp.where(bad, 0.0, 1.0)
        return LossOutput(loss, metrics, {**extra, "seen": extra["seen"] + 1})


class Slow(Regression):
    """The same with a step that takes seconds to compile."""

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        """The squared error, after many small products that all differ."""
        x = batch["x"]
        for n in range(1, 500 if train else 1):
            x = jnp.tanh(x @ jnp.full((x.shape[-1], n % 7 + 3), 1 / n))
        out = super().loss(params, frozen, batch, rng=rng, step=step, extra=extra, train=train)
        return out._replace(loss=out.loss + 1e-3 * jnp.sum(x))


class Rows:
    """An endless stream whose n-th batch depends on the seed and n alone.

    Attributes:
      held_out: other rows than those to train on.
      bad: batches, counted from 1, that hold a NaN.
    """

    def __init__(self, held_out: bool = False, bad: tuple[int, ...] = ()):
        self.held_out, self.bad = held_out, tuple(bad)

    def prepare(self):
        """Takes as long as the test wants."""
        moment("prepare")

    def fingerprint(self):
        """What decides a batch."""
        return {"held_out": self.held_out, "bad": list(self.bad)}

    def iterator(self, *, seed, process_index=0, process_count=1):
        """From the first batch on, the rows of one process."""
        rows = slice(4 * process_index // process_count, 4 * (process_index + 1) // process_count)
        return _Position(self, seed, rows)


class _Position:
    def __init__(self, source, seed, rows):
        self.source, self.seed, self.rows, self.n = source, seed, rows, 0

    def __next__(self):
        time.sleep(0.0 if self.source.held_out else PACE)
        self.n += 1
        x = np.random.default_rng([self.seed, self.source.held_out, self.n]).normal(size=(4, 3)).astype(np.float32)
        if self.n in self.source.bad:
            x[0, 0] = np.nan
        return {"x": x[self.rows], "n": np.full(4, self.n, np.int32)[self.rows]}

    def get_state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = state["n"]


class Frames(Task):
    """Regresses the mean of real frames; for data from files."""

    def init_params(self, rng, batch):
        """A number."""
        return {"w": jax.random.normal(rng, ())}

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        """The squared error."""
        mean = batch["frames"].astype(jnp.float32).mean() / 255
        return LossOutput(jnp.square(params["w"] - mean), {"mean": mean}, extra)


class Level(Evaluator):
    """A figure with noise from its key; the moment `eval:STEP`. A file `broken` makes it fail."""

    def evaluate(self, *, params, frozen, extra, rng, batches, step):
        """Measures the weights."""
        moment(f"eval:{step}")
        if Path("broken").exists():
            raise ZeroDivisionError("the evaluator is broken")
        noise = float(jax.random.normal(rng, ()))
        return Evaluation({"level/mean": float(jnp.mean(params["layer"]["w"])) + noise})


class Watch(Callback):
    """Writes what happens to `trace.txt` in `FAULT_FOLDER`; the moments `step:N`, before update N.

    At the end the digests of all arrays of the state go to `end.json` of the run folder.
    """

    def _note(self, event: str, step: int) -> None:
        with (FOLDER / "trace.txt").open("a") as f:
            f.write(f"{event} {step}\n")

    def on_fit_start(self, run):
        """Notes it."""
        self._note("start", run.step)

    def on_step_start(self, run):
        """Waits where the test wants it; makes the file `compiling` where the step has to wait for its compilation."""
        if any(thread.name == "compile" for thread in threading.enumerate()):
            (FOLDER / "compiling").touch()
        moment(f"step:{run.step + 1}")

    def on_step_end(self, run, metrics):
        """Notes it."""
        self._note("step", run.step)

    def on_fit_end(self, run):
        """Writes the digests."""
        leaves = jax.tree_util.tree_leaves_with_path(run.state)
        digests = {jax.tree_util.keystr(path): _digest(leaf) for path, leaf in leaves}
        (run.workdir / "end.json").write_text(json.dumps(digests))


def _digest(leaf) -> str:
    data = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return hashlib.sha256(np.asarray(data).tobytes()).hexdigest()


moment("import")
