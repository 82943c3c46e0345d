"""Measures of pictures."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def psnr(mean_squared_error: Float[Array, "..."]) -> Float[Array, "..."]:
    """Peak signal-to-noise ratio in dB of frames in [0, 1]: 10 log10(1 / MSE); infinite for a perfect match."""
    return -10.0 * jnp.log10(mean_squared_error)
