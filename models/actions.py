"""Actions of any mix of categorical, binary and continuous components, and their embedding.

Dreamer 4, arXiv:2509.24527, §3.2: every component is embedded, the embeddings are summed with a learned vector;
unlabelled video uses the learned vector alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

KINDS = ("categorical", "binary", "continuous")


@dataclasses.dataclass(frozen=True)
class Component:
    """One component of an action.

    Attributes:
      kind: `categorical` (integers 0 … size-1), `binary` (a vector of `size` bits) or `continuous` (a vector).
      size: categories, bits or channels.
    """

    kind: str
    size: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"an action component is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.size < 1:
            raise ValueError(f"an action component needs a size of at least 1, got {self.size}")


ActionSpace = Mapping[str, Component]


def action_space(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Component]:
    """From plain data: {"direction": {"kind": "categorical", "size": 5}}; empty for video without actions."""
    return {name: Component(**component) for name, component in sorted(config.items())}


def as_components(actions: Any, space: ActionSpace) -> dict[str, Array]:
    """Actions as a mapping by component; a bare array is the one component of a space that has one.

    Raises:
      ValueError: the components, or a component's trailing shape, are not those of `space`.
    """
    if not isinstance(actions, Mapping):
        if len(space) != 1:
            raise ValueError(f"the action space has components {sorted(space)}, the batch has one unnamed array")
        actions = {next(iter(space)): actions}
    if set(actions) != set(space):
        raise ValueError(f"the action space has components {sorted(space)}, the batch has {sorted(actions)}")
    for name, component in space.items():
        array = actions[name]
        vector = array.ndim == 3 and array.shape[-1] == component.size
        if not (array.ndim == 2 if component.kind == "categorical" else vector):
            wanted = "[B, T]" if component.kind == "categorical" else f"[B, T, {component.size}]"
            raise ValueError(f"action {name!r} ({component.kind}) should be {wanted}, got {list(array.shape)}")
    return dict(actions)


def no_action(space: ActionSpace, shape: tuple[int, ...]) -> dict[str, Array]:
    """Placeholders [*shape] or [*shape, size] for frames that no known action led to."""
    return {
        name: jnp.zeros(shape, jnp.int32) if c.kind == "categorical" else jnp.zeros((*shape, c.size))
        for name, c in space.items()
    }


class ActionEmbedding(nnx.Module):
    """Embeds actions into one token."""

    def __init__(self, space: ActionSpace, width: int, *, rngs: nnx.Rngs):
        self.space = dict(space)
        normal = nnx.initializers.normal(0.02)
        self.base = nnx.Param(normal(rngs.params(), (width,)))
        self.components = nnx.Dict(
            {name: nnx.Param(normal(rngs.params(), (component.size, width))) for name, component in space.items()}
        )

    def __call__(self, actions: Any, labelled: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        """The sum of the learned vector and, where `labelled`, the components' embeddings.

        Args:
          actions: a mapping of arrays [B, T] (categorical) or [B, T, size]; ignored where the space is empty.
          labelled: frames whose action is known; false for unlabelled samples and for frames that follow a reset.
        """
        total = jnp.zeros((*labelled.shape, self.base.shape[-1]))
        if self.space:
            for name, array in as_components(actions, self.space).items():
                known = labelled if array.ndim == 2 else labelled[..., None]
                array = jnp.where(known, array, 0)  # whatever stands there, NaN included, reaches no gradient
                total = total + _embed(self.components[name][...], array, self.space[name])
        return self.base[...] + jnp.where(labelled[..., None], total, 0.0)


def _embed(table: Array, array: Array, component: Component) -> Array:
    """Rows of the table by index, or the table's rows weighted by the vector (bits as ±1)."""
    if component.kind == "categorical":
        return jax.nn.one_hot(array, component.size) @ table
    if component.kind == "binary":
        array = 2.0 * array.astype(jnp.float32) - 1.0
    return array.astype(jnp.float32) @ table
