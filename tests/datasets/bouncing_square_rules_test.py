import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from datasets.bouncing_square import rules

UP, DOWN, LEFT, RIGHT, NONE = range(5)
PUBLISHED_RETURNS = {"random": (-275.0, 80.0), "behavior": (-319.0, None), "optimal": (-55.2, None)}


def starts(variant, count):
    """Initial states, as numpy arrays."""
    draw = jax.jit(jax.vmap(lambda key: rules.initial_state(key, variant)))
    return jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), count)))


def world(y, x, side):
    colour = jnp.array([10, 20, 30], jnp.uint8)
    return rules.State(jnp.array([y, x]), jnp.int32(side), background=colour, square=colour + jnp.uint8(100))


@pytest.mark.parametrize(
    ("y", "x", "side", "action", "expected"),
    [
        (10, 10, 8, UP, (8, 10)),
        (10, 10, 8, DOWN, (12, 10)),
        (10, 10, 8, LEFT, (10, 8)),
        (10, 10, 8, RIGHT, (10, 12)),
        (10, 10, 8, NONE, (10, 10)),
        (1, 10, 8, UP, (1, 10)),  # 1 - 2 = -1, back to 1
        (0, 10, 8, UP, (2, 10)),
        (24, 10, 8, DOWN, (22, 10)),  # 26 is past 24 by 2
        (23, 10, 8, DOWN, (23, 10)),
        (10, 24, 8, RIGHT, (10, 22)),
        (31, 10, 14, DOWN, (3, 10)),  # A start that sticks out: 33 is past 18 by 15, a jump of 28
        (31, 31, 14, NONE, (5, 5)),
        (31, 10, 14, LEFT, (5, 8)),  # Both axes are reflected, whichever moves
    ],
)
def test_reflection_worked_by_hand(y, x, side, action, expected):
    assert tuple(rules.step(world(y, x, side), jnp.int32(action)).corner.tolist()) == expected


def test_rendering_covers_rows_and_columns_and_cuts_off_at_the_border():
    frame = np.asarray(rules.render(world(3, 28, 6)))
    expected = np.full((32, 32, 3), (10, 20, 30), np.uint8)
    expected[3:9, 28:32] = (110, 120, 130)
    np.testing.assert_array_equal(frame, expected)


def test_reward_is_minus_the_distance_of_the_centres():
    assert rules.reward(world(13, 12, 6)) == 0 - np.float32(1.0)  # The centre is at (16, 15)
    assert rules.reward(world(9, 9, 7)) == -np.float32(np.hypot(3.5, 3.5))


def test_each_entry_of_an_episode_belongs_to_the_frame_it_led_to():
    episode = jax.tree.map(np.asarray, rules.record_episode(jax.random.key(3), rules.CLEAN, 40))
    assert (episode.actions[0], episode.rewards[0]) == (rules.NULL_ACTION, 0)
    inside = (episode.frames != episode.frames[0, 0, 0]).any(-1)
    if inside[0, 0, 0]:
        inside = ~inside
    for t in range(1, 40):
        corner, before = np.argwhere(inside[t]).min(0), np.argwhere(inside[t - 1]).min(0)
        side = np.argwhere(inside[t]).max(0) - corner + 1
        np.testing.assert_allclose(episode.rewards[t], -np.hypot(*(corner + side / 2 - 16)), rtol=1e-6)
        moved = corner - before
        axis = int(episode.actions[t] in (LEFT, RIGHT))
        assert moved[1 - axis] == 0
        assert abs(moved[axis]) <= 2
        if corner[axis] > 2 and corner[axis] + side[axis] < 30:  # No border near
            assert moved[axis] == rules.MOVES[episode.actions[t]][axis]


def test_episodes_start_partly_outside_as_often_as_the_published_ones():
    states = starts(rules.REFERENCE, 20_000)
    outside = (states.corner + states.side[:, None] > rules.FRAME_SIZE).any(1)
    exact = 1 - np.mean([((33 - side) / 32) ** 2 for side in range(6, 15)])  # 0.4769
    assert outside.mean() == pytest.approx(exact, abs=0.014)  # Four standard deviations
    assert set(np.unique(states.side)) == set(range(6, 15))
    assert states.background.min() == 0
    assert states.background.max() == 255


def test_clean_starts_are_inside_and_their_colours_apart():
    states = starts(rules.CLEAN, 5_000)
    assert (states.corner >= 0).all()
    assert (states.corner + states.side[:, None]).max() == rules.FRAME_SIZE
    contrast = np.abs(states.background.astype(int) - states.square.astype(int))
    assert contrast.min() == rules.CLEAN.min_contrast
    assert states.square.mean() == pytest.approx(127.5, abs=3)


def runs(actions):
    """(action, length) of each run of equal actions."""
    edges = np.flatnonzero(np.diff(actions)) + 1
    return [(int(run[0]), len(run)) for run in np.split(actions, edges)]


@pytest.mark.parametrize(
    ("variant", "first"), [(rules.REFERENCE, {DOWN, LEFT, RIGHT}), (rules.CLEAN, {UP, DOWN, LEFT, RIGHT, NONE})]
)
def test_behavior_holds_four_to_nine_steps_and_then_does_something_else(variant, first):
    keys = jax.random.split(jax.random.key(1), 2_000)
    record = jax.jit(jax.vmap(lambda key: rules.record_episode(key, variant, 64).actions))
    held = [runs(row) for row in np.asarray(record(keys))[:, 1:]]
    assert {run[0][0] for run in held} == first
    # The last run is cut off, and whether a run near it is complete depends on its length: take the first four.
    lengths = np.bincount([length for run in held for _, length in run[:4]], minlength=12)
    assert lengths[:4].sum() == 0
    assert lengths[10:].sum() == 0
    np.testing.assert_allclose(lengths[4:10] / lengths.sum(), 1 / 6, atol=0.018)
    others = variant.num_actions - 1
    pairs = [(a, b) for run in held for (a, _), (b, _) in itertools.pairwise(run[:5])]
    after_right = np.bincount([b for a, b in pairs if a == RIGHT], minlength=5)
    assert after_right[RIGHT] == 0
    np.testing.assert_allclose(after_right[after_right > 0] / after_right.sum(), 1 / others, atol=0.05)
    assert (after_right > 0).sum() == others


@pytest.mark.parametrize("policy", PUBLISHED_RETURNS)
def test_returns_over_32_steps_match_the_published_ones(policy):
    variant = rules.REFERENCE

    def advance(carry, key):
        state, hold = carry
        hold = rules.behavior(key, hold, variant)
        action = {
            "random": jax.random.randint(key, (), 0, variant.num_actions),
            "behavior": hold.action,
            "optimal": rules.optimal_action(state, variant),
        }[policy]
        state = rules.step(state, action)
        return (state, hold), rules.reward(state)

    @jax.jit
    @jax.vmap
    def episode_return(key):
        start_key, key = jax.random.split(key)
        carry = (rules.initial_state(start_key, variant), rules.initial_hold(variant))
        return jax.lax.scan(advance, carry, jax.random.split(key, 32))[1].sum()

    returns = episode_return(jax.random.split(jax.random.key(0), 8_000))
    mean, deviation = PUBLISHED_RETURNS[policy]
    four_deviations = 4 * float(returns.std()) / np.sqrt(len(returns))
    assert returns.mean() == pytest.approx(mean, abs=four_deviations)
    if deviation is not None:
        assert returns.std() == pytest.approx(deviation, rel=0.03)
