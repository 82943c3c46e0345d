import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from models.returns import alive, lambda_returns

DISCOUNT, TRACE = 0.9, 0.7


def rollout(seed=0, batch=3, horizon=6):
    rng = np.random.default_rng(seed)
    shapes = {"rewards": horizon, "continues": horizon, "values": horizon + 1}
    return {name: jnp.asarray(rng.uniform(size=(batch, length)), jnp.float32) for name, length in shapes.items()}


def returns(trace=TRACE, discount=DISCOUNT, **arrays):
    return np.asarray(jax.jit(lambda arrays: lambda_returns(**arrays, discount=discount, trace=trace))(arrays))


def by_hand(rewards, continues, values, reward_at=0, continue_at=0, value_at=1):
    """The recursion in plain Python; the offsets say which entry a step reads."""
    horizon, result = len(rewards), [values[-1]]
    for i in reversed(range(horizon)):
        reward, continued = rewards[min(i + reward_at, horizon - 1)], continues[min(i + continue_at, horizon - 1)]
        ahead = (1 - TRACE) * values[i + value_at] + TRACE * result[0]
        result.insert(0, reward + DISCOUNT * continued * ahead)
    return result[:-1]


def test_returns_are_the_recursion_and_no_neighbour_of_it():
    arrays = rollout()
    rows = list(
        zip(*(np.asarray(arrays[name], np.float64) for name in ("rewards", "continues", "values")), strict=True)
    )
    ours = returns(**arrays)
    np.testing.assert_allclose(ours, [by_hand(*row) for row in rows], rtol=1e-5)
    for wrong in ({"reward_at": 1}, {"continue_at": 1}, {"value_at": 0}):
        assert np.abs(ours - [by_hand(*row, **wrong) for row in rows]).max() > 0.01


def test_returns_are_those_of_rlax():
    arrays = rollout(1)
    theirs = jax.vmap(rlax.lambda_returns, (0, 0, 0, None))(
        arrays["rewards"], DISCOUNT * arrays["continues"], arrays["values"][:, 1:], TRACE
    )
    np.testing.assert_allclose(returns(**arrays), theirs, rtol=1e-5)


def test_what_comes_after_a_termination_does_not_matter():
    arrays = rollout(2)
    arrays["continues"] = arrays["continues"].at[:, 3].set(0.0)  # state 4 is terminal
    changed = {name: array.at[:, 4:].set(1e6) for name, array in arrays.items()}
    before, after = returns(**arrays), returns(**changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    np.testing.assert_array_equal(before[:, 3], arrays["rewards"][:, 3])  # received on arriving there
    assert (before[:, 4:] != after[:, 4:]).all()
    changed = {**arrays, "values": arrays["values"].at[:, 3].add(1.0)}
    assert (returns(**changed)[:, 2] != before[:, 2]).all()


def test_without_a_trace_only_the_next_value_counts():
    arrays = rollout(3)
    expected = arrays["rewards"] + DISCOUNT * arrays["continues"] * arrays["values"][:, 1:]
    np.testing.assert_allclose(returns(trace=0.0, **arrays), expected, rtol=1e-6)


def test_with_a_full_trace_only_the_last_value_counts():
    arrays = rollout(4, horizon=5)
    changed = {**arrays, "values": arrays["values"].at[:, :-1].set(-7.0)}
    np.testing.assert_array_equal(returns(trace=1.0, **arrays), returns(trace=1.0, **changed))
    arrays["continues"] = jnp.ones((3, 5))
    powers = DISCOUNT ** np.arange(6)
    expected = np.asarray(arrays["rewards"]) @ powers[:5] + powers[5] * np.asarray(arrays["values"][:, -1])
    np.testing.assert_allclose(returns(trace=1.0, **arrays)[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"), [("values", (3, 6)), ("values", (2, 7)), ("continues", (3, 7)), ("rewards", (6,))]
)
def test_shapes_that_do_not_fit_are_told(name, shape):
    arrays = {**rollout(), name: jnp.zeros(shape)}
    with pytest.raises(ValueError, match=r"rewards \[B, H\], continues \[B, H\] and values \[B, H\+1\], got"):
        lambda_returns(**arrays, discount=DISCOUNT, trace=TRACE)


def test_a_state_is_reached_if_all_before_it_went_on():
    np.testing.assert_array_equal(
        alive(jnp.array([[1.0, 0.5, 0.5], [1.0, 0.0, 1.0]])), [[1.0, 1.0, 0.5, 0.25], [1.0, 1.0, 0.0, 0.0]]
    )
