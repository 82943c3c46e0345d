import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.normalization import init_rms, normalize

STEP = jax.jit(lambda terms, rms: normalize(terms, {"a": 1.0, "b": 0.5}, rms))


def run(terms):
    rms, totals = init_rms(("a", "b")), []
    for a, b in terms:
        total, rms = STEP({"a": jnp.float32(a), "b": jnp.float32(b)}, rms)
        totals.append(float(total))
    return totals


@pytest.mark.parametrize(("a", "b"), [(3.0, 1e-4), (1e3, 7.0)])
def test_terms_count_by_their_weights_from_the_first_step_on(a, b):
    assert run([(a, b)] * 5) == pytest.approx([1.5] * 5, rel=1e-4)


def test_in_the_long_run_terms_are_divided_by_their_root_mean_square():
    totals = run([(1.0, 0.0), (7.0, 0.0)] * 400)[-2:]
    assert totals == pytest.approx([1 / 5, 7 / 5], rel=0.02)  # √((1 + 49) / 2) = 5


def test_old_scales_are_forgotten():
    assert run([(100.0, 0.0)] * 20 + [(1.0, 0.0)] * 1500)[-1] == pytest.approx(1.0, rel=1e-2)


def test_a_term_of_zero_is_zero():
    assert run([(0.0, 2.0)] * 3) == pytest.approx([0.5] * 3)


def test_no_gradient_flows_through_the_scale():
    # Through the scale it would cancel at the first step: term / √(term²) is constant.
    rms = init_rms(("a",))
    gradient = jax.grad(lambda x: normalize({"a": x**2}, {"a": 3.0}, rms)[0])(jnp.float32(2.0))
    assert gradient == pytest.approx(3.0 * 2 * 2.0 / 4.0)
    _, averages = normalize({"a": jnp.float32(2.0)}, {"a": 1.0}, rms)
    assert np.sqrt(averages.mean_square["a"] / averages.weight) == pytest.approx(2.0)
