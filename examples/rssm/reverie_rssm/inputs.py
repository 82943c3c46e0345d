"""What a batch says to the recurrent model: actions as vectors, and where it starts anew."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from models.actions import ActionSpace, as_components


def resets(batch: Mapping[str, Any]) -> Bool[Array, "B T"]:
    """Frames without a past: the first of an episode, the first of a clip, and all in rows of unrelated frames."""
    shape = batch["frames"].shape[:2]
    fresh = jnp.broadcast_to(jnp.arange(shape[1]) == 0, shape)
    if "is_first" in batch:
        fresh = fresh | batch["is_first"]
    if "independent" in batch:
        fresh = fresh | batch["independent"][:, None]
    return fresh


def known_actions(batch: Mapping[str, Any]) -> Bool[Array, "B T"]:
    """Frames whose action is known and led there from a frame that was seen."""
    known = ~resets(batch)
    return known & batch["labelled"][:, None] if "labelled" in batch else known


def action_vectors(actions: Any, space: ActionSpace, known: Bool[Array, "B T"]) -> Float[Array, "B T A"]:
    """Categories one-hot, bits as ±1, numbers as they are; zeros where no action is known."""
    parts = []
    for name, array in sorted(as_components(actions, space).items()):
        component = space[name]
        if component.kind == "categorical":
            array = jax.nn.one_hot(array, component.size)
        elif component.kind == "binary":
            array = 2.0 * array - 1.0
        parts.append(jnp.where(known[..., None], array, 0.0))
    return jnp.concatenate(parts, axis=-1).astype(jnp.float32)
