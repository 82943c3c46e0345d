"""Dreaming: the sampler is plain Euler over the true past, each label is true, and nothing comes from the future."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, generic, normal, same, transformer_config

from models.actions import Component
from models.cache import Cache
from models.dynamics import Dynamics, DynamicsConfig, Prediction
from models.functional import bind
from models.generation import Sampler, generate

CONFIG = DynamicsConfig(
    latents=4, channels=3, registers=1, actions={"move": Component("categorical", 5)},
    transformer=transformer_config(window=3),
)  # fmt: skip
PARAMS = generic(lambda rngs: Dynamics(CONFIG, rngs=rngs))
LATENTS = normal(0, 2, 7, 2, 6)
ACTIONS = jnp.arange(14).reshape(2, 7) % 5
LABELLED = jnp.ones((2, 7), bool).at[:, 0].set(False)


def model():
    return bind(lambda rngs: Dynamics(CONFIG, rngs=rngs), PARAMS)


FORWARD = jax.jit(lambda *inputs: model()(*inputs)[0])


class Spy:
    """A model that keeps the level, the step size, the input and the length of every pass."""

    def __init__(self, predict):
        self.config, self.init_cache, self.recall = CONFIG, model().init_cache, model().recall
        self.predict, self.passes = predict, []

    def __call__(self, noisy, signal, halvings, actions, labelled, *, cache, **others):
        self.passes.append((np.asarray(signal), np.asarray(halvings), np.asarray(noisy), np.asarray(actions)))
        written = cache._replace(length=cache.length + noisy.shape[1]) if isinstance(cache, Cache) else None
        return Prediction(self.predict(noisy), None, written)


def spied(predict, context, frames, sampler, seed=0):
    spy = Spy(predict)
    with jax.disable_jit():
        out = generate(
            spy, LATENTS[:, :context], ACTIONS[:, :frames], LABELLED[:, :frames], jax.random.key(seed), sampler
        )
    return np.asarray(out), spy.passes


@pytest.fixture
def noise(monkeypatch):
    """Noise by shape, whatever the key, so that a test need not know how keys are derived."""
    draw = jax.random.normal
    table = {}

    def fixed(key, shape=(), dtype=float):
        del key, dtype
        with jax.ensure_compile_time_eval():
            return table.setdefault(tuple(shape), draw(jax.random.key(sum(shape)), shape))

    monkeypatch.setattr(jax.random, "normal", fixed)
    return lambda shape: fixed(None, shape)


@pytest.mark.parametrize(
    ("context", "frames", "steps", "context_signal"),
    [(4, 7, 4, None), (4, 7, 1, None), (4, 7, 8, 7), (0, 5, 4, 6)],
    ids=["k4", "k1", "k8-noisy-context", "k4-from-nothing"],
)
def test_generation_is_plain_euler_over_the_whole_past(noise, context, frames, steps, context_signal):
    """The reference re-runs the whole past, uncached, in every pass (Dreamer 4, arXiv:2509.24527, §3.2)."""
    sampler = Sampler(steps=steps, context_signal=context_signal)
    actions, labelled = ACTIONS[:, :frames], LABELLED[:, :frames]
    out = jax.jit(lambda: generate(model(), LATENTS[:, :context], actions, labelled, jax.random.key(0), sampler))()

    level = 8 if context_signal is None else context_signal

    def seen(latents):
        """Past frames as the model sees them: at the context level."""
        return latents if level == 8 else level / 8 * latents + (1 - level / 8) * noise(latents.shape)

    wanted = [LATENTS[:, t] for t in range(context)]
    past = [seen(LATENTS[:, :context])] if context else []
    for t in range(context, frames):
        z = noise((2, 1, 2, 6))
        for k in range(steps):
            tau, d = k / steps, 1 / steps
            signal = jnp.full((2, t + 1), level).at[:, t].set(round(8 * tau))
            halvings = jnp.full((2, t + 1), 3).at[:, t].set(round(np.log2(steps)))
            inputs = jnp.concatenate([*past, z], axis=1)
            predicted = FORWARD(inputs, signal, halvings, ACTIONS[:, : t + 1], LABELLED[:, : t + 1])[:, t:]
            z = z + (predicted - z) * d / (1 - tau)
        wanted.append(z[:, 0])
        past.append(seen(z))
    assert_close(out, jnp.stack(wanted, axis=1), 1e-4)
    assert np.abs(np.diff(out, axis=1)).max(axis=(0, 2, 3)).min() > 1e-2  # frames differ


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_labels_are_the_levels_of_the_inputs(steps):
    # The prediction is exact, so the level of an input shows in how near it is: z̃ - target = (1 - τ) z0.
    _, passes = spied(lambda noisy: jnp.full_like(noisy, 5.0), 3, 5, Sampler(steps=steps))
    context, *generated = passes
    assert np.array_equal(context[0], np.full((2, 3), 8))
    assert np.array_equal(context[1], np.full((2, 3), 3))
    for frame in range(2):
        *denoising, final = generated[frame * (steps + 1) : (frame + 1) * (steps + 1)]
        assert [int(p[0].ravel()[0]) / 8 for p in denoising] == [k / steps for k in range(steps)]
        start = denoising[0][2] - 5.0
        for signal, halvings, noisy, _ in denoising:
            assert 0.5**halvings == pytest.approx(np.full((2, 1), 1 / steps))
            assert_close(noisy - 5.0, (1 - signal[0, 0] / 8) * start)
        # The finished frame goes into the past as clean and with the finest step.
        assert (final[0] == 8).all()
        assert (final[1] == 3).all()
        assert_close(final[2], np.full((2, 1, 2, 6), 5.0))


def test_each_frame_costs_a_pass_per_step_and_one_more():
    _, passes = spied(lambda noisy: noisy, 3, 7, Sampler(steps=4))
    assert [p[0].shape[1] for p in passes] == [3] + [1] * 4 * 5  # the context once, then single frames only


def test_passes_get_the_action_of_their_frame():
    _, passes = spied(lambda noisy: noisy, 3, 7, Sampler(steps=2))
    assert same(passes[0][3], ACTIONS[:, :3])
    for i, (_, _, _, action) in enumerate(passes[1:]):
        assert same(action, ACTIONS[:, 3 + i // 3][:, None])


def test_past_frames_carry_the_noise_that_their_label_says():
    _, passes = spied(lambda noisy: jnp.full_like(noisy, 5.0), 3, 7, Sampler(steps=1, context_signal=6))
    finished = [p for p in passes[1:] if p[0].ravel()[0] == 6]
    assert len(finished) == 4
    noise = np.concatenate([(p[2] - 0.75 * 5.0) / 0.25 for p in finished], axis=1)
    assert abs(noise.std() - 1) < 0.25
    assert abs(noise.mean()) < 0.35
    context = (passes[0][2] - 0.75 * LATENTS[:, :3]) / 0.25
    assert (passes[0][0] == 6).all()
    assert abs(np.std(context) - 1) < 0.3


def test_every_frame_and_row_gets_its_own_noise():
    # A model that predicts its input leaves the noise as it is.
    out, _ = spied(lambda noisy: noisy, 0, 7, Sampler(steps=2))
    noise = out.reshape(14, 12)
    assert abs(noise.std() - 1) < 0.2
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(noise, 2)) > 0.5
    assert not same(spied(lambda noisy: noisy, 0, 2, Sampler(steps=2), seed=1)[0], out[:, :2])


@pytest.fixture(scope="module")
def dream():
    run = jax.jit(
        lambda latents, actions, labelled, seed: generate(
            model(), latents, actions, labelled, jax.random.key(seed), Sampler()
        )
    )
    return lambda actions=ACTIONS, frames=7, seed=0: np.asarray(
        run(LATENTS[:, :2], actions[:, :frames], LABELLED[:, :frames], seed)
    )


def test_a_dream_begins_with_its_context(dream):
    assert same(dream()[:, :2], LATENTS[:, :2])


def test_longer_dreams_begin_as_shorter_ones(dream):
    assert_close(dream(frames=4), dream()[:, :4], 1e-5)


def test_later_actions_change_no_earlier_frame(dream):
    out, changed = dream(), dream(ACTIONS.at[0, 5].add(1))
    assert same(out[:, :5], changed[:, :5])
    assert same(out[1], changed[1])
    assert (np.abs(out - changed)[0, 5:].max(axis=(1, 2)) > 1e-3).all()


def test_the_key_decides_the_dream(dream):
    assert same(dream(seed=3), dream(seed=3))
    assert np.abs(dream(seed=3) - dream(seed=4))[:, 2:].max() > 1e-2


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Sampler(steps=3), "must divide model.max_steps=8, got 3"),
        (Sampler(steps=16), "must divide model.max_steps=8, got 16"),
        (Sampler(steps=0), "must divide model.max_steps=8, got 0"),
        (Sampler(context_signal=9), "context_signal must be in 1 … 8, got 9"),
        (Sampler(context_signal=0), "context_signal must be in 1 … 8, got 0"),
    ],
)
def test_samplers_that_do_not_fit_the_model_are_refused(sampler, message):
    with pytest.raises(ValueError, match=message):
        generate(model(), LATENTS, ACTIONS, LABELLED, jax.random.key(0), sampler)
