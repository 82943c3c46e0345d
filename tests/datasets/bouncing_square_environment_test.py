import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from datasets.bouncing_square import bouncing_square_dataset_builder as builder
from datasets.bouncing_square import rules
from datasets.bouncing_square.cross_entropy_floor import cross_entropy_floor
from datasets.bouncing_square.environment import BouncingSquare, make
from datasets.environment import Environment


@functools.partial(jax.jit, static_argnums=0)
def play(env, rng, actions):
    """Time steps [T + 1] of an episode."""
    state, first = env.reset(rng)
    _, rest = jax.lax.scan(env.step, state, jnp.asarray(actions))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


@pytest.mark.parametrize("variant", rules.VARIANTS)
def test_acting_as_recorded_gives_the_recorded_episode(variant):
    variant = rules.VARIANTS[variant]
    for number, episode in enumerate(itertools.islice(builder.simulate(variant, 0, 3), 3)):
        rng = jax.random.split(jax.random.fold_in(jax.random.key(0), number))[0]
        played = play(BouncingSquare(variant), rng, episode.actions[1:])
        np.testing.assert_array_equal(played.frame, episode.frames)
        np.testing.assert_array_equal(played.reward, episode.rewards)
        np.testing.assert_array_equal(played.is_first, np.arange(variant.episode_length) == 0)
        assert not played.is_last.any()


def test_it_is_an_environment_under_jit_and_vmap():
    env = BouncingSquare()
    assert isinstance(env, Environment)
    keys = jax.random.split(jax.random.key(0), 5)
    states, _ = jax.jit(jax.vmap(env.reset))(keys)
    actions = jax.vmap(env.optimal_action)(states)
    _, many = jax.jit(jax.vmap(env.step))(states, actions)
    state, _ = jax.jit(env.reset)(keys[2])
    _, one = jax.jit(env.step)(state, actions[2])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2], b), many, one)


def test_a_time_limit_cuts_and_a_termination_ends():
    right = [3] * 6
    cut = play(BouncingSquare(time_limit=4), jax.random.key(0), right)
    np.testing.assert_array_equal(cut.is_last, np.arange(7) >= 4)
    assert not cut.is_terminal.any()
    ended = play(BouncingSquare(terminate_after=3, time_limit=5), jax.random.key(0), right)
    np.testing.assert_array_equal(ended.is_last, np.arange(7) >= 3)
    np.testing.assert_array_equal(ended.is_terminal, ended.is_last)


def test_an_episode_terminates_near_the_centre():
    env = BouncingSquare(rules.CLEAN, terminate_within=6.0)
    back_and_forth = ([0] * 8 + [1] * 8 + [2] * 8 + [3] * 8) * 2
    played = play(env, jax.random.key(5), back_and_forth)
    distant = play(BouncingSquare(rules.CLEAN), jax.random.key(5), back_and_forth)
    np.testing.assert_array_equal(played.is_terminal[1:], -distant.reward[1:] <= 6.0)
    assert not played.is_terminal[0]
    assert 0 < played.is_terminal.sum() < 64


@pytest.mark.parametrize(("variant", "count"), [("reference", 4), ("clean", 5)])
def test_the_action_spec_tells_what_can_be_chosen(variant, count):
    spec = BouncingSquare(rules.VARIANTS[variant]).action_spec
    assert (spec.num_actions, spec.null_action) == (count, 4)


def test_an_environment_is_made_by_the_name_of_its_variant():
    assert make() == BouncingSquare(rules.REFERENCE)
    made = make("clean", time_limit=7, terminate_after=5, terminate_within=2.0)
    assert made == BouncingSquare(rules.CLEAN, time_limit=7, terminate_after=5, terminate_within=2.0)
    with pytest.raises(ValueError, match=r"no variant 'claen'. Did you mean 'clean'.*variants: reference, clean"):
        make("claen")


@pytest.mark.parametrize("variant", rules.VARIANTS)
def test_an_environment_tells_the_floor_of_its_own_variant(variant):
    floor = make(variant, time_limit=32).behavior_entropy(16, 3)
    np.testing.assert_array_equal(floor, cross_entropy_floor(rules.VARIANTS[variant], 16, 3))
