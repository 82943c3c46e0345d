"""nnx modules as pure functions of a nested dict of arrays: `params = init(make, rng)`, `bind(make, params)(x)`."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx, traverse_util

Params = dict[str, Any]
Module = TypeVar("Module", bound=nnx.Module)


def init(make: Callable[[nnx.Rngs], Module], rng: jax.Array) -> Params:
    """Initial parameters of `make(rngs)` as a nested dict with string keys."""
    state = nnx.state(make(nnx.Rngs(rng)), nnx.Param)
    flat = {tuple(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}
    return traverse_util.unflatten_dict(flat)


def bind(make: Callable[[nnx.Rngs], Module], params: Params) -> Module:
    """The module `make(rngs)` holding `params`.

    Raises:
      KeyError: a parameter of the module is missing in `params`.
    """
    graph, abstract = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    flat = traverse_util.flatten_dict(params)
    state = [(path, leaf.replace(flat[tuple(map(str, path))])) for path, leaf in nnx.to_flat_state(abstract)]
    return nnx.merge(graph, nnx.from_flat_state(state))
