import copy
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import generic, shapes
from hand_made import (
    ACTIONS,
    CHOICES,
    DISTANCES,
    LENGTH,
    NUMBERS,
    REWARD,
    SHOWN,
    START,
    TWO_HOT,
    StoryRLTask,
    knowing,
    real_heads,
    run_of,
    story,
    story_heads,
    story_rl,
    told,
)

from datasets.bouncing_square.environment import BouncingSquare
from models.actions import action_space
from models.heads import HeadsConfig
from models.imagination import Moment, Rollout, roll_out
from tasks.control import returns
from tasks.imagination_rl import ImaginationRLTask
from trainer.errors import ConfigError, DataError
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


def test_rollouts_in_the_storys_world_are_the_story():
    task = story_rl(horizon=6, context=4)
    starts = np.array([0, 3, 9, LENGTH - 6])
    batch = story(starts)  # longer than the context: the rest is not used
    params = {"policy": knowing()["policy"], "value": None}

    @jax.jit
    def imagine(batch):
        given = task.imagine(params, task.frozen(), batch, KEY)
        return given, returns(given)

    given, total = jax.device_get(imagine(batch))
    places = starts[:, None] + 3 + np.arange(7)
    for row in range(3):
        np.testing.assert_allclose(given.features[row, :, 0], SHOWN[places[row]], atol=1e-3)
        np.testing.assert_array_equal(given.actions["move"][row], ACTIONS[places[row, 1:]])
        np.testing.assert_allclose(given.rewards[row], REWARD[SHOWN[places[row, 1:]]], rtol=1e-4)
        np.testing.assert_allclose(given.continues[row], 1, atol=1e-6)
    # The fourth context ends two frames before the end of the story.
    np.testing.assert_allclose(given.continues[3], np.arange(6) < 1, atol=1e-6)
    np.testing.assert_allclose(total[3], REWARD[SHOWN[-2:]].sum(), rtol=1e-4)
    longer = batch | {"frames": batch["frames"].copy()}
    longer["frames"][:, 4:] = 0
    np.testing.assert_array_equal(imagine(longer)[0].rewards, given.rewards)


def test_a_share_of_even_actions_is_kept():
    task = story_rl(uniform_share=0.2)
    logits = jax.jit(task.logits)(knowing()["policy"], jnp.array([[START, 0.0]]))["move"]
    expected = np.where(np.arange(CHOICES) == told(ACTIONS, 1)[START, 0], 0.85, 0.05)
    np.testing.assert_allclose(softmax(logits)[0], expected, rtol=1e-4)


MIXED = {"move": {"kind": "categorical", "size": 3}, "keys": {"kind": "binary", "size": 2}}


def real_task(**settings):
    """A real world model of mixed actions, and contexts for it."""
    numbers = np.random.default_rng(0)
    batch = {
        "frames": numbers.integers(0, 256, (2, 4, 8, 8, 3)).astype(np.uint8),
        "actions": {
            "move": numbers.integers(0, 3, (2, 4)).astype(np.int32), "keys": numbers.integers(0, 2, (2, 4, 2)),
        },
        "rewards": np.ones((2, 4), np.float32), "continues": np.ones((2, 4), np.float32),
    }  # fmt: skip
    heads = real_heads(batch, MIXED, tasks=2)
    value = {"hidden": 8, "layers": 1, "bins": 11, "limit": 2.0}
    task = ImaginationRLTask(**{"context": 3, "horizon": 3, "value": value, "task_id": 1, **settings})
    task.setup({"heads": run_of(heads, generic(heads, batch), "heads")}, shapes(batch))
    return task, batch


def trained(task, batch, steps=3):
    """Parameters before and after some updates, and the last metrics."""
    start = task.warm_start(task.init_params(KEY, batch))
    tx, zero = optax.adam(1e-2), jnp.int32(0)
    state = TrainState(zero, start, tx.init(start), None, None, KEY, zero)
    step = jax.jit(lambda state, frozen, batch: task.train_step(state, frozen, batch, Update(tx=tx)))
    for _ in range(steps):
        state, metrics = step(state, task.frozen(), batch)
    assert int(state.skipped) == 0
    assert np.isfinite([float(value) for value in metrics.values()]).all()
    return start, state.params, metrics


def moved(before, after):
    return jax.tree.map(lambda a, b: bool(np.abs(a - b).max() > 0), before, after)


def test_a_real_world_model_with_mixed_actions_trains_a_policy_and_stays_as_it_is():
    task, batch = real_task(sampler={"context_signal": 1})
    upstream = task._upstream.task
    assert (task.heads.sampler.context_signal, upstream.sampler.context_signal) == (1, None)
    assert task.evaluators() == {}
    frozen = jax.device_get(task.frozen())
    start, params, _ = trained(task, batch)
    used = {name: all(jax.tree.leaves(part)) for name, part in moved(start, params).items()}
    assert used == {"policy": True, "value": True}  # nothing of the transformer is there to be moved
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.device_get(task.frozen()))
    assert task.frames_per_batch(batch) == 6


def test_a_past_that_teacher_forcing_has_never_shown_is_refused():
    heads = real_task()[0]._upstream.task
    taught = copy.copy(heads)
    taught.objective = dataclasses.replace(heads.objective, forcing="teacher", clean_share=0.0)
    assert heads.for_imagination({"context_signal": 1}).sampler.context_signal == 1
    assert taught.for_imagination({"context_signal": heads.config.max_steps, "steps": 1}).sampler.steps == 1
    with pytest.raises(ConfigError, match=r"context_signal = 1 .*knows past frames at 2 only"):
        taught.for_imagination({"context_signal": 1})


def test_the_agents_transformer_learns_where_it_is_asked_to_and_the_world_stays():
    task, batch = real_task(train_transformer=True)
    frozen = jax.device_get(task.frozen())
    start, params, metrics = trained(task, batch)
    jax.tree.map(np.testing.assert_array_equal, start["dynamics"], frozen["heads"]["dynamics"])
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.device_get(task.frozen()))
    learned = moved(start, params)
    assert all(jax.tree.leaves(learned["dynamics"]["transformer"]))
    assert all(jax.tree.leaves((learned["policy"], learned["value"])))
    assert not any(jax.tree.leaves(learned["dynamics"]["spatial_out"]))  # what dreams is not the agent's
    assert float(metrics["kl"]) > 0  # of the prior, which goes on reading through the frozen one


def test_an_untrained_copy_of_the_transformer_changes_nothing():
    given, batch = real_task()
    copied, _ = real_task(train_transformer=True)
    frozen = given.frozen()
    start = given.warm_start(given.init_params(KEY, batch))
    own = {**start, "dynamics": frozen["heads"]["dynamics"]}
    rollouts = [jax.jit(task.imagine)(params, frozen, batch, KEY) for task, params in ((given, start), (copied, own))]
    for name in ("features", "rewards", "continues"):
        np.testing.assert_allclose(*(getattr(rollout, name) for rollout in rollouts), rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, rollouts[0].actions, rollouts[1].actions)
    losses = [task.learn(params, frozen, batch, rollout, KEY) for task, params, rollout in
              zip((given, copied), (start, own), rollouts, strict=True)]  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *losses)
    # Reading a dream again in one pass gives the features that the actions were chosen by, also of a changed reader.
    other = {**own, "dynamics": jax.tree.map(lambda a: a * 1.1, own["dynamics"])}
    dream = jax.jit(copied.imagine)(other, frozen, batch, KEY)
    again = copied.reread(copied.reader(other, frozen, 2), frozen, batch, dream, KEY)
    np.testing.assert_allclose(again, dream.features, rtol=1e-3, atol=1e-4)
    assert np.abs(dream.features - rollouts[1].features).max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "batch", "message"),
    [
        ({"task_id": 2}, {}, r"task.task_id = 2, but the heads of logs/heads-test know the tasks 0 … 1"),
        ({"task_id": -1}, {}, r"task.task_id = -1, but"),
        ({"context": 11}, {}, "a context has 11 frames, and clips have 10: set data.length to 11 or more"),
        ({}, {"actions": None}, "contexts need actions, and the data has none; name the data of logs/heads-test"),
        ({}, {"actions": {"walk": np.zeros((4, 10))}}, r"components \['move'\], the batch has \['walk'\]"),
        ({}, {"actions": np.zeros((4, 10, 2))}, r"should be \[B, T\], got \[4, 10, 2\]"),
        ({}, {"frames": np.zeros((4, 10, 8, 8, 3))}, r"was trained on frames of \(4, 4, 3\), the data has \(8, 8, 3\)"),
        ({"environment": {"target": "hand_made:Counting", "num_actions": 3}}, {},
         "one categorical action of 3, the world model was trained with"),
        ({"environment": {"target": "bouncing_squar"}}, {}, "Did you mean 'bouncing_square'"),
        ({"value": {"bins": 10}}, {}, "task: .*odd number of bins"),
        ({"value": {"bin": 11}}, {}, "task: .*bin"),
        ({"sampler": {"steps": 3}}, {}, "task: sampler.steps must divide model.max_steps=2, got 3"),
        ({"evaluation": {"episode": 1}}, {}, "task: .*episode"),
    ],
)  # fmt: skip
def test_data_and_settings_that_do_not_fit_are_refused(settings, batch, message):
    given = {name: value for name, value in {**story(), **batch}.items() if value is not None}
    task = StoryRLTask(**{"context": 3, "environment": {"target": "hand_made:Counting"}, **settings})
    with pytest.raises(ConfigError, match=message):
        task.setup({"heads": run_of(story_heads(tasks=2), knowing(), "heads")}, shapes(given))


@pytest.mark.parametrize("upstream", [{}, {"heads": run_of(object(), {}, "dynamics")}])
def test_without_heads_the_way_to_them_is_told(upstream):
    with pytest.raises(ConfigError, match="ImaginationRLTask needs a world model with heads: set config"):
        ImaginationRLTask().setup(upstream, shapes(story()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"policy_loss": "ppo"}, "one of pmpo, reinforce, got 'ppo'"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"discount": 1.1}, "discount must be between 0 and 1, got 1.1"),
        ({"trace": -0.1}, "trace must be between 0 and 1, got -0.1"),
        ({"uniform_share": 2}, "uniform_share must be between 0 and 1, got 2"),
        ({"prior_weight": -1.0}, "prior_weight must be 0 or more, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImaginationRLTask(**settings)


def test_values_out_of_range_are_refused():
    task = story_rl()
    task.check_batch(story())
    for changes in ({"actions": np.full((4, 10), 4)}, {"task": np.array([0, 1, 0, 0])}):
        with pytest.raises(DataError, match=r"should lie in 0 … 3|the model knows 0 … 0"):
            task.check_batch(story() | changes)


WIDTH = 32
SPACE = action_space({"direction": {"kind": "categorical", "size": 4}})
PROJECTION = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)


class TrueWorld:
    """The bouncing square itself, seen through a projection of its state and of the last action."""

    environment = BouncingSquare()

    def look(self, state, time_step, action):
        side = state.world.side[:, None]
        offset = (state.world.corner + side / 2 - 16) / 16
        known = jnp.concatenate([offset, jnp.abs(offset), (side - 10) / 4, jax.nn.one_hot(action, 4)], axis=-1)
        return Moment(known @ PROJECTION, time_step.reward, 1.0 - time_step.is_terminal, jnp.zeros((len(side), 0)))

    def begin(self, keys, rng):
        state, _ = jax.vmap(self.environment.reset)(keys)
        return self.step(state, {"direction": jax.random.randint(rng, (len(keys),), 0, 4)}, rng)

    def step(self, state, actions, rng):
        state, time_step = jax.vmap(self.environment.step)(state, actions["direction"])
        return state, self.look(state, time_step, actions["direction"])


class TrueWorldTask(ImaginationRLTask):
    """RL whose imagination is perfect."""

    def setup(self, upstream, example):
        config = types.SimpleNamespace(actions=SPACE, transformer=types.SimpleNamespace(width=WIDTH))
        self.heads = types.SimpleNamespace(config=config, heads=HeadsConfig(distances=1, hidden=64, layers=2))
        self.value = HeadsConfig(distances=1, hidden=64, layers=2, bins=63, limit=5.0)

    def begin(self, params, frozen, batch, rng):
        world, (keys_rng, action_rng) = TrueWorld(), jax.random.split(rng)
        return world, world.begin(jax.random.split(keys_rng, len(batch["frames"])), action_rng)


def test_in_a_perfect_imagination_the_policy_becomes_nearly_optimal():
    task = TrueWorldTask(horizon=16, discount=0.9, prior_weight=0.1)
    task.setup({}, {})
    start = task.init_params(KEY, {})
    tx, zero, batch = optax.adam(1e-3), jnp.int32(0), {"frames": np.zeros((32, 1))}
    frozen = {"heads": {"policy": start["policy"]}}
    state = TrainState(zero, start, tx.init(start), None, None, KEY, zero)

    @functools.partial(jax.jit, static_argnums=1)
    def train(state, updates):
        def update(state, _):
            state, metrics = task.train_step(state, frozen, batch, Update(tx=tx))
            return state, metrics

        return jax.lax.scan(update, state, length=updates)

    @functools.partial(jax.jit, static_argnums=0)
    def mean_return(name, params):
        world, begun = task.begin(None, frozen, {"frames": np.zeros((256, 1))}, jax.random.key(1))

        def act(state, moment, t, rng):
            if name == "random":
                return {"direction": jax.random.randint(rng, (256,), 0, 4)}
            return {"direction": jax.vmap(world.environment.optimal_action)(state)}

        policy = task.policy(params) if name == "agent" else act
        return returns(roll_out(world, begun, policy, jax.random.key(2), 32)).mean()

    random, optimal = (float(mean_return(name, None)) for name in ("random", "optimal"))

    def normalized(state):
        return (float(mean_return("agent", state.params["policy"])) - random) / (optimal - random)

    assert normalized(state) < 0.1
    state, metrics = train(state, 300)
    assert normalized(state) > 0.95
    assert int(state.skipped) == 0
    assert metrics["imagined_return"][-20:].mean() > metrics["imagined_return"][:20].mean() / 2
