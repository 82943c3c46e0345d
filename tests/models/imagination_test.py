"""Rollouts: what belongs to which step, and that a dreamed frame is to the heads what a seen one is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, generic, normal, same

from models.dynamics import Dynamics, DynamicsConfig
from models.functional import bind
from models.generation import Sampler
from models.heads import ContinueHead, HeadsConfig, TwoHotHead
from models.imagination import Moment, WorldModel, roll_out


def moment(n):
    return Moment(features=1.0 * n[:, None], reward=10.0 * n, continues=1 / (1.0 + n), picture=100 * n)


class Counter:
    """Its state is the number 3n + 1 + action: it tells all that was ever done."""

    def step(self, state, actions, rng):
        state = 3 * state + 1 + actions["move"]
        return state, moment(state)


def by_state_and_time(state, moment, t, rng):
    return {"move": (state + 2 * moment.features[:, 0].astype(int) + moment.picture + t) % 3}


def test_every_number_of_a_rollout_is_that_of_its_step():
    start, horizon = np.array([1, 7]), 5
    rollout = jax.jit(
        lambda n: roll_out(Counter(), (n, moment(n)), by_state_and_time, jax.random.key(0), horizon, pictures=True)
    )(start)
    states, actions = [start], []
    for t in range(horizon):
        actions.append((103 * states[-1] + t) % 3)
        states.append(3 * states[-1] + 1 + actions[-1])
    states, actions = np.stack(states, axis=1), np.stack(actions, axis=1)
    assert len(np.unique(states)) == states.size  # a neighbour is never right
    np.testing.assert_array_equal(rollout.features[..., 0], states)
    np.testing.assert_array_equal(rollout.pictures, 100 * states)
    np.testing.assert_array_equal(rollout.actions["move"], actions)
    np.testing.assert_array_equal(rollout.rewards, 10.0 * states[:, 1:])
    np.testing.assert_allclose(rollout.continues, 1 / (1 + states[:, 1:]), rtol=1e-6)
    # Each action leads from the state at its own index to the one at the next.
    np.testing.assert_array_equal(3 * states[:, :-1] + 1 + rollout.actions["move"], states[:, 1:])


def test_pictures_are_kept_where_asked_for():
    def rollout(n):
        return roll_out(Counter(), (n, moment(n)), by_state_and_time, jax.random.key(0), 2)

    assert jax.eval_shape(rollout, jnp.array([1, 7])).pictures is None


class Dice:
    """Features are what was drawn: by the policy, by the world."""

    def step(self, state, actions, rng):
        drawn = jnp.stack([actions["move"], jax.random.uniform(rng, (2,))], axis=-1)
        return state, Moment(drawn, jnp.zeros(2), jnp.ones(2), jnp.zeros((2, 0)))


@functools.partial(jax.jit, static_argnums=1)
def roll_dice(key, horizon):
    first = Moment(jnp.zeros((2, 2)), jnp.zeros(2), jnp.ones(2), jnp.zeros((2, 0)))
    policy = lambda state, moment, t, rng: {"move": jax.random.uniform(rng, (2,))}  # noqa: E731
    return roll_out(Dice(), (0, first), policy, key, horizon).features[:, 1:]


def test_every_draw_is_a_new_one_and_longer_rollouts_begin_like_shorter_ones():
    drawn = np.asarray(roll_dice(jax.random.key(0), 5))
    assert len(np.unique(drawn)) == drawn.size
    assert same(roll_dice(jax.random.key(0), 3), drawn[:, :3])
    assert not np.isin(roll_dice(jax.random.key(1), 5), drawn).any()


CONFIG = DynamicsConfig.from_dict(
    {
        "latents": 4, "channels": 2, "registers": 1, "max_steps": 8, "tasks": 2,
        "actions": {"move": {"kind": "categorical", "size": 3}, "keys": {"kind": "binary", "size": 2}},
        "transformer": dict(width=16, layers=3, heads=2, mlp_ratio=1.0, time_every=2, window=4),
    }
)  # fmt: skip
HEADS = HeadsConfig(distances=2, hidden=8, layers=1, bins=11, limit=2.0)
MAKERS = {
    "dynamics": lambda rngs: Dynamics(CONFIG, rngs=rngs),
    "reward": lambda rngs: TwoHotHead(16, HEADS, rngs=rngs),
    "continues": lambda rngs: ContinueHead(16, HEADS, rngs=rngs),
}
PARAMS = {name: generic(make, seed) for seed, (name, make) in enumerate(MAKERS.items())}
PAST, HORIZON = 3, 6  # the cache of 4 frames wraps
CONTEXT = normal(0, 2, PAST, 2, 4)
LABELLED = jnp.array([[False, True, True], [False, True, False]])
TASK = jnp.array([1, 0])
ACTIONS = {
    "move": jax.random.randint(jax.random.key(1), (2, PAST + HORIZON), 0, 3),
    "keys": jax.random.randint(jax.random.key(2), (2, PAST + HORIZON, 2), 0, 2),
}


def actions(frames):
    return jax.tree.map(lambda a: a[:, frames], ACTIONS)


class Imagination:
    """The world model's methods, compiled; with a noisy context it has no continue head."""

    def __init__(self, context_signal):
        def world():
            heads = {name: bind(MAKERS[name], PARAMS[name]) for name in MAKERS}
            continues, sampler = heads["continues"], Sampler(steps=2, context_signal=context_signal)
            return WorldModel(heads["dynamics"], heads["reward"], None if context_signal else continues, sampler, TASK)

        self.begin = jax.jit(lambda *args: world().begin(*args))
        self.step = jax.jit(lambda *args: world().step(*args))
        self.observe = jax.jit(lambda *args: world().observe(*args))

    def start(self, key):
        return self.begin(CONTEXT, actions(slice(PAST)), LABELLED, key)


@functools.cache
def imagination(context_signal=None):
    return Imagination(context_signal)


@pytest.mark.parametrize("context_signal", [None, 6])
def test_a_dreamed_frame_has_the_features_it_would_have_if_it_were_seen(context_signal):
    world = imagination(context_signal)
    state, last = world.start(jax.random.key(3))
    seen_state, known = state, jnp.ones((2, 1), bool)
    for t in range(PAST, PAST + HORIZON):
        key = jax.random.key(10 + t)
        state, dreamed = world.step(state, actions(t), key)
        _, observe_key = jax.random.split(key)
        frame, action = dreamed.picture[:, None], actions(slice(t, t + 1))
        seen_state, seen = world.observe(seen_state, frame, action, known, observe_key)
        for a, b in zip(dreamed, seen, strict=True):
            assert_close(a, b, 1e-5)
        if context_signal:
            _, other = world.observe(state, frame, action, known, jax.random.key(0))
            assert np.abs(other.features - seen.features).max() > 1e-3  # the noise does matter
        assert np.abs(dreamed.features - last.features).max() > 1e-2
        last = dreamed
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(seen_state), strict=True):
        assert_close(a, b, 1e-5)


def test_features_of_a_dream_are_those_of_the_whole_clip_given_as_a_recording():
    world = imagination()
    state, first = world.start(jax.random.key(3))
    moments = [first]
    for t in range(PAST, PAST + HORIZON):
        state, dreamed = world.step(state, actions(t), jax.random.key(t))
        moments.append(dreamed)
    clip = jnp.concatenate([CONTEXT, jnp.stack([m.picture for m in moments[1:]], axis=1)], axis=1)
    labelled = jnp.concatenate([LABELLED, jnp.ones((2, HORIZON), bool)], axis=1)
    levels = jnp.full((2, PAST + HORIZON), 8), jnp.full((2, PAST + HORIZON), 3)

    @jax.jit
    def recorded(clip):
        heads = {name: bind(MAKERS[name], PARAMS[name]) for name in MAKERS}
        features = heads["dynamics"](clip, *levels, ACTIONS, labelled, task=TASK).features
        return features, heads["reward"].now(features[:, -1]), heads["continues"].now(features[:, -1])

    features, reward, continues = recorded(clip)
    # The first imagined state is the last context frame's own.
    assert_close(jnp.stack([m.features for m in moments], axis=1), features[:, PAST - 1 :], 1e-5)
    assert same(first.picture, CONTEXT[:, -1])
    assert_close(moments[-1].reward, reward, 1e-4)
    assert_close(moments[-1].continues, continues, 1e-4)


def test_the_action_that_leads_to_a_frame_shapes_it():
    world = imagination()
    state, _ = world.start(jax.random.key(3))
    other = {**actions(PAST), "move": (actions(PAST)["move"] + jnp.array([0, 1])) % 3}
    (_, a), (_, b) = (world.step(state, action, jax.random.key(0)) for action in (actions(PAST), other))
    assert same(a.picture[0], b.picture[0])
    assert np.abs(a.picture[1] - b.picture[1]).max() > 1e-3


def test_a_world_without_a_continue_head_never_ends():
    _, last = imagination(6).start(jax.random.key(3))
    np.testing.assert_array_equal(last.continues, [1, 1])
    _, last = imagination().start(jax.random.key(3))
    assert (np.asarray(last.continues) < 1).all()
