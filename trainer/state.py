"""`TrainState`: everything that training changes, as one donated pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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


def apply_gradients(
    state: TrainState, grads: PyTree, extra: PyTree, tx: optax.GradientTransformation, ema_decay: float | None = None
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser update; an update that is not finite is counted in `skipped` and otherwise changes nothing.

    The average's decay is warmed up as min(ema_decay, (1 + step) / (10 + step)).

    Returns:
      The next state (step + 1 in either case) and the metrics `grad_norm` and `update_skipped`.
    """
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(updates))
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        if ema_decay is None:
            raise ValueError("the state has a moving average of the parameters, but no ema_decay was given")
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
        ema = jax.tree.map(lambda e, p: e + (1 - decay).astype(e.dtype) * (p - e), ema, params)
    new = (params, opt_state, ema, extra)
    old = (state.params, state.opt_state, state.ema, state.extra)
    params, opt_state, ema, extra = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    skipped = state.skipped + (~finite).astype(state.skipped.dtype)
    next_state = TrainState(state.step + 1, params, opt_state, ema, extra, state.rng, skipped)
    return next_state, {"grad_norm": grad_norm, "update_skipped": (~finite).astype(jnp.float32)}
