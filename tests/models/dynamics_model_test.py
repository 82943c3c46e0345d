"""The dynamics: what a predicted frame depends on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny import assert_close, generic, normal, same, transformer_config

from models.dynamics import Dynamics, DynamicsConfig, pack, unpack
from models.functional import bind, init

ACTIONS = {"move": {"kind": "categorical", "size": 5}, "push": {"kind": "continuous", "size": 2}}
TRANSFORMER = dict(width=32, layers=4, heads=2, mlp_ratio=1.0, time_every=2, window=4)
CONFIG = DynamicsConfig.from_dict(
    {"latents": 8, "channels": 3, "registers": 2, "max_steps": 8, "actions": ACTIONS, "transformer": TRANSFORMER}
)
PARAMS = generic(lambda rngs: Dynamics(CONFIG, rngs=rngs))
INPUTS = {
    "noisy": normal(0, 2, 6, 4, 6),
    "signal": jnp.tile(jnp.array([8, 8, 0, 4, 7, 2]), (2, 1)),
    "halvings": jnp.tile(jnp.array([3, 3, 0, 1, 3, 2]), (2, 1)),
    "actions": {"move": jnp.arange(12).reshape(2, 6) % 5, "push": normal(1, 2, 6, 2)},
    "labelled": jnp.ones((2, 6), bool),
}


RESIDUAL = dataclasses.replace(CONFIG, residual=True)
RESIDUAL_PARAMS = generic(lambda rngs: Dynamics(RESIDUAL, rngs=rngs))


def model(params=PARAMS, config=CONFIG):
    return bind(lambda rngs: Dynamics(config, rngs=rngs), params)


RUN = jax.jit(lambda inputs: model()(**inputs)[0])


def changed_frames(change):
    """Of each row and frame, whether its prediction changes when `change` is made to the inputs."""
    return np.abs(RUN(INPUTS) - RUN({**INPUTS, **change})).max(axis=(2, 3)) > 1e-5


def test_latents_come_back_from_their_packing():
    latents = normal(2, 2, 3, 8, 5)
    for packing in (1, 2, 4):
        assert same(unpack(pack(latents, packing), packing), latents)
    assert same(pack(latents, 2)[0, 0, 1], latents[0, 0, 2:4].ravel())


def test_actions_change_their_frame_and_the_frames_after_it():
    push = INPUTS["actions"]["push"].at[0, 3].add(1.0)
    change = {"actions": {**INPUTS["actions"], "push": push}}
    assert changed_frames(change).tolist() == [[False, False, False, True, True, True], [False] * 6]
    before = (RUN(INPUTS)[0, :3], RUN({**INPUTS, **change})[0, :3])
    assert same(*before)


@pytest.mark.parametrize("added", [False, True])
def test_added_actions_reach_spatial_tokens_without_attention(added):
    config = dataclasses.replace(CONFIG, added_actions=added)
    build = lambda rngs: Dynamics(config, rngs=rngs)  # noqa: E731
    deaf = jax.tree.map_with_path(
        lambda path, x: 0 * x if {"attention", "out"} <= {getattr(key, "key", None) for key in path} else x,
        generic(build),
    )
    run = jax.jit(lambda inputs: bind(build, deaf)(**inputs)[0])
    push = INPUTS["actions"]["push"].at[0, 3].add(1.0)
    changed = np.abs(run(INPUTS) - run({**INPUTS, "actions": {**INPUTS["actions"], "push": push}})).max(axis=3) > 1e-5
    assert changed[0, 3].all() == added
    assert changed.sum() == (changed.shape[2] if added else 0)  # of this frame, every token; of no other frame


def test_latents_change_their_frame_and_the_frames_after_it():
    change = {"noisy": INPUTS["noisy"].at[1, 2].add(1.0)}
    assert changed_frames(change).tolist() == [[False] * 6, [False, False, True, True, True, True]]


@pytest.mark.parametrize(("name", "value"), [("signal", 3), ("halvings", 1)])
def test_the_level_and_the_step_size_of_each_frame_matter(name, value):
    change = {name: INPUTS[name].at[0, 4].set(value)}
    assert changed_frames(change).tolist() == [[False, False, False, False, True, True], [False] * 6]


def test_rows_without_labels_ignore_their_actions():
    unlabelled = {**INPUTS, "labelled": jnp.array([[False] * 6, [True] * 6])}
    others = {name: array[::-1] for name, array in INPUTS["actions"].items()}
    a, b = RUN(unlabelled), RUN({**unlabelled, "actions": others})
    assert same(a[0], b[0])
    assert (np.abs(a - b)[1].max(axis=(1, 2)) > 1e-5).all()


def test_video_without_actions_needs_none():
    config = DynamicsConfig(latents=8, channels=3, transformer=transformer_config())
    make = lambda rngs: Dynamics(config, rngs=rngs)  # noqa: E731
    params = generic(make)
    assert "components" not in params["action"]
    run = jax.jit(lambda noisy: bind(make, params)(**{**INPUTS, "noisy": noisy, "actions": None})[0])
    assert np.std(run(INPUTS["noisy"])) > 0.1


@pytest.mark.parametrize(("params", "config"), [(PARAMS, CONFIG), (RESIDUAL_PARAMS, RESIDUAL)])
def test_a_stream_gives_what_the_whole_clip_gives(params, config):
    run = jax.jit(lambda inputs, cache: model(params, config)(**inputs, cache=cache))
    cache, outputs = model(params, config).init_cache(2), []
    for frames in (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6)):
        out, _, cache = run(jax.tree.map(lambda a, frames=frames: a[:, frames], INPUTS), cache)
        outputs.append(out)
    assert_close(jnp.concatenate(outputs, axis=1), run(INPUTS, None).latents)


def test_a_residual_dynamics_starts_by_repeating_the_frame_before():
    fresh = init(lambda rngs: Dynamics(RESIDUAL, rngs=rngs), jax.random.key(0))
    run = jax.jit(lambda **inputs: model(fresh, RESIDUAL)(**INPUTS, **inputs).latents)
    repeated = jnp.concatenate([jnp.zeros((2, 1, 4, 6)), INPUTS["noisy"][:, :-1]], axis=1)
    assert same(run(), repeated)
    assert same(run(independent=jnp.array([True, False])), repeated.at[0].set(0.0))  # nothing came before


def test_a_velocity_leads_from_where_a_frame_is():
    config = dataclasses.replace(CONFIG, prediction="v")
    latents = model(PARAMS, CONFIG)(**INPUTS).latents
    left = (1 - INPUTS["signal"] / 8)[..., None, None]
    assert_close(model(PARAMS, config)(**INPUTS).latents, INPUTS["noisy"] + left * latents)


def test_a_residual_dynamics_refuses_a_cache_that_has_no_frame():
    residual = model(RESIDUAL_PARAMS, RESIDUAL)
    with pytest.raises(ValueError, match="needs a cache of its own init_cache"):
        residual(**INPUTS, cache=residual.transformer.init_cache(2))


@pytest.mark.parametrize(("params", "config"), [(PARAMS, CONFIG), (RESIDUAL_PARAMS, RESIDUAL)])
def test_gradients_go_to_every_parameter(params, config):
    gradient = jax.jit(jax.grad(lambda params: jnp.mean((model(params, config)(**INPUTS)[0] - 1.0) ** 2)))
    for path, leaf in traverse_util.flatten_dict(gradient(params), sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": 9}, "9 latent tokens do not pack by 2"),
        ({"max_steps": 6}, "power of two, got 6"),
        ({"prediction": "noise"}, "one of x, v, got 'noise'"),
        ({"prediction": "v", "residual": True}, "set prediction='x', or residual=false"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DynamicsConfig(**changes)
