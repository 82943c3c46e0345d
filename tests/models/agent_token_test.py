"""Agent tokens: they see everything, are seen by nothing, and carry a task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, generic, normal, same

from models.dynamics import Dynamics, DynamicsConfig
from models.functional import bind

TRANSFORMER = dict(width=16, layers=3, heads=2, mlp_ratio=1.0, time_every=2, window=4)
ACTIONS = {"move": {"kind": "categorical", "size": 5}}
CONFIG = DynamicsConfig.from_dict(
    {"latents": 4, "channels": 3, "registers": 1, "actions": ACTIONS, "tasks": 3, "transformer": TRANSFORMER}
)
FRAMES = 6
INPUTS = {
    "noisy": normal(0, 2, FRAMES, 2, 6),
    "signal": jnp.tile(jnp.array([8, 8, 0, 4, 7, 2]), (2, 1)),
    "halvings": jnp.tile(jnp.array([3, 3, 0, 1, 3, 2]), (2, 1)),
    "actions": {"move": jnp.arange(12).reshape(2, FRAMES) % 5},
    "labelled": jnp.ones((2, FRAMES), bool),
}


def make(rngs, config=CONFIG):
    return Dynamics(config, rngs=rngs)


PARAMS = generic(make)
RUN = jax.jit(lambda inputs, task, params, cache: bind(make, params)(**inputs, task=task, cache=cache))


def run(task, params=PARAMS, cache=None, **changes):
    task = None if task is None else jnp.broadcast_to(jnp.asarray(task, jnp.int32), 2)
    return RUN({**INPUTS, **changes}, task, params, cache)


def stream(task, params=PARAMS):
    """Predictions frame by frame, and the last cache."""
    cache, predictions = bind(make, params).init_cache(2), []
    for t in range(FRAMES):
        out = run(task, params, cache, **jax.tree.map(lambda a, t=t: a[:, t : t + 1], INPUTS))
        predictions.append(out)
        cache = out.cache
    return [jnp.concatenate(parts, axis=1) for parts in zip(*[out[:2] for out in predictions], strict=True)], cache


def changed(before, after):
    """Of each row and frame, whether anything differs."""
    return np.abs(np.asarray(before) - np.asarray(after)).reshape(2, FRAMES, -1).max(-1) > 1e-5


LOUD = {**PARAMS, "tasks": 100 * PARAMS["tasks"][::-1]}


@pytest.mark.parametrize(("task", "params"), [(1, PARAMS), (2, PARAMS), ([2, 0], PARAMS), (0, LOUD)])
def test_dreams_are_the_same_in_every_bit_whatever_the_agent_token_holds(task, params):
    a, b = run(0), run(task, params)
    assert same(a.latents, b.latents)
    assert changed(a.features, b.features)[0].all()


def test_so_are_they_in_a_stream_and_so_is_what_the_cache_holds_of_other_tokens():
    ((a, a_features), a_cache), ((b, b_features), b_cache) = stream(0), stream(0, LOUD)
    assert same(a, b)
    assert changed(a_features, b_features).all()
    for x, y in zip(jax.tree.leaves(a_cache[:2]), jax.tree.leaves(b_cache[:2]), strict=True):
        assert same(x[:, :-1], y[:, :-1])
        assert not same(x[:, -1], y[:, -1])


def test_a_token_that_could_be_seen_would_change_dreams():
    def latents(params, task):
        model = bind(make, params)
        model.transformer._routing = None
        return model(**INPUTS, task=jnp.full(2, task)).latents

    assert changed(jax.jit(latents)(PARAMS, 0), jax.jit(latents)(PARAMS, 1)).all()


def test_dreams_do_not_need_the_agent_token():
    cache = stream(1)[1]
    one = jax.tree.map(lambda a: a[:, :1], INPUTS)
    without, with_agent = run(None, cache=cache, **one), run(1, cache=cache, **one)
    assert_close(without.latents, with_agent.latents, 1e-5)
    assert without.features is None
    assert without.cache is None  # of tokens that were left out no past can be written


def test_features_are_of_the_frame_its_past_and_its_actions():
    features = run(1).features
    latent = run(1, noisy=INPUTS["noisy"].at[0, 3].add(1.0)).features
    action = run(1, actions={"move": INPUTS["actions"]["move"].at[0, 3].set(4)}).features
    level = run(1, signal=INPUTS["signal"].at[0, 3].set(8)).features
    for other in (latent, action, level):
        assert changed(features, other).tolist() == [[False, False, False, True, True, True], [False] * FRAMES]
        assert same(features[0, :3], other[0, :3])


def test_features_of_a_stream_are_those_of_the_whole_clip():
    (latents, features), _ = stream(2)
    whole = run(2)
    assert_close(latents, whole.latents)
    assert_close(features, whole.features)


def test_features_alone_are_the_same_and_leave_the_same_past():
    cache = stream(1)[1]
    one = jax.tree.map(lambda a: a[:, :1], INPUTS)
    alone = bind(make, PARAMS)(**one, task=jnp.array([1, 2]), features_only=True, cache=cache)
    both = run([1, 2], cache=cache, **one)
    assert alone.latents is None
    assert_close(alone.features, both.features)
    jax.tree.map(assert_close, alone.cache, both.cache)


def test_features_reach_the_task_in_the_gradient_and_dreams_do_not():
    @jax.jit
    @jax.jacrev
    def gradients(tasks):
        out = run([2, 2], {**PARAMS, "tasks": tasks})
        return jnp.mean(out.latents**2), jnp.mean((out.features - 1) ** 2)

    of_latents, of_features = map(np.asarray, gradients(PARAMS["tasks"]))
    assert (of_latents == 0).all()
    assert (of_features[:2] == 0).all()  # of the other tasks
    assert (of_features[2] != 0).any()


@pytest.mark.parametrize("task", [3, 1000, -1])
def test_of_a_task_that_does_not_exist_there_are_no_features(task):
    features = run([task, 1]).features
    assert np.isnan(features[0]).all()
    assert same(features[1], run(1).features[1])


def test_a_model_without_tasks_refuses_one():
    config = dataclasses.replace(CONFIG, tasks=0)
    model = bind(lambda rngs: make(rngs, config), {k: v for k, v in PARAMS.items() if k != "tasks"})
    with pytest.raises(ValueError, match=r"a task is given, but this dynamics has no agent token \(tasks=0\)"):
        jax.eval_shape(lambda task: model(**INPUTS, task=task).latents, jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match="tasks must be 0 or more, got -1"):
        dataclasses.replace(CONFIG, tasks=-1)
