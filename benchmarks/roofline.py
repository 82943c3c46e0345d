"""The roofline: how long a program would take at the machine's own rates, and how near to that it comes.

FLOPs are those of the traced program's matrix products (`trainer.flops`); bytes are what XLA says that the compiled
program's operations read and write. Both are held against rates that were measured in the same process.
"""

from typing import Any, NamedTuple

import jax
from jax.extend import core

from benchmarks.machine import memory_bytes_per_s
from trainer.device_rate import matmul_flops_per_s
from trainer.flops import inner_jaxprs


class XlaCost(NamedTuple):
    """What XLA counts in a compiled program.

    Attributes:
      flops: all operations, element-wise ones too.
      bytes_moved: read and written by every operation that was not fused into another, also where caches serve them.
    """

    flops: float
    bytes_moved: float


def xla_cost(traced: Any, compiled: Any) -> XlaCost:
    """Counts what a program does, loops as often as they run; XLA itself counts the body of a loop once.

    Bodies are compiled on their own to learn what one turn costs.

    Args:
      traced: `jax.jit(f).trace(…)`, for one device.
      compiled: `traced.lower().compile()`.
    """
    return _plus(_once(compiled), _further_turns(traced.jaxpr, {}))


def _further_turns(jaxpr: Any, bodies: dict[str, XlaCost]) -> XlaCost:
    """What the loops in a jaxpr cost beyond their first turn; `bodies` holds the first turns of those seen before."""
    total = XlaCost(0.0, 0.0)
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name != "scan":
            for inner in inner_jaxprs(equation.params):
                total = _plus(total, _further_turns(inner, bodies))
            continue
        body, turns = equation.params["jaxpr"], equation.params["length"]
        text = str(body)
        if text not in bodies:
            arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in body.in_avals]
            bodies[text] = _once(jax.jit(core.jaxpr_as_fun(body)).lower(*arguments).compile())
        first, inside = bodies[text], _further_turns(body, bodies)
        total = _plus(total, XlaCost(*(turns * (f + i) - f for f, i in zip(first, inside, strict=True))))
    return total


def _once(compiled: Any) -> XlaCost:
    counted = compiled.cost_analysis()
    return XlaCost(counted.get("flops", 0.0), counted.get("bytes accessed", 0.0))


def _plus(a: XlaCost, b: XlaCost) -> XlaCost:
    return XlaCost(a.flops + b.flops, a.bytes_moved + b.bytes_moved)


def roofline(flops: float, cost: XlaCost, step_s: float, precision: str = "float32") -> dict[str, Any]:
    """The line of a step.

    Args:
      flops: of the step's matrix products.
      cost: what XLA counts in it.
      step_s: how long it takes.
      precision: of its products.

    Returns:
      What was counted, the machine's rates, `roofline_step_s` = max(flops / rate, bytes / bandwidth), which of the two
      it is `limited_by`, and `reached` = roofline_step_s / step_s. Above 1: the caches serve most of the bytes.
    """
    rate, bandwidth = matmul_flops_per_s(precision), memory_bytes_per_s()
    limits = {"products": flops / rate, "memory": cost.bytes_moved / bandwidth}
    limited_by = max(limits, key=lambda name: limits[name])
    return {
        "flops": flops,
        "xla_flops": cost.flops,
        "bytes_moved": cost.bytes_moved,
        "matmul_flops_per_s": rate,
        "memory_bytes_per_s": bandwidth,
        "limited_by": limited_by,
        "roofline_step_s": limits[limited_by],
        "reached": limits[limited_by] / step_s,
    }
