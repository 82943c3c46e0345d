"""Attention over space or time: grouped queries, QK-norm, RoPE and a soft cap on the logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float


def rope(x: Float[Array, "*lead L G K"], positions: Float[Array, "L axes"], base: float) -> Float[Array, "*lead L G K"]:
    """Rotates channel pairs of `x` by its positions, so that dot products depend on differences of positions only.

    The K/2 frequencies are dealt out evenly to the axes (RoPE, arXiv:2104.09864; several axes as in arXiv:2403.13298).
    """
    half = x.shape[-1] // 2
    axes = positions.shape[-1]
    per_axis = half // axes
    frequency = np.zeros((axes, half), np.float32)
    for axis in range(axes):
        frequency[axis, axis * per_axis : (axis + 1) * per_axis] = base ** -(np.arange(per_axis) / per_axis)
    angle = jnp.matmul(positions.astype(jnp.float32), frequency, precision="highest")[:, None, :]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def attend(
    q: Float[Array, "*lead Q H K"],
    k: Float[Array, "*lead L G K"],
    v: Float[Array, "*lead L G K"],
    mask: Bool[Array, "..."] | None,
    soft_cap: float | None,
) -> Float[Array, "*lead Q H K"]:
    """Softmax attention; H query heads share G key-value heads, `mask` (True: may see) broadcasts to [*lead, Q, L].

    The soft cap bounds logits to ±soft_cap (Gemma 2, arXiv:2408.00118). Softmax is taken in float32.
    """
    groups = k.shape[-2]
    q = q.reshape(*q.shape[:-2], groups, -1, q.shape[-1]) * (q.shape[-1] ** -0.5)
    logits = jnp.einsum("...qgrk,...lgk->...grql", q, k, preferred_element_type=jnp.float32)
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    if mask is not None:
        logits = jnp.where(mask[..., None, None, :, :], logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("...grql,...lgk->...qgrk", weights, v)
    return out.reshape(*out.shape[:-3], -1, out.shape[-1])


class Attention(nnx.Module):
    """Projections of one attention layer; who sees whom is the caller's."""

    def __init__(
        self, width: int, *, heads: int, kv_heads: int, head_dim: int, soft_cap: float | None, out_scale: float,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        out_init = nnx.initializers.variance_scaling(out_scale**2, "fan_in", "truncated_normal")
        self.heads, self.kv_heads, self.soft_cap = heads, kv_heads, soft_cap
        self.q = linear(width, heads * head_dim, kernel_init=init)
        self.k = linear(width, kv_heads * head_dim, kernel_init=init)
        self.v = linear(width, kv_heads * head_dim, kernel_init=init)
        self.out = linear(heads * head_dim, width, kernel_init=out_init)
        self.q_norm = nnx.RMSNorm(head_dim, rngs=rngs)
        self.k_norm = nnx.RMSNorm(head_dim, rngs=rngs)

    def project(self, x: Float[Array, "*lead L D"]) -> tuple[Array, Array, Array]:
        """Queries [*lead, L, H, K], keys and values [*lead, L, G, K], normalised, not rotated."""

        tokens = x.reshape(-1, x.shape[-1])  # one large matrix, as in SwiGLU

        def heads_of(linear: nnx.Linear, heads: int) -> Array:
            return linear(tokens).reshape(*x.shape[:-1], heads, -1)

        q, k = heads_of(self.q, self.heads), heads_of(self.k, self.kv_heads)
        return self.q_norm(q), self.k_norm(k), heads_of(self.v, self.kv_heads)

    def merge(self, y: Float[Array, "*lead L H K"]) -> Float[Array, "*lead L D"]:
        """Joins the heads and projects back to the model width."""
        tokens = y.reshape(-1, y.shape[-2] * y.shape[-1])
        return self.out(tokens).reshape(*y.shape[:-2], -1)
