"""`TrainState`: everything that training changes, as one donated pytree."""

from typing import Any, NamedTuple

import jax

PyTree = Any


class TrainState(NamedTuple):
    """The state of a run.

    Attributes:
      step: updates done, an int32 scalar; step n means n batches seen.
      params: what the optimiser changes.
      opt_state: the optimiser's state.
      ema: exponential moving average of `params`, or None when it is off.
      extra: the task's own running state (loss scales, target networks …).
      rng: the run's key; the key of a step is `fold_in(rng, step)`.
      skipped: updates that were not applied because they were not finite, an int32 scalar.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    ema: PyTree | None
    extra: PyTree
    rng: jax.Array
    skipped: jax.Array

    @property
    def eval_params(self) -> PyTree:
        """The parameters to evaluate: the moving average where there is one."""
        return self.params if self.ema is None else self.ema
