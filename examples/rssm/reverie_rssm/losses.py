"""KL balancing with free bits (Dreamer 3, arXiv:2301.04104, "World model learning")."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def kl(first: Float[Array, "*lead G C"], second: Float[Array, "*lead G C"]) -> Float[Array, "*lead"]:
    """KL(first ‖ second) in nats of log-probabilities, summed over groups."""
    return jnp.sum(jnp.exp(first) * (first - second), axis=(-2, -1))


def balanced_kl(
    posterior: Float[Array, "*lead G C"], prior: Float[Array, "*lead G C"], free: float
) -> tuple[Float[Array, "*lead"], Float[Array, "*lead"]]:
    """The dynamics and the representation loss, each at least `free` nats.

    The first teaches the prior to foresee the posterior, the second the posterior to be foreseeable. Where a
    frame's KL is below `free`, neither has a gradient.
    """
    stop = jax.lax.stop_gradient
    dynamics = jnp.maximum(kl(stop(posterior), prior), free)
    representation = jnp.maximum(kl(posterior, stop(prior)), free)
    return dynamics, representation
