"""Plugins with one mistake each, of the kind that somebody makes who writes his first."""

import jax.numpy as jnp
import numpy as np
from acme.bare import Bare
from acme.parts import Dice, Throws

from trainer import Callback, Evaluation, Evaluator, LossOutput, Writer


class BareLoss(Bare):
    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        return super().loss(params, frozen, batch, rng=rng, step=step, extra=extra, train=train).loss


class TupleLoss(Bare):
    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        return tuple(super().loss(params, frozen, batch, rng=rng, step=step, extra=extra, train=train))


class LossOfRows(Bare):
    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        error = batch["x"] @ params[0] - 1
        return LossOutput(jnp.mean(error**2, axis=-1), {}, extra)


class WholeLoss(Bare):
    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        return LossOutput(jnp.sum(batch["x"] > 0.5), {}, extra)


class MetricOfRows(Bare):
    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        error = batch["x"] @ params[0] - 1
        return LossOutput(jnp.mean(error**2), {"errors": error}, extra)


class NoExtra(Bare):
    def init_extra(self, params):
        return {"scale": jnp.ones(())}

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        return LossOutput(jnp.mean((batch["x"] @ params[0]) ** 2), {}, {})


class LossWithoutTrain(Bare):
    def loss(self, params, frozen, batch, *, rng, step, extra):
        return LossOutput(jnp.mean((batch["x"] @ params[0]) ** 2), {}, extra)


class LossOfTwo(Bare):
    def loss(self, params, batch, **others):
        return LossOutput(jnp.mean((batch["x"] @ params[0]) ** 2), {}, {})


class OwnOptimizer(Bare):
    def optimizer(self, default):
        return lambda grads: grads


class OwnEvaluators(Bare):
    def evaluators(self):
        return {"mean": lambda batches: {"mean": 1.0}}


class OwnEvaluatorWithoutStep(Bare):
    def evaluators(self):
        return {"mean": WithoutStep()}


class Generator(Dice):
    def iterator(self, *, seed, process_index=0, process_count=1):
        throws = Throws(self, seed)
        return (next(throws) for _ in range(100))


class _Lost(Throws):
    def get_state(self):
        self.count += 0


class LostPosition(Dice):
    def iterator(self, *, seed, process_index=0, process_count=1):
        return _Lost(self, seed)


class _Counted(Throws):
    def get_state(self):
        return {"count": np.int64(self.count)}


class ArrayPosition(Dice):
    def iterator(self, *, seed, process_index=0, process_count=1):
        return _Counted(self, seed)


class _Fixed(Throws):
    def set_state(self):
        self.count = 0


class FixedPosition(Dice):
    def iterator(self, *, seed, process_index=0, process_count=1):
        return _Fixed(self, seed)


class _Lists(Throws):
    def __next__(self):
        return {"x": super().__next__()["x"].tolist()}


class Lists(Dice):
    def iterator(self, *, seed, process_index=0, process_count=1):
        return _Lists(self, seed)


class _Pairs(Throws):
    def __next__(self):
        return (super().__next__()["x"], 1)


class Pairs(Dice):
    def iterator(self, *, seed, process_index=0, process_count=1):
        return _Pairs(self, seed)


class Nowhere(Dice):
    def iterator(self, *, seed, process_index=0, process_count=1):
        pass


class OneProcess(Dice):
    def iterator(self, seed):
        return Throws(self, seed)


class ArrayFingerprint(Dice):
    def fingerprint(self):
        return {"sides": np.arange(self.sides)}


class NoSource:
    def __init__(self, sides):
        self.sides = sides


def gradient_descent(learning_rate):
    return lambda grads: -learning_rate(0) * grads


def demanding(learning_rate, momentum):
    raise AssertionError("called without momentum")


def choosy(learning_rate, momentum: float = 0.5):
    raise ValueError(f"momentum = {momentum} must be below 0")


class WithoutStep(Evaluator):
    def evaluate(self, *, params, frozen, extra, rng, batches):
        return Evaluation({"mean": 1.0})


class ReturnsDict(Evaluator):
    def evaluate(self, *, params, frozen, extra, rng, batches, step):
        return {"mean": 1.0}


class ReturnsRows(Evaluator):
    def evaluate(self, *, params, frozen, extra, rng, batches, step):
        return Evaluation({"mean": np.ones(3)})


class Misspelt(Callback):
    def on_step_ends(self, run, metrics):
        print("done")


class HookOfOne(Callback):
    def on_step_end(self, run):
        print("done")


class StateOfTwo(Callback):
    def load_state(self, run, state):
        print("done")


class Unstepped(Writer):
    def write_scalars(self, scalars):
        print(scalars)


class MisspeltWriter(Writer):
    def write_scalar(self, step, scalars):
        print(scalars)
