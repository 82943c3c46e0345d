"""A task, data and further parts, small enough for tests of everything around training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trainer.callbacks import Callback
from trainer.errors import ConfigError
from trainer.task import Evaluation, Evaluator, LossOutput, Task


class Line(Task):
    """Fits y = x w; with an upstream run it fits what that run leaves over.

    `teacher`: a file that training needs; `prepares`: one that it makes of its data.
    """

    def __init__(
        self, width: int = 4, scale: float = 1.0, nested: dict | None = None, teacher: str = "", prepares: str = ""
    ):
        if width < 1:
            raise ValueError(f"width = {width} must be at least 1")
        self.width, self.scale, self.nested, self.teacher = width, scale, {**(nested or {})}, teacher
        self.shown, self.prepares = [], prepares

    def setup(self, upstream, example):
        self.example = example
        self.upstream = dict(upstream)
        for run in upstream.values():
            if run.task.width != self.width:
                raise ConfigError(f"the task has width {self.width}, the run in {run.run} width {run.task.width}")

    def check_batch(self, batch):
        self.shown.append("batch")

    def prepare_data(self, data):
        if self.prepares:
            Path(self.prepares).touch()
        return data

    def warm_start(self, params):
        self.shown.append("params")
        return params

    def frozen(self):
        if self.teacher and not Path(self.teacher).exists():
            raise ConfigError(f"there is no teacher at {self.teacher}")
        return {name: run.params for name, run in self.upstream.items()}

    def init_params(self, rng, batch):
        return {"w": jax.random.normal(rng, (batch["x"].shape[-1], self.width))}

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        w = params["w"] + sum(f["w"] for f in frozen.values())
        loss = jnp.mean((batch["x"] @ w - self.scale) ** 2)
        return LossOutput(loss, {"bias": jnp.mean(batch["x"] @ w) - self.scale}, extra)


class Later(Line):
    """Its annotations are texts, of which one cannot be read here."""

    def __init__(self, width: "int | None" = None, other: "Nobody | None" = None):
        super().__init__(width=width or 4)


class Numbers:
    """Random rows, made from the seed and the position alone."""

    def __init__(self, batch_size: int = 8, width: int = 3, log: str = ""):
        self.batch_size, self.width, self.log = batch_size, width, log

    def prepare(self):
        if self.log:
            with Path(self.log).open("a") as f:
                f.write("prepared\n")

    def iterator(self, *, seed, process_index=0, process_count=1):
        return _Rows(seed, self.batch_size, self.width)

    def fingerprint(self):
        return {"batch_size": self.batch_size, "width": self.width}


class _Rows:
    def __init__(self, seed, batch_size, width):
        self.seed, self.shape, self.position = seed, (batch_size, width), 0

    def __next__(self):
        self.position += 1
        return {"x": np.random.default_rng([self.seed, self.position]).normal(size=self.shape).astype(np.float32)}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


class Absent(Numbers):
    """Data that is not there."""

    def prepare(self):
        error = RuntimeError("no such data set 'absent'; build it with `make data`.")
        error.user_error = True
        raise error


class StopAt(Callback):
    """Asks for a resumable stop at a step, once: a file remembers it."""

    def __init__(self, step: int, marker: str = "stopped"):
        super().__init__()
        self.step, self.marker = step, Path(marker)

    def on_step_end(self, run, metrics):
        if run.step == self.step and not self.marker.exists():
            self.marker.touch()
            run.request_stop("the test says so", resumable=True)


class StopForGood(Callback):
    """Asks for a stop at a step that is not to be continued."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def on_step_end(self, run, metrics):
        if run.step == self.step:
            run.request_stop("it is enough", resumable=False)


class AsksForProfile(Callback):
    """Does what a person does with `touch`."""

    def on_step_end(self, run, metrics):
        if run.step == 1:
            (run.workdir / "PROFILE").touch()


class Constant(Evaluator):
    """Reports a number."""

    def __init__(self, value: float, task: Task | None = None, rows: int = 1):
        self.value, self.task, self.rows = value, task, rows

    def check(self, example):
        if example["x"].shape[0] < self.rows:
            raise ConfigError(f"needs batches of {self.rows} rows, not {example['x'].shape[0]}")

    def evaluate(self, **_):
        return Evaluation(scalars={"constant/value": self.value, "constant/width": self.task.width})


class NoPlugin:
    """Has none of the methods that anything needs."""


not_callable = 3
