"""Floating-point operations of a traced program: its matrix products and convolutions, as often as loops run them."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def count_flops(jaxpr: Any) -> float:
    """FLOPs (a multiplication and an addition count two) of a jaxpr, as `jax.jit(f).trace(…).jaxpr` gives it.

    Element-wise work does not count, as in the usual definition of utilisation. Of a conditional, the cheapest branch
    counts, what is done in any case; a `while` loop, whose length nobody knows, counts once.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: Any) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2.0 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        channels_out = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(out.shape) * math.prod(kernel.shape) / channels_out
    inner = [count_flops(jaxpr) for jaxpr in inner_jaxprs(parameters)]
    if name == "cond":
        return min(inner, default=0.0)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def inner_jaxprs(parameters: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.Jaxpr | core.ClosedJaxpr):
                yield part
