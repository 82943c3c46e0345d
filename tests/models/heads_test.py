import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, generic, normal, same

from models import distributions
from models.actions import action_space
from models.functional import bind, init
from models.heads import ContinueHead, HeadsConfig, PolicyHead, TwoHotHead, ahead, masked_mean, within

SPACE = action_space({"move": {"kind": "categorical", "size": 5}, "keys": {"kind": "binary", "size": 3}})
CONFIG = HeadsConfig(distances=4, hidden=8, layers=1, bins=11, limit=3.0)
WIDTH = 6
FEATURES = normal(0, 2, 3, WIDTH)


def policy(rngs):
    return PolicyHead(WIDTH, SPACE, CONFIG, rngs=rngs)


def reward(rngs):
    return TwoHotHead(WIDTH, CONFIG, rngs=rngs)


def goes_on(rngs):
    return ContinueHead(WIDTH, CONFIG, rngs=rngs)


@pytest.mark.parametrize("distances", [(0, 1, 2), (1, 2, 3), (2,), (0, 5, 9)])
def test_what_lies_ahead(distances):
    frames = 5
    clip = 1.0 + np.arange(2 * frames * 2).reshape(2, frames, 2)
    found, inside = ahead(jnp.asarray(clip), distances), within(frames, distances)
    assert found.shape == (2, frames, len(distances), 2)
    for t in range(frames):
        for index, n in enumerate(distances):
            expected = clip[:, t + n] if t + n < frames else np.zeros((2, 2))
            np.testing.assert_array_equal(found[:, t, index], expected)
            assert inside[t, index] == (t + n < frames)


def test_what_is_masked_reaches_neither_the_mean_nor_its_gradient():
    values, mask = jnp.array([1.0, jnp.nan, 4.0, jnp.inf]), jnp.array([True, False, True, False])
    evaluated = jax.jit(jax.value_and_grad(masked_mean))
    mean, gradient = evaluated(values, mask)
    assert mean == 2.5
    np.testing.assert_array_equal(gradient, [0.5, 0, 0.5, 0])
    mean, gradient = evaluated(values, jnp.zeros(4, bool))
    assert mean == 0
    np.testing.assert_array_equal(gradient, np.zeros(4))
    assert masked_mean(jnp.arange(6.0).reshape(2, 3), jnp.array([[True], [False]])) == 1


def test_a_policy_has_logits_by_component_and_distance():
    params = generic(policy)

    @jax.jit
    def run(params):
        return bind(policy, params)(FEATURES), bind(policy, params).next(FEATURES)

    logits, following = run(params)
    assert {name: array.shape for name, array in logits.items()} == {"keys": (2, 3, 4, 3), "move": (2, 3, 4, 5)}
    kernel = params["head"]["out"]["kernel"].reshape(-1, 4, 8)
    first = {**params, "head": {**params["head"], "out": {**params["head"]["out"]}}}
    first["head"]["out"]["kernel"] = kernel.at[:, 0].add(1.0).reshape(-1, 32)
    changed, _ = run(first)
    for name in SPACE:
        assert same(following[name], logits[name][..., 0, :])
        assert not same(changed[name][..., 0, :], logits[name][..., 0, :])
        assert same(changed[name][..., 1:, :], logits[name][..., 1:, :])
        assert len(np.unique(np.asarray(logits[name]).round(5))) == logits[name].size  # no two share an output


def test_actions_of_a_mixed_space_can_be_drawn_and_scored():
    params = generic(policy)

    @jax.jit
    def act_and_score(key):
        head = bind(policy, params)
        actions = distributions.sample(key, head.next(FEATURES), SPACE)
        later = {name: ahead(array, (1, 2, 3, 4)) for name, array in actions.items()}
        return actions, later, head(FEATURES), distributions.log_prob(head(FEATURES), later, SPACE)

    actions, later, logits, log_prob = jax.tree.map(np.asarray, act_and_score(jax.random.key(0)))
    assert {name: array.shape for name, array in actions.items()} == {"keys": (2, 3, 3), "move": (2, 3)}
    assert log_prob.shape == (2, 3, 4)
    move, keys, taken = logits["move"][1, 0, 1], logits["keys"][1, 0, 1], later["keys"][1, 0, 1]
    expected = move[later["move"][1, 0, 1]] - np.log(np.exp(move).sum())
    expected -= np.log1p(np.exp(np.where(taken, -keys, keys))).sum()
    np.testing.assert_allclose(log_prob[1, 0, 1], expected, rtol=1e-5)


def test_features_may_have_any_leading_shape():
    for make in (policy, reward, goes_on):
        run = jax.jit(lambda features, make=make: bind(make, generic(make))(features))
        single, many = run(FEATURES[1, 2]), run(FEATURES)
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(many), strict=True):
            assert_close(a, b[1, 2])


def test_a_reward_is_exactly_zero_at_the_start_and_a_policy_nearly_even():
    @jax.jit
    def start(key):
        logits = bind(policy, init(policy, key))(10 * FEATURES)
        return bind(reward, init(reward, key)).now(FEATURES), logits, distributions.entropy(logits, SPACE)

    rewards, logits, entropy = start(jax.random.key(0))
    assert (np.asarray(rewards) == 0).all()
    np.testing.assert_allclose(entropy, np.log(5) + 3 * np.log(2), atol=0.2)
    assert np.ptp(np.asarray(logits["move"])) > 0


def test_now_is_distance_zero():
    @jax.jit
    def run(features):
        heads = bind(reward, generic(reward)), bind(goes_on, generic(goes_on))
        return [(head(features), head.now(features)) for head in heads]

    (logits, value), (logit, probability) = jax.tree.map(np.asarray, run(FEATURES))
    weights = np.exp(logits[..., 0, :]) / np.exp(logits[..., 0, :]).sum(-1, keepdims=True)
    np.testing.assert_allclose(value, weights @ CONFIG.two_hot.centers, rtol=1e-4, atol=1e-5)
    assert logit.shape == (2, 3, 4)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit[..., 0])), rtol=1e-5)


def test_a_value_has_one_distance():
    make = lambda rngs: TwoHotHead(WIDTH, CONFIG, distances=1, rngs=rngs)  # noqa: E731
    assert jax.eval_shape(lambda: bind(make, generic(make))(FEATURES)).shape == (2, 3, 1, 11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distances": 0}, "heads.distances must be at least 1, got 0"),
        ({"hidden": 0}, "heads.hidden must be at least 1, got 0"),
        ({"layers": 0}, "heads.layers must be at least 1, got 0"),
        ({"bins": 10}, "odd number of bins, at least 3, got 10"),
        ({"limit": 100.0}, "above 0 and at most 80, got 100"),
    ],
)
def test_sizes_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        HeadsConfig(**changes)


def test_a_policy_of_continuous_actions_is_refused():
    space = action_space({"push": {"kind": "continuous", "size": 2}})
    with pytest.raises(ValueError, match="'push' is continuous"):
        init(lambda rngs: PolicyHead(WIDTH, space, CONFIG, rngs=rngs), jax.random.key(0))
