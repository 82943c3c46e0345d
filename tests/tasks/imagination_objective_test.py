"""The loss of a rollout, by hand: what counts, what learns from it, and the prior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hand_made import (
    CHOICES,
    DISTANCES,
    LENGTH,
    NUMBERS,
    TWO_HOT,
    story,
    story_rl,
)

from models.imagination import Rollout
from trainer.state import TrainState
from trainer.update import Update

KEY = jax.random.key(0)
DISCOUNT, TRACE, ALPHA, BETA = 0.8, 0.6, 0.3, 0.4
SETTINGS = {"discount": DISCOUNT, "trace": TRACE, "positive_share": ALPHA, "prior_weight": BETA}
ROWS, HORIZON = 3, 6


def noise(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(NUMBERS, *shape)), jnp.float32)


PARAMS = {"policy": {"table": noise(0, DISTANCES, CHOICES)}, "value": {"table": noise(1, 1, TWO_HOT.bins)}}
PRIOR = {"table": noise(2, DISTANCES, CHOICES)}


def rollout(seed=0):
    numbers = np.random.default_rng(seed)
    states = numbers.permutation(NUMBERS)[: ROWS * (HORIZON + 1)].reshape(ROWS, HORIZON + 1)
    return Rollout(
        features=jnp.asarray(states[..., None], jnp.float32),
        actions={"move": jnp.asarray(numbers.integers(0, CHOICES, (ROWS, HORIZON)))},
        rewards=jnp.asarray(numbers.normal(size=(ROWS, HORIZON)), jnp.float32),
        continues=jnp.asarray(numbers.uniform(0.6, 1, (ROWS, HORIZON)), jnp.float32),
        pictures=None,
    )


@functools.cache
def learner(**settings):
    task = story_rl(**SETTINGS, **settings)
    return jax.jit(jax.value_and_grad(task.objective, has_aux=True))


def learn(rollout, params=PARAMS, prior=PRIOR, starts=(1, 1, 1), **settings):
    """The loss, the metrics and the gradient."""
    counts = jnp.asarray(starts, jnp.float32)
    (loss, metrics), gradient = jax.device_get(learner(**settings)(params, prior, rollout, counts))
    return float(loss), metrics, gradient


def softmax(logits):
    logits = np.asarray(logits, np.float64)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def by_hand(rollout, reward_at=0, continue_at=0, value_at=0):
    """The objective, state by state; the offsets say which neighbour is read instead."""
    states = np.asarray(rollout.features[..., 0]).astype(int)
    policy, prior = softmax(PARAMS["policy"]["table"])[:, 0], softmax(PRIOR["table"])[:, 0]
    value = softmax(PARAMS["value"]["table"])[:, 0]
    sums = {name: [0.0, 0.0] for name in ("positive", "negative", "prior", "value")}
    advantages = np.zeros((ROWS, HORIZON))

    def add(name, weight, number):
        sums[name][0] += weight * number
        sums[name][1] += weight

    def at(array, row, i):
        return float(array[row, np.clip(i, 0, array.shape[1] - 1)])

    for row in range(ROWS):
        values = value[states[row]] @ TWO_HOT.centers.astype(np.float64)
        target, targets = values[HORIZON], {}
        for i in reversed(range(HORIZON)):
            following = values[np.clip(i + 1 + value_at, 0, HORIZON)]
            ahead = (1 - TRACE) * following + TRACE * target
            target = at(rollout.rewards, row, i + reward_at)
            target += DISCOUNT * at(rollout.continues, row, i + continue_at) * ahead
            targets[i] = target
        weight = 1.0
        for i in range(HORIZON):
            state, taken = states[row, i], int(rollout.actions["move"][row, i])
            advantages[row, i] = targets[i] - values[i]
            add("positive" if advantages[row, i] >= 0 else "negative", weight, np.log(policy[state, taken]))
            add("prior", weight, np.sum(policy[state] * np.log(policy[state] / prior[state])))
            encoded = np.asarray(TWO_HOT.encode(targets[i]))
            add("value", weight, -np.sum(encoded * np.log(value[state])))
            weight *= at(rollout.continues, row, i + continue_at)
    means = {name: total / count for name, (total, count) in sums.items()}
    terms = {
        "policy": (1 - ALPHA) * means["negative"] - ALPHA * means["positive"],
        "prior": BETA * means["prior"],
        "value": means["value"],
    }
    return terms, advantages


def test_the_objective_is_the_formula_and_no_neighbour_of_it():
    given = rollout()
    loss, metrics, _ = learn(given)
    terms, advantages = by_hand(given)
    assert 0.2 < (advantages >= 0).mean() < 0.8
    assert loss == pytest.approx(sum(terms.values()), rel=1e-4)
    for name, term in terms.items():
        assert metrics[name] == pytest.approx(term, rel=1e-4)
    for wrong in ({"reward_at": 1}, {"reward_at": -1}, {"continue_at": 1}, {"value_at": -1}, {"value_at": 1}):
        assert abs(loss - sum(by_hand(given, **wrong)[0].values())) > 1e-3, wrong
    # All states of it are more likely than not to be reached.
    likely = np.cumprod(np.concatenate([np.ones((ROWS, 1)), given.continues[:, :-1]], axis=1), axis=1) > 0.5
    assert metrics["positive"] == pytest.approx((advantages >= 0)[likely].mean(), rel=1e-4)
    assert metrics["value_mae"] == pytest.approx(np.abs(advantages)[likely].mean(), rel=1e-4)
    assert metrics["imagined_reward"] == pytest.approx(np.asarray(given.rewards)[likely].mean(), rel=1e-4)


def test_nothing_is_learned_from_a_rollout_that_starts_after_the_end():
    given = rollout()
    changed = given._replace(rewards=given.rewards.at[1].add(5.0))
    loss, metrics, gradient = learn(given, starts=(1, 0, 1))
    other_loss, other_metrics, other_gradient = learn(changed, starts=(1, 0, 1))
    assert loss == other_loss != learn(given)[0]
    jax.tree.map(np.testing.assert_array_equal, (metrics, gradient), (other_metrics, other_gradient))
    states = np.asarray(given.features[1, :-1, 0]).astype(int)
    assert not np.abs(gradient["policy"]["table"][states]).any()
    assert learn(changed)[0] != learn(given)[0]


def test_contexts_that_end_with_their_episode_do_not_count():
    task = story_rl(context=4)
    batch = story(np.array([0, 3, LENGTH - 4]))
    assert jax.device_get(task.goes_on(batch)).tolist() == [1, 1, 0]
    del batch["continues"]
    assert jax.device_get(task.goes_on(batch)).tolist() == [1, 1, 1]


def test_a_context_that_ends_with_its_episode_teaches_nothing():
    task, batch = story_rl(PARAMS_OF_HEADS, context=4, **SETTINGS), story(np.array([0, 3, LENGTH - 4]))
    frozen = task.frozen()
    given = jax.jit(task.imagine)(PARAMS, frozen, batch, KEY)
    loss = float(task.learn(PARAMS, frozen, batch, given, KEY)[0])
    counted, every = (
        float(task.objective(PARAMS, frozen["heads"]["policy"], given, jnp.array(starts))[0])
        for starts in ([1.0, 1, 0], [1.0, 1, 1])
    )
    assert loss == pytest.approx(counted, rel=1e-5)
    assert abs(loss - every) > 1e-3


@pytest.mark.parametrize("policy_loss", ["pmpo", "reinforce"])
def test_actions_better_than_expected_become_likelier_and_others_unlikelier(policy_loss):
    given = rollout()
    _, advantages = by_hand(given)
    policy = PARAMS["policy"]
    _, _, gradient = learn(given, prior=policy, policy_loss=policy_loss)  # without a pull toward the prior
    for row, i in np.ndindex(ROWS, HORIZON):
        state, taken = int(given.features[row, i, 0]), int(given.actions["move"][row, i])
        assert np.sign(gradient["policy"]["table"][state, 0, taken]) == -np.sign(advantages[row, i])
    untouched = np.setdiff1d(np.arange(NUMBERS), np.asarray(given.features[:, :-1, 0]))
    for name in ("policy", "value"):
        assert (gradient[name]["table"][untouched] == 0).all()  # the last state is not learned from
    assert (gradient["policy"]["table"][:, 1:] == 0).all()  # nor other distances


def test_reinforce_weighs_states_by_their_advantage():
    given = rollout()
    _, advantages = by_hand(given)
    gradient = learn(given, prior=PARAMS["policy"], policy_loss="reinforce")[2]["policy"]["table"]
    weight = np.cumprod(np.asarray(given.continues), axis=1)
    weight = np.concatenate([np.ones((ROWS, 1)), weight[:, :-1]], axis=1)
    expected = np.zeros_like(gradient)
    for row, i in np.ndindex(ROWS, HORIZON):
        state, taken = int(given.features[row, i, 0]), int(given.actions["move"][row, i])
        rise = np.eye(CHOICES)[taken] - softmax(PARAMS["policy"]["table"][state, 0])
        expected[state, 0] -= weight[row, i] * advantages[row, i] * rise / weight.sum()
    np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_a_termination_ends_everything():
    given = rollout()
    given = given._replace(continues=given.continues.at[:, 2].set(0.0))  # state 3 is the end
    others = rollout(1)
    changed = given._replace(
        rewards=given.rewards.at[:, 3:].set(1e3),
        features=given.features.at[:, 3:].set(others.features[:, 3:]),
        actions={"move": given.actions["move"].at[:, 3:].set(others.actions["move"][:, 3:])},
        continues=given.continues.at[:, 3:].set(0.3),
    )
    loss, metrics, gradient = learn(given)
    other_loss, other_metrics, other_gradient = learn(changed)
    assert (loss, metrics) == (other_loss, other_metrics)
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)
    for alive in (given.rewards.at[:, 2], given.rewards.at[:, 0]):  # the end's own reward does count
        assert learn(given._replace(rewards=alive.add(5.0)))[0] != loss
    without_end = learn(changed._replace(continues=changed.continues.at[:, 2].set(0.9)))
    assert without_end[0] != loss


def test_nothing_is_learned_through_the_rollout():
    batch = story()
    task = story_rl(PARAMS_OF_HEADS, **SETTINGS)
    params = task.warm_start(PARAMS)
    params["policy"] = {"table": params["policy"]["table"] + 0.1 * PRIOR["table"]}

    @jax.jit
    def gradients(params, frozen):
        def whole(params, frozen):
            return task.loss(params, frozen, batch, rng=KEY, step=0, extra=None, train=True).loss

        given = task.imagine(params, frozen, batch, KEY)
        alone = jax.grad(
            lambda params: task.objective(params, frozen["heads"]["policy"], given, jnp.ones(len(given.rewards)))[0]
        )(params)
        return *jax.grad(whole, argnums=(0, 1))(params, frozen), alone

    to_params, to_frozen, alone = jax.device_get(gradients(params, task.frozen()))
    jax.tree.map(np.testing.assert_array_equal, to_params, alone)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(to_params))
    for name in ("reward", "continue"):  # they shape the rollout, through its rewards
        assert (to_frozen["heads"][name]["table"] == 0).all()
    assert to_frozen["tokenizer"]["gain"] == 0


PARAMS_OF_HEADS = {
    "policy": {"table": noise(3, DISTANCES, CHOICES)},
    "reward": {"table": noise(4, DISTANCES, TWO_HOT.bins)},
    "continue": {"table": 2 + noise(5, DISTANCES)},
}


def test_the_prior_is_the_clone_and_stays_it():
    batch, task = story(), story_rl(PARAMS_OF_HEADS, **SETTINGS)
    tx, zero = optax.adam(1e-1), jnp.int32(0)
    start = task.warm_start(PARAMS)
    np.testing.assert_array_equal(start["policy"]["table"], PARAMS_OF_HEADS["policy"]["table"])
    np.testing.assert_array_equal(start["value"]["table"], PARAMS["value"]["table"])
    fresh = story_rl(PARAMS_OF_HEADS, from_clone=False, **SETTINGS).warm_start(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, fresh, PARAMS)
    state = TrainState(zero, start, tx.init(start), None, None, KEY, zero)
    step = jax.jit(lambda state, frozen: task.train_step(state, frozen, batch, Update(tx=tx)))
    divergences = []
    for _ in range(3):
        state, metrics = step(state, task.frozen())
        divergences.append(float(metrics["kl"]))
    assert divergences[0] == 0
    assert divergences[1] > 1e-3
    assert divergences[2] > divergences[1]
    # From the trained policy as the prior it is nothing again.
    heads = task.frozen()["heads"] | {"policy": state.params["policy"]}
    _, metrics = step(state, task.frozen() | {"heads": heads})
    assert float(metrics["kl"]) == 0
    assert float(metrics["prior"]) == 0
    assert int(state.step) == 3


def test_a_fresh_value_learns_before_the_policy_does():
    batch, task = story(), story_rl(PARAMS_OF_HEADS, value_warmup=2, **SETTINGS)
    tx, zero = optax.adam(1e-1), jnp.int32(0)
    start = task.warm_start(PARAMS)
    state = TrainState(zero, start, tx.init(start), None, None, KEY, zero)
    step = jax.jit(lambda state: task.train_step(state, task.frozen(), batch, Update(tx=tx))[0])

    def moved(part, before, after):
        return bool((before.params[part]["table"] != after.params[part]["table"]).any())

    for policy_moves in (False, False, True):
        after = step(state)
        assert moved("value", state, after)
        assert moved("policy", state, after) == policy_moves
        state = after
