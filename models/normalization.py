"""Loss terms on one scale: each divided by a running root mean square of itself (Dreamer 4, arXiv:2509.24527, §3)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DECAY = 0.99


class RunningRms(NamedTuple):
    """Running mean of squares of each term, and the weight it has gathered (for the correction of its start)."""

    mean_square: Mapping[str, Float[Array, ""]]
    weight: Float[Array, ""]


def init_rms(terms: tuple[str, ...]) -> RunningRms:
    """The start, with nothing seen."""
    return RunningRms({name: jnp.float32(0) for name in terms}, jnp.float32(0))


def normalize(
    terms: Mapping[str, Float[Array, ""]], weights: Mapping[str, float], rms: RunningRms
) -> tuple[Float[Array, ""], RunningRms]:
    """Σ weight · term / RMS(term), without a gradient through the RMS; the present term counts.

    Returns:
      The sum, and the updated averages.
    """
    weight = DECAY * rms.weight + 1 - DECAY
    squares = {
        name: DECAY * rms.mean_square[name] + (1 - DECAY) * jnp.square(jax.lax.stop_gradient(term))
        for name, term in terms.items()
    }
    total = jnp.float32(0)
    for name, term in terms.items():
        total = total + weights[name] * term / jnp.maximum(jnp.sqrt(squares[name] / weight), 1e-8)
    return total, RunningRms(squares, weight)
