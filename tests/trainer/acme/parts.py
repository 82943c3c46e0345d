"""A callback, a writer, an evaluator, a data source and an optimiser."""

import csv
import itertools
from pathlib import Path

import numpy as np
import optax

from trainer import Callback, Evaluation, Evaluator


class Bell(Callback):
    """Rings a bell every few steps."""

    def __init__(self, every: int = 2):
        super().__init__()
        self.every, self.rung = every, 0

    def on_step_end(self, run, metrics):
        if run.step % self.every == 0:
            self.rung += 1

    def on_log(self, run, scalars):
        scalars["bell/rung"] = float(self.rung)

    def state(self):
        return {"rung": self.rung}

    def load_state(self, state):
        self.rung = state["rung"]


class Notebook:
    """Writes scalars by hand into a notebook."""

    def __init__(self, workdir: Path, name: str = "notebook.csv"):
        self.path = Path(workdir) / name

    def write_scalars(self, step, scalars):
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, value] for name, value in scalars.items())

    def write_images(self, step, images): ...

    def write_videos(self, step, videos): ...

    def write_texts(self, step, texts): ...

    def write_hparams(self, hparams): ...

    def flush(self): ...

    def close(self): ...


class Ruler(Evaluator):
    """Measures how long held-out rows are."""

    def evaluate(self, *, params, frozen, extra, rng, batches, step):
        rows = np.concatenate([np.asarray(batch["x"]) for batch in itertools.islice(batches, 2)])
        return Evaluation({"ruler/length": float(np.linalg.norm(rows, axis=-1).mean())})


class Dice:
    """Throws dice."""

    def __init__(self, sides: int = 6, rows: int = 8):
        self.sides, self.rows = sides, rows

    def prepare(self): ...

    def fingerprint(self):
        return {"sides": self.sides, "rows": self.rows}

    def iterator(self, *, seed, process_index=0, process_count=1):
        return Throws(self, seed)


class Throws:
    """Throws them again and again."""

    def __init__(self, dice, seed):
        self.dice, self.seed, self.count = dice, seed, 0

    def __next__(self):
        self.count += 1
        throw = np.random.default_rng([self.seed, self.count]).integers(1, self.dice.sides + 1, (self.dice.rows, 3))
        return {"x": throw.astype(np.float32) / self.dice.sides}

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


def sign_descent(learning_rate, momentum: float = 0.9):
    """Steps of one size, by the sign of the momentum."""
    return optax.chain(optax.trace(momentum), optax.scale_by_sign(), optax.scale_by_learning_rate(learning_rate))
