"""Attention over space or time: grouped queries, QK-norm, RoPE and a soft cap on the logits."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from models.rms_norm import RMSNorm


def rope(x: Float[Array, "*lead L K"], positions: Float[Array, "L axes"], base: float) -> Float[Array, "*lead L K"]:
    """Rotates channel pairs of `x` by its positions, so that dot products depend on differences of positions only.

    The K/2 frequencies are dealt out evenly to the axes (RoPE, arXiv:2104.09864; several axes as in arXiv:2403.13298).
    """
    half = x.shape[-1] // 2
    axes = positions.shape[-1]
    per_axis = half // axes
    frequency = np.zeros((axes, half), np.float32)
    for axis in range(axes):
        frequency[axis, axis * per_axis : (axis + 1) * per_axis] = base ** -(np.arange(per_axis) / per_axis)
    angle = jnp.matmul(positions.astype(jnp.float32), frequency, precision="highest")
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def attend(
    q: Float[Array, "*lead H Q K"],
    keys: Sequence[Float[Array, "*lead G L K"]],
    values: Sequence[Float[Array, "*lead G L K"]],
    mask: Bool[Array, "..."] | None,
    soft_cap: float | None,
) -> Float[Array, "*lead H Q K"]:
    """Softmax attention; H query heads share G key-value heads.

    Keys and values may come in several parts of different lengths, the past and the new frames, so that the past need
    not be copied. `mask` (True: may see) broadcasts to [*lead, Q, L] over all of them. The soft cap bounds logits to
    ±soft_cap (Gemma 2, arXiv:2408.00118). Softmax is taken in float32.
    """
    *lead, heads, queries, channels = q.shape
    groups = keys[0].shape[-3]
    q = (q * channels**-0.5).reshape(*lead, groups, -1, channels)  # all products are batches of plain matrices
    if mask is not None:
        mask = jnp.concatenate([mask[..., None, :, :]] * (heads // groups), axis=-2)
    out = _attend(q, tuple(keys), tuple(values), mask, soft_cap)
    return out.reshape(*lead, heads, queries, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q: Float[Array, "*lead G M K"], keys: tuple[Array, ...], values: tuple[Array, ...],
    mask: Bool[Array, "..."] | None, soft_cap: float | None,
) -> Float[Array, "*lead G M K"]:  # fmt: skip
    return _attend_forward(q, keys, values, mask, soft_cap)[0]


def _attend_forward(
    q: Array, keys: tuple[Array, ...], values: tuple[Array, ...], mask: Array | None, soft_cap: float | None
) -> tuple[Array, Any]:
    logits, slope = _with_each("...mk,...lk->...ml", q, keys), None
    if soft_cap is not None:
        bounded = jnp.tanh(logits / soft_cap)
        logits, slope = soft_cap * bounded, 1 - jnp.square(bounded)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1)
    out = _sum_of_each("...ml,...lk->...mk", weights.astype(q.dtype), values).astype(q.dtype)
    return out, (q, keys, values, weights, slope, out)


def _attend_backward(soft_cap: float | None, kept: Any, d_out: Array) -> tuple[Array, Any, Any, None]:
    """A softmax w has the gradient w (dw - Σ w dw), and Σ w dw = out · d_out (arXiv:2205.14135, §B.2)."""
    del soft_cap
    q, keys, values, weights, slope, out = kept
    d_weights = _with_each("...mk,...lk->...ml", d_out, values)
    mean = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1, keepdims=True)
    d_logits = weights * (d_weights - mean)
    d_logits = (d_logits if slope is None else d_logits * slope).astype(q.dtype)
    weights = weights.astype(q.dtype)
    d_q = _sum_of_each("...ml,...lk->...mk", d_logits, keys).astype(q.dtype)
    d_keys = (_product("...ml,...mk->...lk", part, q).astype(q.dtype) for part in _cut(d_logits, keys))
    d_values = (_product("...ml,...mk->...lk", part, d_out).astype(q.dtype) for part in _cut(weights, values))
    return d_q, tuple(d_keys), tuple(d_values), None


_attend.defvjp(_attend_forward, _attend_backward)


def _product(subscripts: str, a: Array, b: Array) -> Array:
    """An einsum that accumulates in float32."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _with_each(subscripts: str, a: Array, parts: tuple[Array, ...]) -> Array:
    products = [_product(subscripts, a, part) for part in parts]
    return products[0] if len(products) == 1 else jnp.concatenate(products, axis=-1)


def _sum_of_each(subscripts: str, a: Array, parts: tuple[Array, ...]) -> Array:
    return sum(_product(subscripts, cut, part) for cut, part in zip(_cut(a, parts), parts, strict=True))


def _cut(a: Array, parts: tuple[Array, ...]) -> list[Array]:
    """The last axis, cut into pieces as long as the parts."""
    return jnp.split(a, np.cumsum([part.shape[-2] for part in parts])[:-1], axis=-1)


def _as_it_is(x: Array) -> Array:
    return x


class Attention(nnx.Module):
    """Projections of one attention layer; who sees whom is the caller's."""

    def __init__(
        self, width: int, *, heads: int, kv_heads: int, head_dim: int, soft_cap: float | None, qk_norm: bool,
        out_scale: float, rngs: nnx.Rngs,
    ):  # fmt: skip
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        out_init = nnx.initializers.variance_scaling(out_scale**2, "fan_in", "truncated_normal")
        self.heads, self.kv_heads, self.soft_cap = heads, kv_heads, soft_cap
        self.q = linear(width, heads * head_dim, kernel_init=init)
        self.k = linear(width, kv_heads * head_dim, kernel_init=init)
        self.v = linear(width, kv_heads * head_dim, kernel_init=init)
        self.out = linear(heads * head_dim, width, kernel_init=out_init)
        self.q_norm = RMSNorm(head_dim, rngs=rngs) if qk_norm else _as_it_is
        self.k_norm = RMSNorm(head_dim, rngs=rngs) if qk_norm else _as_it_is

    def project(
        self, x: Float[Array, "*lead L D"], queries: Float[Array, "*lead Q D"] | None = None
    ) -> tuple[Array, Array, Array]:
        """Queries [*lead, H, Q, K] of `queries` (None: of x), keys and values [*lead, G, L, K] of x; not rotated."""

        def heads_of(linear: nnx.Linear, x: Array, heads: int) -> Array:
            tokens = x.reshape(-1, x.shape[-1])  # one large matrix, as in SwiGLU
            return linear(tokens).reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)

        q = heads_of(self.q, x if queries is None else queries, self.heads)
        k, v = heads_of(self.k, x, self.kv_heads), heads_of(self.v, x, self.kv_heads)
        return self.q_norm(q), self.k_norm(k), v

    def merge(self, y: Float[Array, "*lead H L K"]) -> Float[Array, "*lead L D"]:
        """Joins the heads and projects back to the model width."""
        y = y.swapaxes(-3, -2)
        tokens = y.reshape(-1, y.shape[-2] * y.shape[-1])
        return self.out(tokens).reshape(*y.shape[:-2], -1)
