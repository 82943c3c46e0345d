"""RMSNorm's own gradient."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from tiny import assert_close, normal

from models.rms_norm import RMSNorm


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 5, 8)])
def test_values_and_gradients_are_those_of_flax(shape):
    x, wanted, scale = normal(1, *shape), normal(2, *shape), 1 + normal(3, 8) / 2

    def values_and_gradients(norm):
        graph, state = nnx.split(norm)
        state["scale"] = state["scale"].replace(scale)

        def loss(state, x):
            out = nnx.merge(graph, state)(x)
            return jnp.sum(jnp.square(out - wanted)), out

        (d_state, d_x), out = jax.grad(loss, argnums=(0, 1), has_aux=True)(state, x)
        return out, d_x, d_state["scale"][...]

    own, flax = (values_and_gradients(kind(8, rngs=nnx.Rngs(0))) for kind in (RMSNorm, nnx.RMSNorm))
    for ours, theirs in zip(own, flax, strict=True):
        assert_close(ours, theirs, 1e-4)


def test_half_precision_is_normalised_in_single_precision():
    x = (100 * normal(1, 4, 64)).astype(jnp.bfloat16)
    norm = RMSNorm(64, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    out, pull = jax.vjp(norm, x)
    assert out.dtype == pull(out)[0].dtype == jnp.bfloat16
    exact = RMSNorm(64, rngs=nnx.Rngs(0))(x.astype(jnp.float32))
    assert (out == exact.astype(jnp.bfloat16)).all()


def test_a_token_of_zeros_stays_zero():
    norm = RMSNorm(8, rngs=nnx.Rngs(0))
    assert_close(norm(jnp.zeros((2, 8))), jnp.zeros((2, 8)))
    assert jnp.isfinite(jax.grad(lambda x: norm(x).sum())(jnp.zeros((2, 8)))).all()


def test_the_gradient_keeps_the_input_and_a_number_per_token():
    norm, x = RMSNorm(64, rngs=nnx.Rngs(0)), normal(1, 100, 64)
    kept = jax.tree.leaves(jax.vjp(norm, x)[1])
    assert sum(leaf.size for leaf in kept if hasattr(leaf, "size")) <= x.size + len(x) + 64
