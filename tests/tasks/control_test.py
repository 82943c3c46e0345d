"""Policies in real environments: what counts, what is seen, and the figures that come out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import generic
from hand_made import (
    ACTIONS,
    CHOICES,
    DISTANCES,
    NUMBERS,
    REWARD,
    START,
    TWO_HOT,
    Counting,
    knowing,
    real_heads,
    story_heads,
    story_rl,
    told,
)

from models.imagination import Rollout, roll_out
from tasks.control import RealWorld, WorldModelEyes, returns
from trainer.errors import ConfigError

EPISODES, STEPS = 6, 9
# A policy that is a rule: what to do at a number.
RULE = np.array([1 + (n * n // 3) % 3 for n in range(NUMBERS)])


def play(policy, end, steps=STEPS, start=START):
    """An episode in plain Python: the numbers seen, what was done, and the rewards that count."""
    numbers, actions, rewards = [start], [], []
    for _ in range(steps):
        actions.append(int(policy(numbers[-1])))
        rewards.append(float(REWARD[numbers[-1] + actions[-1]]) if numbers[-1] < end else 0.0)
        numbers.append(numbers[-1] + actions[-1])
    return numbers, actions, rewards


def by_rule(state, moment, t, rng):
    return {"move": jnp.asarray(RULE)[jnp.round(moment.features[:, 0]).astype(int)]}


@functools.partial(jax.jit, static_argnums=(0, 1))
def watch(end, time_limit):
    """Episodes in which the rule acts by what it sees."""
    task = story_heads()
    model = task.world_model(knowing(), jnp.zeros(EPISODES, jnp.int32))
    world = RealWorld(Counting(time_limit, end=end), WorldModelEyes(task, task.frozen()["tokenizer"], model))
    start = world.begin(jax.random.split(jax.random.key(0), EPISODES), jax.random.key(1))
    rollout = roll_out(world, start, by_rule, jax.random.key(2), STEPS, pictures=True)
    return rollout, returns(rollout)


@pytest.mark.parametrize(("end", "time_limit"), [(START + 8, 1000), (1000, 5), (1000, 1000), (START + 3, 1000)])
def test_what_comes_after_the_end_counts_nothing_and_the_end_itself_does(end, time_limit):
    rollout, total = jax.device_get(watch(end, time_limit))
    starts = rollout.pictures[:, 0, 0, 0, 0].astype(int)
    assert set(starts) == {START, START + 1, START + 2}
    for row, start in enumerate(starts):
        numbers, actions, rewards = play(RULE.__getitem__, end, start=start)
        ended = [number >= end or i + 1 >= time_limit for i, number in enumerate(numbers[1:])]
        rewards = [reward if i < time_limit else 0.0 for i, reward in enumerate(rewards)]
        np.testing.assert_array_equal(rollout.pictures[row, :, 0, 0, 0], numbers)
        np.testing.assert_allclose(rollout.features[row, :, 0], numbers, atol=1e-3)
        np.testing.assert_array_equal(rollout.features[row, :, 1], [-1, *actions])  # an action comes with its frame
        np.testing.assert_array_equal(rollout.actions["move"][row], actions)
        np.testing.assert_allclose(rollout.rewards[row], rewards)
        np.testing.assert_array_equal(rollout.continues[row], ~np.array(ended))
        assert total[row] == pytest.approx(sum(rewards), abs=1e-4)
        if any(ended):
            last = ended.index(True)
            assert rollout.rewards[row, last] == REWARD[numbers[last + 1]]  # on arriving at the end


def test_a_return_is_the_sum_of_rewards_up_to_the_end():
    rewards = np.array([[1.0, 2, 4, 8]] * 4)
    continues = np.array([[1.0, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 1], [1, 0.5, 1, 0]])
    rollout = Rollout(jnp.zeros((4, 5, 1)), {}, jnp.asarray(rewards), jnp.asarray(continues), None)
    np.testing.assert_array_equal(returns(rollout), [15, 3, 1, 1 + 2 + 2 + 4])


MOVES = {"move": {"kind": "categorical", "size": CHOICES}}


def test_a_stream_from_an_environment_gives_the_features_of_the_recorded_clip():
    environment, frames = Counting(size=8), 9  # tokenizer and dynamics have windows of 4 frames
    actions = np.random.default_rng(0).integers(0, CHOICES, (2, frames)).astype(np.int32)
    batch = {
        "frames": np.zeros((2, frames, 8, 8, 3), np.uint8), "actions": actions,
        "rewards": np.zeros((2, frames), np.float32), "continues": np.ones((2, frames), np.float32),
        "is_first": np.broadcast_to(np.arange(frames) == 0, (2, frames)),
    }  # fmt: skip
    task = real_heads(batch, MOVES, tasks=2, task_id=1)
    params, tokenizer = generic(task, batch, seed=2), task.frozen()["tokenizer"]

    @jax.jit
    def stream(actions):
        eyes = WorldModelEyes(task, tokenizer, task.world_model(params, jnp.ones(2, jnp.int32)))
        world = RealWorld(environment, eyes)
        replay = lambda state, moment, t, rng: {"move": actions[:, t + 1]}  # noqa: E731
        start = world.begin(jax.random.split(jax.random.key(0), 2), jax.random.key(1))
        return roll_out(world, start, replay, jax.random.key(2), frames - 1, pictures=True)

    @jax.jit
    def recorded(batch):
        return task.features(params, task.encode(tokenizer, batch), batch, jax.random.key(0))

    seen = stream(actions)
    batch["frames"] = np.asarray(seen.pictures)
    assert len(np.unique(batch["frames"])) > 20
    features = recorded(batch)
    np.testing.assert_allclose(seen.features, features, atol=1e-4)
    # Other readings of the same recording do not fit.
    late = batch | {"actions": np.roll(actions, 1, axis=1)}
    marked = batch | {"is_first": np.zeros((2, frames), bool)}
    for other in (late, marked, batch | {"task": np.zeros(2, np.int32)}):
        assert np.abs(seen.features - recorded(other)).max() > 1e-2


def test_figures_of_control_computed_by_hand():
    steps, end, numbers = 6, START + 9, np.arange(NUMBERS)
    heads = knowing() | {
        "reward": {"table": jnp.repeat(30 * TWO_HOT.encode(REWARD)[:, None], DISTANCES, axis=1)},
        "continue": {"table": jnp.asarray(30.0 * np.sign(end - 0.5 - numbers)[:, None].repeat(DISTANCES, axis=1))},
    }
    task = story_rl(
        heads,
        environment={"target": "hand_made:Counting", "spread": 1, "end": end},
        evaluation={"episodes": 64, "steps": steps, "contexts": 3, "shown": 2},
    )
    batch = {
        "frames": np.full((2, 3, 4, 4, 3), START, np.uint8),
        "actions": np.zeros((2, 3), np.int32),
        "is_first": np.broadcast_to(np.arange(3) == 0, (2, 3)),
    }
    evaluator, requests = task.evaluators()["control"], iter([batch, batch, "no batch"])

    def evaluate(policy, batches):
        return evaluator.evaluate(
            params={"policy": policy}, frozen=task.frozen(), extra=None, rng=jax.random.key(0), batches=batches, step=0
        )

    by_rule = {"table": jnp.asarray(60.0 * np.eye(CHOICES)[RULE][:, None].repeat(DISTANCES, axis=1), jnp.float32)}
    result = evaluate(by_rule, requests)
    assert next(requests) == "no batch"
    scalars, clone = result.scalars, told(ACTIONS, 1)[:, 0]
    ours, cloned = (sum(play(policy.__getitem__, end, steps)[2]) for policy in (RULE, clone))
    optimal = sum(play(lambda n: np.argmax(REWARD[n : n + CHOICES]), end, steps)[2])
    assert len({ours, cloned, optimal}) == 3
    assert scalars["control/return"] == pytest.approx(ours, rel=1e-4)
    assert scalars["control/return_greedy"] == pytest.approx(ours, rel=1e-4)
    assert scalars["control/return_cloned"] == pytest.approx(cloned, rel=1e-4)
    assert scalars["control/return_optimal"] == pytest.approx(optimal, rel=1e-4)
    assert scalars["control/return_sd"] == pytest.approx(0, abs=1e-3)
    assert scalars["control/imagined_return"] == pytest.approx(ours, rel=1e-4)  # heads that know: the same world
    random = scalars["control/return_random"]
    unsure = {"table": jnp.asarray(np.random.default_rng(1).normal(size=(NUMBERS, DISTANCES, CHOICES)), jnp.float32)}
    likeliest = np.asarray(unsure["table"])[:, 0].argmax(-1)
    greedy, drawn = sum(play(likeliest.__getitem__, end, steps)[2]), evaluate(unsure, [batch]).scalars
    assert drawn["control/return_greedy"] == pytest.approx(greedy, rel=1e-4)
    assert drawn["control/return_greedy"] != drawn["control/return"]
    assert drawn["control/return_sd"] > 0
    assert drawn["control/normalized_return_greedy"] == pytest.approx((greedy - random) / (optimal - random), rel=1e-3)
    assert scalars["control/normalized_return"] == pytest.approx((ours - random) / (optimal - random), rel=1e-3)
    assert scalars["control/normalized_return_cloned"] == pytest.approx(
        (cloned - random) / (optimal - random), rel=1e-3
    )
    numbers = np.random.default_rng(0)
    drawn = [sum(play(lambda n: numbers.integers(CHOICES), end, steps)[2]) for _ in range(500)]
    assert abs(random - np.mean(drawn)) < 4 * np.std(drawn) / np.sqrt(64)
    assert {"control", "control_episodes"} == set(result.images)
    assert result.videos["control"].shape[0] == steps + 1
    # A policy that is the clone does exactly as well as the clone: the episodes are the same.
    same = evaluate(task.frozen()["heads"]["policy"], [batch]).scalars
    assert same["control/return"] == same["control/return_cloned"] == scalars["control/return_cloned"]
    assert same["control/return_random"] == random


def test_all_policies_play_the_same_episodes():
    task = story_rl(
        knowing(), environment={"target": "hand_made:Counting", "spread": 3},
        evaluation={"episodes": 32, "steps": 2, "contexts": 1, "shown": 32},
    )  # fmt: skip
    evaluator, starts = task.evaluators()["control"], {}

    def watched(run, name):
        def call(*arguments, **options):
            out = run(*arguments, **options)
            starts[name, str(len(starts))] = np.asarray(out["frames"])[:, 0, 0, 0, 0]
            return out

        return call

    evaluator._agent, evaluator._plain = watched(evaluator._agent, "agent"), watched(evaluator._plain, "plain")
    batch = {
        "frames": np.full((1, 3, 4, 4, 3), START, np.uint8), "actions": np.zeros((1, 3), np.int32),
        "is_first": np.arange(3)[None] == 0,
    }  # fmt: skip
    evaluator.evaluate(
        params={"policy": task.frozen()["heads"]["policy"]}, frozen=task.frozen(), extra=None, rng=jax.random.key(0),
        batches=[batch], step=0,
    )  # fmt: skip
    assert [name for name, _ in starts] == ["agent", "agent", "agent", "plain", "plain"]
    first, *others = starts.values()
    assert len(first) == 32
    assert len(set(first)) == 3
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"task: evaluation\.episodes must be at least 1, got 0"):
        story_rl(evaluation={"episodes": 0})
