"""Rollouts of a policy in imagination, on real world models, and what does not fit one."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import generic, shapes
from hand_made import (
    ACTIONS,
    CHOICES,
    LENGTH,
    REWARD,
    SHOWN,
    START,
    StoryRLTask,
    knowing,
    real_heads,
    run_of,
    story,
    story_heads,
    story_rl,
    told,
)

from tasks.control import returns
from tasks.imagination_rl import ImaginationRLTask
from trainer.errors import ConfigError, DataError
from trainer.state import TrainState
from trainer.update import Update

KEY = jax.random.key(0)


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
    np.testing.assert_allclose(jax.nn.softmax(logits)[0], expected, rtol=1e-4)


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
    start, params, _ = trained(task, batch)
    jax.tree.map(np.testing.assert_array_equal, start["dynamics"], frozen["heads"]["dynamics"])
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.device_get(task.frozen()))
    learned = moved(start, params)
    assert all(jax.tree.leaves(learned["dynamics"]["transformer"]))
    assert all(jax.tree.leaves((learned["policy"], learned["value"])))
    assert not any(jax.tree.leaves(learned["dynamics"]["spatial_out"]))  # what dreams is not the agent's


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
    # The prior goes on reading through the frozen one: the clone's own head, read by another transformer, is not it.
    _, metrics = copied.learn(other, frozen, batch, dream, KEY)
    assert float(metrics["kl"]) > 1e-4


def test_the_agent_dreams_for_its_own_task():
    features = []
    for task_id in (0, 1):
        task, batch = real_task(task_id=task_id)
        start = task.warm_start(task.init_params(KEY, batch))
        features.append(jax.jit(task.imagine)(start, task.frozen(), batch, KEY).features[:, 0])
    assert np.abs(features[0] - features[1]).max() > 1e-2


def test_frames_are_read_again_under_the_noise_of_the_step():
    task, batch = real_task(train_transformer=True, sampler={"context_signal": 1})
    frozen, start = task.frozen(), task.warm_start(task.init_params(KEY, batch))
    dream, reader = jax.jit(task.imagine)(start, frozen, batch, KEY), task.reader(start, frozen, 2)
    a, same, other = (task.reread(reader, frozen, batch, dream, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, same)
    assert np.abs(a - other).max() > 1e-2


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
        ({"value": {"bin": 11}}, {}, "task.value has no 'bin'. Did you mean 'bins'"),
        ({"sampler": {"steps": 3}}, {}, "task: sampler.steps must divide model.max_steps=2, got 3"),
        ({"evaluation": {"episode": 1}}, {}, "task.evaluation has no 'episode'. Did you mean 'episodes'"),
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
