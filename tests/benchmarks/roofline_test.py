import jax
import jax.numpy as jnp
import pytest

from benchmarks import machine, roofline
from benchmarks.roofline import XlaCost, xla_cost

A, B = jnp.ones((64, 32)), jnp.ones((32, 32))
PRODUCT = 2 * 64 * 32 * 32


def cost(function, *args):
    traced = jax.jit(function).trace(*args)
    return xla_cost(traced, traced.lower().compile())


def loop(x, turns):
    return jax.lax.scan(lambda carry, _: (carry @ B, None), x, length=turns)[0]


def test_a_product_costs_its_flops_and_moves_its_matrices():
    counted = cost(jnp.matmul, A, B)
    assert counted.flops == PRODUCT
    assert counted.bytes_moved == 4 * (A.size + B.size + A.size)


def test_loops_count_as_often_as_they_run():
    once, often = cost(lambda x: loop(x, 2), A), cost(lambda x: loop(x, 12), A)
    turn = (often.flops - once.flops) / 10
    assert turn == pytest.approx(PRODUCT, rel=0.01)  # and the counter
    assert (often.bytes_moved - once.bytes_moved) / 10 >= 4 * (A.size + B.size + A.size)


def test_loops_in_loops_count_as_often_as_they_run():
    def nested(x):
        return jax.lax.scan(lambda carry, _: (loop(carry, 3), None), x, length=5)[0]

    assert cost(nested, A).flops == pytest.approx(15 * PRODUCT, rel=0.01)
    assert cost(lambda x: jax.jit(nested)(x) + 1, A).flops == pytest.approx(15 * PRODUCT, rel=0.02)


@pytest.mark.parametrize(("bytes_moved", "limit", "seconds"), [(10.0, "products", 2.0), (400.0, "memory", 4.0)])
def test_the_slower_of_products_and_memory_is_the_limit(monkeypatch, bytes_moved, limit, seconds):
    monkeypatch.setattr(roofline, "matmul_flops_per_s", lambda precision: {"bfloat16": 50.0}[precision])
    monkeypatch.setattr(roofline, "memory_bytes_per_s", lambda: 100.0)
    line = roofline.roofline(100.0, XlaCost(120.0, bytes_moved), 8.0, "bfloat16")
    assert (line["limited_by"], line["roofline_step_s"], line["reached"]) == (limit, seconds, seconds / 8)
    assert (line["flops"], line["xla_flops"], line["bytes_moved"]) == (100, 120, bytes_moved)


def test_a_program_needs_its_arguments_and_what_it_does_not_reuse():
    def compiled(**options):
        return jax.jit(lambda x: x + 1, **options).lower(jnp.zeros(1024)).compile()

    assert machine.program_bytes(compiled()) == 2 * 4096
    assert machine.program_bytes(compiled(donate_argnums=0)) == 4096
