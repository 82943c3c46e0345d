"""Shortcut forcing: which levels occur, that labels are true, and the values of the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, normal

from models.shortcut import ShortcutConfig, bootstrap_rows, corrupt, euler, sample_levels, shortcut_loss


class Spy:
    """A `predict` that keeps what it is given."""

    def __init__(self, predict):
        self.predict, self.calls = predict, []

    def __call__(self, noisy, signal, halvings, rows):
        self.calls.append((np.asarray(noisy), np.asarray(signal), np.asarray(halvings), rows))
        return self.predict(noisy, signal, halvings, rows)


def levels_of(config, bootstrap, frames=4000):
    levels = sample_levels(jax.random.key(0), (2, frames), config, jnp.full((2, 1), bootstrap))
    return np.asarray(levels.signal).ravel(), np.asarray(levels.halvings).ravel()


def test_every_level_that_sampling_uses_occurs_in_training():
    config = ShortcutConfig(max_steps=8)
    trained = set()
    for bootstrap in (False, True):
        trained |= set(zip(*(array.tolist() for array in levels_of(config, bootstrap)), strict=True))
    denoising = {(8 // k * i, k.bit_length() - 1) for k in (1, 2, 4, 8) for i in range(k)}
    context = {(8, 3), (7, 3)}  # the past, clean or nearly so
    assert denoising | context <= trained
    assert trained == denoising | context  # and none off the grid of its step size


def test_levels_are_uniform_on_the_grid_of_their_step_size():
    signal, halvings = levels_of(ShortcutConfig(max_steps=8, clean_share=0.0), True)
    assert_close(np.bincount(halvings) / len(halvings), [1 / 3, 1 / 3, 1 / 3], 0.03)
    for h in (0, 1, 2):
        share = np.bincount(signal[halvings == h], minlength=8) / np.sum(halvings == h)
        assert_close(share, np.where(np.arange(8) % (8 >> h) == 0, 0.5**h, 0.0), 0.04)
    signal, halvings = levels_of(ShortcutConfig(max_steps=8, clean_share=0.0), False)
    assert set(halvings) == {3}
    assert_close(np.bincount(signal) / len(signal), np.full(8, 1 / 8), 0.02)


def test_low_levels_are_drawn_more_often_by_the_power():
    config = ShortcutConfig(max_steps=8, clean_share=0.0, level_power=2.0)
    signal, _ = levels_of(config, False)
    assert_close(np.bincount(signal, minlength=8) / len(signal), np.diff(np.sqrt(np.arange(9) / 8)), 0.02)
    signal, halvings = levels_of(config, True)
    assert_close(np.bincount(halvings) / len(halvings), [1 / 3, 1 / 3, 1 / 3], 0.03)  # step sizes as before
    assert_close(np.mean(signal[halvings == 1] == 0), np.sqrt(0.5), 0.03)
    with pytest.raises(ValueError, match="level_power must be above 0"):
        ShortcutConfig(level_power=0.0)


def test_frames_are_clean_as_often_as_configured_and_each_on_its_own():
    levels = sample_levels(jax.random.key(1), (64, 64), ShortcutConfig(clean_share=0.3), jnp.zeros((64, 1), bool))
    clean = np.asarray(levels.signal) == 8
    assert abs(clean.mean() - 0.3) < 0.03
    assert np.abs(clean.mean(axis=0) - 0.3).max() < 0.25
    assert np.asarray(levels.signal).std(axis=1).min() > 0.5  # levels are drawn per frame, not per row


def test_the_finest_model_of_one_step_has_nothing_to_distil():
    config = ShortcutConfig(max_steps=1, bootstrap_share=0.5)
    terms = shortcut_loss(lambda z, *_: z, normal(0, 4, 3, 2, 2), jax.random.key(0), config)
    assert terms.bootstrap == 0.0
    assert terms.flow > 0.1


def test_the_label_is_the_level_of_the_input_in_every_pass():
    # Clean latents of ones, and an exact prediction: then the input's spread tells its level, 1 - std, to about 0.01,
    # in the student's pass and in both passes of the teacher.
    clean = jnp.ones((8, 32, 8, 512))
    spy = Spy(lambda noisy, signal, halvings, rows: clean[rows])
    shortcut_loss(spy, clean, jax.random.key(2), ShortcutConfig(bootstrap_share=0.5))
    (_, first, teacher, rows), (_, second, teacher2, _), (_, student, coarse, everything) = spy.calls
    assert (rows, everything) == (slice(0, 4), slice(0, 8))
    for noisy, signal, _, _ in spy.calls:
        assert_close(1 - noisy.std(axis=(2, 3)), signal / 8, 0.03)
        assert_close(noisy.mean(axis=(2, 3)), signal / 8, 0.1)
    # The teacher takes two half steps, from the student's level and from half a step further; clean frames stay clean.
    noisy = first < 8
    assert np.array_equal(first, student[rows])
    assert np.array_equal(teacher, np.where(noisy, coarse[rows] + 1, 3))
    assert np.array_equal(teacher, teacher2)
    assert np.array_equal(second, np.where(noisy, first + 8 // 2**teacher, 8))
    assert noisy.any()
    assert not noisy.all()


def test_clean_frames_are_given_exactly_as_they_are():
    clean = normal(3, 4, 16, 2, 3)
    spy = Spy(lambda noisy, *_: 0.5 * noisy)
    shortcut_loss(spy, clean, jax.random.key(3), ShortcutConfig(bootstrap_share=0.5))
    for noisy, signal, _, rows in spy.calls:
        assert np.array_equal(noisy[signal == 8], np.asarray(clean[rows])[signal == 8])


def test_an_exact_predictor_has_no_loss():
    clean = normal(4, 4, 16, 2, 3)
    terms = shortcut_loss(lambda *args: clean[args[3]], clean, jax.random.key(4), ShortcutConfig(bootstrap_share=0.5))
    assert terms.flow == 0.0
    assert terms.bootstrap < 1e-10


def some_network(noisy, signal, halvings, rows):
    """Depends on all that it is given, by no simple law."""
    del rows
    level, step = signal[..., None, None] / 8, 0.5 ** halvings[..., None, None]
    return jnp.sin(noisy * (1 + level)) + step * jnp.cos(3 * noisy) + level


@pytest.mark.parametrize(("share", "by_frame"), [(0.0, False), (0.5, False), (1.0, False), (0.0, True), (0.5, True)])
def test_losses_are_those_of_the_paper(share, by_frame):
    """Computed frame by frame in float64 from the velocity form of Dreamer 4, arXiv:2509.24527, §3.2."""
    clean = normal(5, 4, 16, 2, 3)
    spy = Spy(some_network)
    config = ShortcutConfig(bootstrap_share=share, bootstrap_frames=by_frame)
    terms = shortcut_loss(spy, clean, jax.random.key(5), config)
    inputs, signals, all_halvings, _ = spy.calls[-1]

    def f(z, tau, halvings):
        return np.sin(z * (1 + tau)) + 0.5**halvings * np.cos(3 * z) + tau

    flow, bootstrap = [], []
    for row, t in np.ndindex(4, 16):
        z, z1 = inputs[row, t].astype(np.float64), np.asarray(clean[row, t], np.float64)
        tau, halvings = signals[row, t] / 8, int(all_halvings[row, t])
        d = 0.5**halvings
        ramp = 0.9 * tau + 0.1
        if tau == 1:
            loss = 0.0
        elif halvings == 3:
            loss = ramp * np.mean((f(z, tau, 3) - z1) ** 2)
        else:
            b1 = (f(z, tau, halvings + 1) - z) / (1 - tau)
            z_half = z + b1 * d / 2
            b2 = (f(z_half, tau + d / 2, halvings + 1) - z_half) / (1 - (tau + d / 2))
            velocity = (f(z, tau, halvings) - z) / (1 - tau)
            loss = ramp * (1 - tau) ** 2 * np.mean((velocity - (b1 + b2) / 2) ** 2)
        (bootstrap if (halvings < 3 if by_frame else row < 4 * share) else flow).append(loss)
    np.testing.assert_allclose(terms.flow, np.sum(flow) / 64, rtol=1e-4)
    np.testing.assert_allclose(terms.bootstrap, np.sum(bootstrap) / 64, rtol=1e-4)
    assert (terms.flow > 0) == (share < 1)
    assert (terms.bootstrap > 0) == (share > 0)


def test_bootstrap_frames_are_drawn_one_by_one_and_leave_the_others_as_they_are():
    clean = normal(12, 64, 32, 2, 3)
    spy = Spy(lambda noisy, *_: 0.5 * noisy)
    config = ShortcutConfig(bootstrap_share=0.25, bootstrap_frames=True, clean_share=0.0)
    shortcut_loss(spy, clean, jax.random.key(12), config)
    (first, _, _, rows), (second, level, teacher, _), (noisy, student, halvings, everything) = spy.calls
    assert rows == everything == slice(0, 64)
    drawn = halvings < 3
    assert abs(drawn.mean() - 0.25) < 0.03
    assert 0 < drawn.mean(axis=1).min() < drawn.mean(axis=1).max() < 1  # in every row, and of none all
    assert np.array_equal(first, noisy)
    for change in (second - noisy, level - student, teacher - halvings):
        moved = np.abs(change).reshape(64, 32, -1).max(axis=-1) > 0
        assert np.array_equal(moved, drawn)


def test_no_gradient_flows_through_the_teacher():
    # With two steps at most, the student's bootstrap frames have halvings 0 and the teacher's 1, each with a parameter.
    clean = normal(6, 4, 16, 2, 3)
    config = ShortcutConfig(max_steps=2, bootstrap_share=1.0, clean_share=0.0)

    def loss(parameters):
        def predict(noisy, signal, halvings, rows):
            return jnp.tanh(noisy) * parameters[halvings][..., None, None]

        return shortcut_loss(predict, clean, jax.random.key(6), config).bootstrap

    parameters = jnp.array([0.5, 2.0])
    student, teacher = jax.grad(loss)(parameters)
    assert teacher == 0.0
    assert student != 0.0
    assert abs(loss(parameters) - loss(jnp.array([0.5, 1.0]))) > 1e-3  # though the teacher decides the target


def test_frames_are_weighted_by_the_ramp():
    clean = normal(7, 4, 16, 2, 3)
    for ramp in (0.9, 0.0):
        spy = Spy(lambda noisy, signal, halvings, rows: clean[rows] + 2.0)
        terms = shortcut_loss(spy, clean, jax.random.key(7), ShortcutConfig(bootstrap_share=0.0, ramp=ramp))
        signal = spy.calls[-1][1]
        weight = np.where(signal == 8, 0.0, ramp * signal / 8 + 1 - ramp)
        assert_close(terms.flow, 4.0 * weight.mean())
        assert terms.bootstrap == 0.0


def test_errors_of_velocities_are_those_of_latents_over_what_is_left_of_the_noise():
    clean = normal(7, 4, 16, 2, 3)
    spy = Spy(lambda noisy, signal, halvings, rows: clean[rows] + 2.0)
    config = ShortcutConfig(prediction="v", bootstrap_share=0.0, clean_share=0.25, ramp=0.0)
    terms = shortcut_loss(spy, clean, jax.random.key(7), config)
    signal = spy.calls[-1][1]
    assert_close(terms.flow, np.where(signal == 8, 0.0, 4.0 / np.where(signal == 8, 1, 1 - signal / 8) ** 2).mean())


def test_averages_go_over_the_frames_that_count():
    clean, counted = normal(7, 4, 3, 2, 3), jnp.zeros((4, 3), bool).at[1:3, 1].set(True)
    wrong = lambda noisy, signal, halvings, rows: clean[rows] + jnp.arange(3.0)[:, None, None]  # noqa: E731
    config = ShortcutConfig(bootstrap_share=0.0, clean_share=0.0, ramp=0.0)
    terms = shortcut_loss(wrong, clean, jax.random.key(7), config, counted=counted)
    assert_close(terms.flow, 1.0)
    assert shortcut_loss(wrong, clean, jax.random.key(7), config, counted=counted & False).flow == 0.0


def test_clean_frames_carry_no_loss():
    clean = normal(8, 4, 16, 2, 3)

    def wrong_where_clean(noisy, signal, halvings, rows):
        return clean[rows] + jnp.where(signal == 8, 100.0, 0.0)[..., None, None]

    terms = shortcut_loss(wrong_where_clean, clean, jax.random.key(8), ShortcutConfig(bootstrap_share=0.5))
    assert terms.flow == 0.0
    assert terms.bootstrap < 1e-10


def test_steps_along_an_exact_prediction_reach_it_through_the_right_levels():
    clean, noise = normal(9, 2, 3, 4, 5), normal(10, 2, 3, 4, 5)
    z = noise
    for k in range(4):
        assert_close(z, corrupt(clean, noise, jnp.full((2, 3), k / 4)), 1e-6)
        z = euler(z, clean, k / 4, 1 / 4)
    assert_close(z, clean, 1e-6)


@pytest.mark.parametrize(
    ("batch", "share", "rows", "batches"),
    [
        (16, 0.25, 4, 1),
        (4, 0.25, 1, 1),
        (2, 0.9, 1, 1),
        (2, 0.25, 1, 0.5),
        (1, 0.25, 1, 0.25),
        (4, 0, 0, 0),
        (4, 1, 4, 1),
    ],
)
def test_small_batches_keep_rows_of_both_kinds(batch, share, rows, batches):
    assert bootstrap_rows(batch, ShortcutConfig(max_steps=8, bootstrap_share=share)) == (rows, batches)


def test_less_than_a_row_is_a_row_of_fewer_batches():
    """Those are as they would be with a row in every batch, the others as without any; the gradients too."""
    clean = normal(13, 4, 6, 2, 3)

    def losses(share):
        config = ShortcutConfig(bootstrap_share=share, clean_share=0.0)

        def loss(parameter, rng):
            def network(noisy, signal, halvings, rows):
                return some_network(noisy, signal, halvings, rows) * parameter

            terms = shortcut_loss(network, clean, rng, config)
            return terms.flow + terms.bootstrap, terms.bootstrap

        return jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True), in_axes=(None, 0)))

    keys = jax.random.split(jax.random.key(13), 400)
    seldom, always, never = ((*loss, gradient) for loss, gradient in (losses(s)(0.9, keys) for s in (0.05, 0.25, 0.0)))
    drawn = np.asarray(seldom[1]) > 0
    assert abs(drawn.mean() - 0.2) < 0.06
    for mixed, with_row, without in zip(seldom, always, never, strict=True):
        assert_close(mixed, np.where(drawn, with_row, without), 1e-6)
