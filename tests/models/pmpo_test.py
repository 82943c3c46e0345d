import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import distributions
from models.actions import Component
from models.pmpo import pmpo, reinforce

LOG_PROB = jnp.array([-1.0, -2.0, -3.0, -5.0])
ADVANTAGE = jnp.array([2.0, 0.0, 1e-6, -0.5])
KL = jnp.array([0.1, 0.2, 0.3, 0.8])
ONES = jnp.ones(4)


def total(*arrays, **settings):
    return sum(pmpo(*arrays, **settings))


def gradients(*arrays, **settings):
    return jax.grad(lambda *arrays: total(*arrays, **settings), argnums=(0, 1, 2, 3))(*arrays)


def test_the_terms_are_those_of_the_formula_with_the_counts_of_their_sets():
    loss = pmpo(LOG_PROB, ADVANTAGE, KL, ONES, alpha=0.25, beta=0.3)
    assert loss.positive == pytest.approx(-0.25 * (-1 - 2 - 3) / 3)  # an advantage of 0 is in D⁺
    assert loss.negative == pytest.approx(0.75 * -5 / 1)
    assert loss.prior == pytest.approx(0.3 * 1.4 / 4)
    settings = {"alpha": 0.5, "beta": 0.3}
    assert total(LOG_PROB, ADVANTAGE, KL, ONES) == total(LOG_PROB, ADVANTAGE, KL, ONES, **settings)


def test_good_actions_become_likelier_and_bad_ones_unlikelier():
    to_log_prob, to_advantage, to_kl, to_weight = gradients(LOG_PROB, ADVANTAGE, KL, ONES, alpha=0.25, beta=0.3)
    np.testing.assert_allclose(to_log_prob, [-0.25 / 3] * 3 + [0.75], rtol=1e-6)
    np.testing.assert_allclose(to_kl, [0.3 / 4] * 4, rtol=1e-6)
    np.testing.assert_array_equal(to_advantage, np.zeros(4))
    np.testing.assert_array_equal(to_weight, np.zeros(4))


def test_only_the_sign_of_an_advantage_matters():
    loss = pmpo(LOG_PROB, ADVANTAGE, KL, ONES)
    assert pmpo(LOG_PROB, ADVANTAGE * 1e6, KL, ONES) == loss
    assert pmpo(LOG_PROB, -ADVANTAGE, KL, ONES) != loss


@pytest.mark.parametrize(("advantage", "empty"), [(1.0, "negative"), (-1.0, "positive")])
def test_an_empty_set_contributes_nothing(advantage, empty):
    advantages = jnp.full(4, advantage)
    assert getattr(pmpo(LOG_PROB, advantages, KL, ONES), empty) == 0
    gradient = jax.grad(lambda x: getattr(pmpo(x, advantages, KL, ONES), empty))(LOG_PROB)
    np.testing.assert_array_equal(gradient, np.zeros(4))
    assert total(LOG_PROB, advantages, KL, ONES) != 0


def test_without_a_living_state_nothing_is_left():
    assert pmpo(LOG_PROB, ADVANTAGE, KL, jnp.zeros(4)) == (0, 0, 0)
    for gradient in gradients(LOG_PROB, ADVANTAGE, KL, jnp.zeros(4)):
        np.testing.assert_array_equal(gradient, np.zeros(4))


@pytest.mark.parametrize("rubbish", [1e9, -1e9, np.nan])
def test_states_of_weight_zero_are_as_if_they_were_not(rubbish):
    arrays = (LOG_PROB, ADVANTAGE, KL, jnp.array([1.0, 0.5, 0.25, 1.0]))
    longer = [jnp.concatenate([array, jnp.array([rubbish, rubbish])]) for array in arrays[:3]]
    longer.append(jnp.concatenate([arrays[3], jnp.zeros(2)]))
    assert pmpo(*longer) == pmpo(*arrays)
    for ours, theirs in zip(gradients(*longer), gradients(*arrays), strict=True):
        np.testing.assert_array_equal(ours, np.concatenate([theirs, np.zeros(2)]))


def test_weights_count_in_the_sums_and_in_the_numbers():
    # Of weight one half, twice, a state counts as one of weight 1.
    twice = [jnp.concatenate([array, array[:1]]) for array in (LOG_PROB, ADVANTAGE, KL)]
    weight = jnp.array([0.5, 1.0, 1.0, 1.0, 0.5])
    np.testing.assert_allclose(pmpo(*twice, weight), pmpo(LOG_PROB, ADVANTAGE, KL, ONES), rtol=1e-6)
    # Scaled together, weights change nothing.
    np.testing.assert_allclose(pmpo(*twice, weight / 2), pmpo(*twice, weight), rtol=1e-6)


def test_reinforce_weighs_actions_by_their_advantage():
    weight = jnp.array([1.0, 1.0, 0.5, 1.0])
    loss = reinforce(LOG_PROB, ADVANTAGE, KL, weight, beta=0.3)
    assert loss.positive == pytest.approx((1 * 2.0 + 0.5 * 3 * 1e-6) / 3.5)
    assert loss.negative == pytest.approx(-5 * 0.5 / 3.5)
    assert loss.prior == pytest.approx(0.3 * (0.1 + 0.2 + 0.15 + 0.8) / 3.5)
    every = jax.grad(lambda *arrays: sum(reinforce(*arrays)), argnums=(0, 1, 3))(LOG_PROB, ADVANTAGE, KL, weight)
    np.testing.assert_allclose(every[0], -ADVANTAGE * weight / 3.5, rtol=1e-6)
    assert not np.any(every[1])
    assert not np.any(every[2])


def test_any_shape_is_taken_but_only_one():
    square = [array.reshape(2, 2) for array in (LOG_PROB, ADVANTAGE, KL, ONES)]
    assert pmpo(*square) == pmpo(LOG_PROB, ADVANTAGE, KL, ONES)
    with pytest.raises(ValueError, match=r"one shape, got .*'kl': \(4,\), 'weight': \(1,\)"):
        pmpo(LOG_PROB, ADVANTAGE, KL, ONES[:1])


def test_the_prior_pulls_a_policy_out_of_where_the_prior_never_goes():
    # KL(π ‖ prior) punishes π where the prior is improbable; KL(prior ‖ π) would punish it where π misses the prior.
    space = {"move": Component("categorical", 3)}
    policy, prior = ({"move": jnp.log(jnp.array([p]))} for p in ([0.5, 0.25, 0.25], [0.5, 0.499, 0.001]))

    def loss(divergence):
        return pmpo(jnp.zeros(1), jnp.zeros(1), divergence, jnp.ones(1), beta=2.0).prior

    forward = 0.25 * np.log(0.25 / 0.499) + 0.25 * np.log(0.25 / 0.001)
    backward = 0.499 * np.log(0.499 / 0.25) + 0.001 * np.log(0.001 / 0.25)
    assert loss(distributions.kl(policy, prior, space)) == pytest.approx(2 * forward, rel=1e-4)
    assert loss(distributions.kl(prior, policy, space)) == pytest.approx(2 * backward, rel=1e-4)
    assert forward > 3 * backward
