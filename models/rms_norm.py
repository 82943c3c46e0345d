"""RMSNorm with a gradient of its own."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.RMSNorm):
    """x / RMS(x) · scale over the last axis (arXiv:1910.07467), in float32.

    The parameters are those of `nnx.RMSNorm`. For the gradient it keeps its input and one number per token, where the
    derivative of the formula keeps three more arrays as large as the input.
    """

    def __call__(self, x: Float[Array, "*lead D"], mask: None = None) -> Float[Array, "*lead D"]:
        """Normalises every token; the result has the dtype of `x` and the scale together."""
        del mask
        scale = self.scale[...]
        return _rms_norm(x.astype(jnp.result_type(x, scale)), scale, self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rms_norm(x: Float[Array, "*lead D"], scale: Float[Array, " D"], epsilon: float) -> Float[Array, "*lead D"]:
    return _forward(x, scale, epsilon)[0]


def _forward(x: Array, scale: Array, epsilon: float) -> tuple[Array, tuple[Array, Array, Array]]:
    exact = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(exact), axis=-1, keepdims=True) + epsilon)
    return (exact * (inverse * scale)).astype(x.dtype), (x, inverse, scale)


def _backward(epsilon: float, kept: tuple[Array, Array, Array], d_out: Array) -> tuple[Array, Array]:
    """With n = x / RMS(x) and g = scale · d_out, the input's gradient is (g - n · mean(g n)) / RMS(x)."""
    del epsilon
    x, inverse, scale = kept
    normed, d_out = x.astype(jnp.float32) * inverse, d_out.astype(jnp.float32)
    d_normed = d_out * scale
    d_x = inverse * (d_normed - normed * jnp.mean(d_normed * normed, axis=-1, keepdims=True))
    d_scale = jnp.sum(d_out * normed, axis=tuple(range(x.ndim - 1)))
    return d_x.astype(x.dtype), d_scale.astype(scale.dtype)


_rms_norm.defvjp(_forward, _backward)
