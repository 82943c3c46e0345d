import jax
import jax.numpy as jnp
import pytest

from trainer.flops import count_flops

A, B = jnp.zeros((4, 5)), jnp.zeros((5, 6))
ONE = 2 * 4 * 5 * 6


def flops(function, *args):
    return count_flops(jax.jit(function).trace(*args).jaxpr)


def loop(x, length=7):
    return jax.lax.scan(lambda c, _: (c @ jnp.eye(5), None), x, length=length)[0]


def test_products_count_two_per_term():
    assert flops(jnp.matmul, A, B) == ONE
    assert flops(lambda a, b: jnp.einsum("hij,jk->hik", a, b), jnp.zeros((3, 4, 5)), B) == 3 * ONE
    assert flops(lambda a: jnp.tanh(a) + a, A) == 0


def test_a_gradient_costs_twice_more():
    def square(a, b):
        return jnp.sum(jnp.square(a @ b))

    assert flops(square, A, B) == ONE
    assert flops(jax.grad(square, argnums=(0, 1)), A, B) == 3 * ONE


def test_loops_count_as_often_as_they_run():
    once = 2 * 4 * 5 * 5
    assert flops(loop, A) == 7 * once
    assert flops(lambda a: jax.lax.fori_loop(0, 3, lambda i, c: loop(c), a), A) == 21 * once
    assert flops(jax.grad(lambda a: loop(a).sum()), A) == 14 * once  # by `a` alone: one more product each
    assert flops(jax.vmap(loop), jnp.zeros((2, 4, 5))) == 14 * once


def test_calls_conditionals_and_recomputation_are_looked_into():
    once = 2 * 4 * 5 * 5
    assert flops(jax.jit(loop), A) == 7 * once
    assert flops(lambda a: jax.lax.cond(a.sum() > 0, loop, lambda x: x @ jnp.eye(5), a), A) == once
    remat = jax.checkpoint(lambda a: jnp.tanh(a @ jnp.eye(5)))
    assert flops(jax.grad(lambda a: remat(a).sum()), A) >= 2 * once


def test_convolutions_count_their_windows():
    images, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 16))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert flops(convolve, images, kernel) == pytest.approx(2 * 2 * 8 * 8 * 16 * 3 * 3 * 3)
