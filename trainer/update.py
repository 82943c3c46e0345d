"""`Update`: from an objective to new parameters, with everything the run's settings say about it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainer.errors import ConfigError
from trainer.state import PyTree, TrainState

PRECISIONS = ("float32", "bfloat16")

# (params, part of the batch, its key, extra) → (loss, (metrics, next extra))
Objective = Callable[[PyTree, Any, jax.Array, PyTree], tuple[jax.Array, tuple[Mapping[str, jax.Array], PyTree]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """What a `Task.train_step` gets: how gradients are computed and applied.

    Attributes:
      tx: the optimiser.
      ema_decay: of the parameters' moving average; None for none.
      accumulate: parts that a batch is computed in, one after the other, to save memory; one update in all.
      gathered: where parameters are put to be computed with, when they are kept in parts (FSDP); None to leave them.
      precision: of activations and matrix products (`float32`, `bfloat16`). Parameters, gradients and the optimiser
        stay float32: an objective sees parameters that were cast, and models compute in the type of their parameters.
    """

    tx: optax.GradientTransformation
    ema_decay: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    gathered: jax.sharding.Sharding | None = None

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ConfigError(f"accumulate = {self.accumulate}: expected 1 or more.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision = {self.precision!r}: expected one of {', '.join(PRECISIONS)}.")

    def gradients(
        self, objective: Objective, params: PyTree, batch: Any, rng: jax.Array, extra: PyTree
    ) -> tuple[PyTree, dict[str, jax.Array], PyTree]:
        """(traced) The gradient of an objective that is a mean over rows, with its metrics and the next `extra`.

        With `accumulate` = k, part i holds the rows i, i + k, … and gets the key `fold_in(rng, i)`; gradients and
        metrics are means over the parts, and `extra` goes from one to the next. Arrays that do not have the batch's
        rows go to every part whole.

        Raises:
          ConfigError: the rows cannot be dealt out evenly.
        """
        learn = jax.value_and_grad(lambda p, *args: objective(self._ready(p), *args), has_aux=True)
        if self.accumulate == 1:
            (loss, (metrics, extra)), grads = learn(params, batch, rng, extra)
            return _of_finite(loss, grads), {"loss": loss, **metrics}, extra
        parts, whole = self._deal(batch)

        def add(carry: Any, part: Any) -> Any:
            index, rows = part
            rows = jax.tree.unflatten(whole[1], [r if w is None else w for r, w in zip(rows, whole[0], strict=True)])
            (loss, (metrics, extra)), grads = learn(params, rows, jax.random.fold_in(rng, index), carry[1])
            return (jax.tree.map(jnp.add, carry[0], grads), extra), {"loss": loss, **metrics}

        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, extra), metrics = jax.lax.scan(add, (zeros, extra), (jnp.arange(self.accumulate), parts))
        means = {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
        grads = jax.tree.map(lambda g: g / self.accumulate, total)
        return _of_finite(means["loss"], grads), means, extra

    def _ready(self, params: PyTree) -> PyTree:
        """Parameters to compute with. Left in parts, XLA would rather gather the activations, which are far larger."""
        params = cast(params, self.precision)
        return params if self.gathered is None else jax.lax.with_sharding_constraint(params, self.gathered)

    def _deal(self, batch: Any) -> tuple[list[Any], tuple[list[Any], Any]]:
        """The batch's leaves as parts [k, rows / k, …] (None: not dealt out), and those that are not, with the tree."""
        leaves, tree = jax.tree.flatten(batch)
        rows = next((np.shape(leaf)[0] for leaf in leaves if np.ndim(leaf)), 0)
        if rows % self.accumulate or not rows:
            raise ConfigError(
                f"a batch of {rows} rows cannot be computed in accumulate = {self.accumulate} equal parts: "
                f"make the batch size a multiple of {self.accumulate}."
            )
        dealt = [bool(np.ndim(leaf)) and np.shape(leaf)[0] == rows for leaf in leaves]
        parts = [
            leaf.reshape(rows // self.accumulate, self.accumulate, *leaf.shape[1:]).swapaxes(0, 1) if yes else None
            for leaf, yes in zip(leaves, dealt, strict=True)
        ]
        return parts, ([None if yes else leaf for leaf, yes in zip(leaves, dealt, strict=True)], tree)

    def apply(self, state: TrainState, grads: PyTree, extra: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        """(traced) One optimiser update; one that is not finite is counted in `skipped` and changes nothing else.

        The average's decay is warmed up as min(ema_decay, (1 + step) / (10 + step)).

        Returns:
          The next state (step + 1 in either case) and the metrics `grad_norm`, before clipping, and `update_skipped`.
        """
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(updates))
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            if self.ema_decay is None:
                raise ValueError("the state has a moving average of the parameters, but no ema_decay was given")
            step = state.step.astype(jnp.float32)
            decay = jnp.minimum(self.ema_decay, (1 + step) / (10 + step))
            ema = jax.tree.map(lambda e, p: e + (1 - decay).astype(e.dtype) * (p - e), ema, params)
        new = (params, opt_state, ema, extra)
        old = (state.params, state.opt_state, state.ema, state.extra)
        params, opt_state, ema, extra = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        skipped = state.skipped + (~finite).astype(state.skipped.dtype)
        next_state = TrainState(state.step + 1, params, opt_state, ema, extra, state.rng, skipped)
        return next_state, {"grad_norm": grad_norm, "update_skipped": (~finite).astype(jnp.float32)}


def _of_finite(loss: jax.Array, grads: PyTree) -> PyTree:
    """The gradients, and NaN in their place where the loss itself is not finite: `apply` leaves such an update out."""
    finite = jnp.isfinite(loss)
    return jax.tree.map(lambda g: jnp.where(finite, g, jnp.nan), grads)


def cast(tree: PyTree, precision: str) -> PyTree:
    """The tree with float32 arrays in the type `precision`; all others, keys and whole numbers among them, as they are.

    ::

      half = cast(params, "bfloat16")
    """
    if precision == "float32":
        return tree
    return jax.tree.map(lambda x: x.astype(precision) if x.dtype == jnp.float32 else x, tree)
