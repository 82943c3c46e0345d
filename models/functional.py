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
      ValueError: a parameter has another shape, or the module does not have it.
    """
    graph, abstract = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    flat = traverse_util.flatten_dict(params)
    state = []
    for path, leaf in nnx.to_flat_state(abstract):
        value = flat.pop(tuple(map(str, path)))
        if value.shape != leaf.shape:
            raise ValueError(f"parameter {'/'.join(map(str, path))} has shape {value.shape}, wanted {leaf.shape}")
        state.append((path, leaf.replace(value)))
    if flat:
        raise ValueError(f"the module has no parameters {sorted('/'.join(path) for path in flat)}")
    return nnx.merge(graph, nnx.from_flat_state(state))
