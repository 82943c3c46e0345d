"""Teacher forcing trains what sampling asks for: noisy frames see finished ones before them, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, generic, normal, same, transformer_config

from models.actions import Component
from models.dynamics import Dynamics, DynamicsConfig
from models.functional import bind
from models.generation import Sampler, observe, remember
from models.shortcut import ShortcutConfig

FINISHED, NOISY = normal(0, 2, 7, 2, 6), normal(1, 2, 7, 2, 6)
ACTIONS = jnp.arange(14).reshape(2, 7) % 5
LABELLED = jnp.ones((2, 7), bool).at[:, 0].set(False)
SIGNAL, HALVINGS = jnp.arange(14).reshape(2, 7) % 8, jnp.full((2, 7), 3)
LAYOUTS = {
    "time-last": {},
    "time-first": {"layers": 3, "time_every": 3, "time_offset": 0},
    "two-time-layers": {"layers": 5, "time_every": 2, "time_offset": 0},
    "scanned": {"layers": 6, "time_every": 2, "scan": True, "remat": True},
    "scanned-time-first": {"layers": 6, "time_every": 2, "time_offset": 0, "scan": True},
    "short-window": {"window": 2},
    "residual": {"residual": True},
}
CLEAN = Sampler()


def make(settings, tasks=0):
    sizes = {"window": 4, **settings}
    config = DynamicsConfig(
        latents=4, channels=3, registers=1, tasks=tasks, added_actions=bool(tasks),
        residual=sizes.pop("residual", False), actions={"move": Component("categorical", 5)},
        transformer=transformer_config(**sizes),
    )  # fmt: skip
    build = lambda rngs: Dynamics(config, rngs=rngs)  # noqa: E731
    return build, generic(build)


def taught(build, params, finished, noisy, actions=ACTIONS, independent=None, sampler=CLEAN):
    """Predictions for noisy frames whose past is finished, all at once, as in training."""

    @jax.jit
    def run(params, finished, noisy, actions):
        model = bind(build, params)
        past = remember(model, finished, actions, LABELLED, jax.random.key(5), sampler, independent=independent)
        return model(noisy, SIGNAL, HALVINGS, actions, LABELLED, independent=independent, cache=past).latents

    return run(params, finished, noisy, actions)


@pytest.mark.parametrize("tasks", [0, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pass_of_training_is_a_pass_of_sampling(layout, tasks):
    build, params = make(LAYOUTS[layout], tasks)

    @jax.jit
    def sampled(params):
        model, outputs = bind(build, params), []
        cache, task = model.init_cache(2), jnp.zeros(2, jnp.int32) if tasks else None
        for t in range(7):
            now = slice(t, t + 1)
            frame = ACTIONS[:, now], LABELLED[:, now]
            past = model.recall(cache)
            outputs.append(model(NOISY[:, now], SIGNAL[:, now], HALVINGS[:, now], *frame, cache=past).latents)
            _, cache = observe(model, cache, FINISHED[:, now], *frame, jax.random.key(0), CLEAN, task=task)
        return jnp.concatenate(outputs, axis=1)

    assert_close(taught(build, params, FINISHED, NOISY), sampled(params), 5e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_frame_sees_finished_frames_before_it_and_its_noisy_self_alone(layout):
    build, params = make(LAYOUTS[layout])
    plain = taught(build, params, FINISHED, NOISY)
    for t in range(7):
        other = taught(build, params, FINISHED.at[:, t].add(1.0), NOISY)
        changed = np.abs(np.asarray(other - plain)).max(axis=(0, 2, 3)) > 1e-6
        assert not changed[: t + 1].any()  # neither earlier frames nor its own noisy version: that would give it away
        assert changed[t + 1 :][:1].all()
        other = taught(build, params, FINISHED, NOISY.at[:, t].add(1.0))
        assert np.array_equal(np.abs(np.asarray(other - plain)).max(axis=(0, 2, 3)) > 1e-6, np.arange(7) == t)
        other = taught(build, params, FINISHED, NOISY, ACTIONS.at[:, t].add(1))
        changed = np.abs(np.asarray(other - plain)).max(axis=(0, 2, 3)) > 1e-6
        assert not changed[:t].any()
        assert changed[t] == (t > 0)  # no action led to the first frame


@pytest.mark.parametrize("layout", ["time-last", "residual"])
def test_unrelated_frames_have_no_past(layout):
    build, params = make(LAYOUTS[layout])
    rows = jnp.array([True, False])
    plain = taught(build, params, FINISHED, NOISY, independent=rows)
    other = taught(build, params, FINISHED + 1, NOISY, independent=rows)
    assert same(plain[0], other[0])
    assert not same(plain[1], other[1])
    assert_close(plain[1], taught(build, params, FINISHED, NOISY)[1])


def test_the_past_has_the_level_that_sampling_gives_it():
    build, params = make({})
    plain, noisier = (taught(build, params, FINISHED, NOISY, sampler=Sampler(context_signal=s)) for s in (None, 6))
    assert same(plain[:, :1], noisier[:, :1])  # nothing came before the first frame
    assert np.abs(np.asarray(plain - noisier))[:, 1:].max(axis=(2, 3)).min() > 1e-3
    assert same(plain, taught(build, params, FINISHED, NOISY, sampler=Sampler(context_signal=8)))


def test_frames_given_clean_would_learn_nothing():
    with pytest.raises(ValueError, match=r"clean_share=0, got 0\.25"):
        ShortcutConfig(forcing="teacher")
    with pytest.raises(ValueError, match="diffusion, teacher, got 'student'"):
        ShortcutConfig(forcing="student")
    assert ShortcutConfig(forcing="teacher", clean_share=0.0).forcing == "teacher"
