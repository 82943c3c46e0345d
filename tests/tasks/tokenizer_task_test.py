import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import TOKENIZER, ErringTokenizerTask, generic, shapes, tile

from tasks.tokenizer import TokenizerTask
from trainer.errors import ConfigError
from trainer.state import TrainState
from trainer.update import Update


def random_batch(rows=2, frames=3, size=8, low=0, high=256, seed=0):
    pixels = np.random.default_rng(seed).integers(low, high, (rows, frames, size, size, 3))
    return {"frames": pixels.astype(np.uint8)}


def make_task(batch, cls=TokenizerTask, **settings):
    task = cls(**{"model": TOKENIZER, **settings})
    task.setup({}, shapes(batch))
    return task


def mse_function(task):
    @functools.partial(jax.jit, static_argnames="train")
    def mse(params, batch, key, train):
        extra = task.init_extra(params)
        return task.loss(params, {}, batch, rng=key, step=0, extra=extra, train=train).metrics["mse"]

    return lambda params, batch, seed, train: float(mse(params, batch, jax.random.key(seed), train))


def test_patches_are_hidden_in_training_only():
    batch = random_batch()
    task = make_task(batch)
    params, mse = generic(task, batch), mse_function(task)
    assert mse(params, batch, 0, False) == mse(params, batch, 1, False)
    assert len({mse(params, batch, seed, True) for seed in range(3)}) == 3


def test_rows_of_unrelated_frames_are_seen_one_by_one():
    batch = random_batch()
    task = make_task(batch)
    params, mse = generic(task, batch), mse_function(task)
    singles = {"frames": batch["frames"].reshape(6, 1, 8, 8, 3)}
    alone = mse(params, {**batch, "independent": np.ones(2, bool)}, 0, False)
    np.testing.assert_allclose(alone, mse(params, singles, 0, False), rtol=1e-5)
    assert abs(alone - mse(params, batch, 0, False)) > 1e-3 * alone  # a past makes a difference


ERRORS = {"whole": 0.0, "hidden": 1.0, "seen": 0.0}  # so that the mse is the share of hidden patches


@pytest.mark.parametrize(
    ("frames", "independent", "clips", "stills", "expected"),
    [
        (16, None, 1.0, 0.0, 0.45),
        (16, False, 1.0, 0.0, 0.45),
        (16, True, 1.0, 0.0, 0.0),
        (16, True, 0.0, 1.0, 0.45),
        (16, False, 0.0, 1.0, 0.0),
        (16, False, 0.5, 1.0, 0.225),
        (1, None, 1.0, 0.0, 0.0),
        (1, False, 0.0, 1.0, 0.45),
    ],
)
def test_the_share_of_hidden_patches(frames, independent, clips, stills, expected):
    batch = random_batch(rows=32 if frames > 1 else 512, frames=frames)
    task = make_task(batch, ErringTokenizerTask, masked_share=clips, masked_share_stills=stills)
    if independent is not None:
        batch["independent"] = np.full(len(batch["frames"]), independent)
    assert mse_function(task)(ERRORS, batch, 0, True) == pytest.approx(expected, abs=0.05 if expected else 0)


def test_the_mask_is_chosen_row_by_row():
    batch = random_batch(rows=64, frames=8)
    task = make_task(batch, ErringTokenizerTask, masked_share_stills=0.0)
    batch["independent"] = np.arange(64) % 4 == 0
    assert mse_function(task)(ERRORS, batch, 0, True) == pytest.approx(0.75 * 0.45, abs=0.05)


def test_latent_noise_is_added_in_training_only():
    batch = random_batch(rows=8)
    task = make_task(batch, ErringTokenizerTask, masked_share=0.0, latent_noise=0.1)
    mse = mse_function(task)
    assert mse(ERRORS, batch, 0, True) == pytest.approx(0.01, rel=0.1)
    assert mse(ERRORS, batch, 0, False) == 0


def evaluate(task, params, batches):
    (evaluator,) = task.evaluators().values()
    return evaluator.evaluate(params=params, frozen={}, extra=None, rng=jax.random.key(3), batches=batches, step=0)


def test_psnr_of_known_errors():
    batches = [random_batch(low=60, high=150, seed=1), random_batch(low=10, high=40, seed=2)]
    task = make_task(batches[0], ErringTokenizerTask, clips=3)
    scalars = evaluate(task, {"whole": 0.1, "hidden": 0.2, "seen": 0.35}, batches).scalars
    measured = np.concatenate([batch["frames"] for batch in batches])[:3] / 255  # the fourth is one too many
    wrong_by = 0.1 * measured
    assert scalars["eval/psnr"] == pytest.approx(-10 * np.log10(np.mean(wrong_by**2)), abs=1e-3)
    assert scalars["eval/psnr_masked"] == pytest.approx(-20 * np.log10(0.2), abs=1e-3)  # 0.35 does not count


def test_predictions_beyond_white_are_white():
    batch = random_batch(low=255)
    task = make_task(batch, ErringTokenizerTask)
    scalars = evaluate(task, {"whole": 0.5, "hidden": 0.5, "seen": 0.5}, [batch]).scalars
    assert scalars == {"eval/psnr": np.inf, "eval/psnr_masked": np.inf}


def test_the_picture_shows_input_reconstruction_truth_and_the_unmasked_case():
    batch = random_batch(rows=3, frames=5, low=20, high=110)
    task = make_task(batch, ErringTokenizerTask)
    (picture,) = evaluate(task, {"whole": 0.1, "hidden": 0.2, "seen": 0.4}, [batch]).images.values()
    assert (picture.dtype, picture.shape) == (np.uint8, (4 + 4 * 68, 84 + 3 * 68, 3))
    for column, time in enumerate((0, 2, 4)):  # each clip at another moment
        truth = batch["frames"][column, time].astype(int)
        given, filled, shown, whole = (tile(picture, row, column, 8).astype(int) for row in range(4))
        np.testing.assert_array_equal(shown, truth)
        np.testing.assert_allclose(whole, 1.1 * truth, atol=1)
        hidden = given == 128
        np.testing.assert_array_equal(given[~hidden], truth[~hidden])
        np.testing.assert_allclose(filled, truth + np.where(hidden, 51, 102), atol=1)
        by_patch = hidden.reshape(2, 4, 2, 4, 3).mean((1, 3, 4))
        assert set(by_patch.ravel()) <= {0.0, 1.0}


def test_without_held_out_batches_nothing_is_reported():
    batch = random_batch()
    assert evaluate(make_task(batch, ErringTokenizerTask), {}, []).scalars == {}


def test_one_batch_can_be_learned_by_heart():
    colors = np.random.default_rng(0).integers(0, 256, (2, 3, 2, 2, 3))
    batch = {"frames": colors.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8)}
    task = make_task(batch, masked_share=0.5)
    tx = optax.adam(5e-3)
    params = task.init_params(jax.random.key(0), batch)
    zero = jnp.int32(0)
    state = TrainState(zero, params, tx.init(params), None, task.init_extra(params), jax.random.key(1), zero)
    step = jax.jit(lambda state: task.train_step(state, {}, batch, Update(tx=tx)))
    mse = mse_function(task)
    before = mse(params, batch, 0, False)
    for _ in range(150):
        state, metrics = step(state)
    assert mse(state.params, batch, 0, False) < 0.5 * before
    assert {"loss", "mse", "latent_rms", "grad_norm"} <= metrics.keys()
    assert int(state.skipped) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": (16, 16, 3)}, r"task.model.image = \(16, 16, 3\), but the data has frames of \(8, 8, 3\)"),
        ({"patch": 3}, "frames of 8 × 8 px do not divide into patches of 3 px"),
        ({"latens": 3}, "latens"),
        ({"encoder": {"width": 10, "heads": 3}}, "width must be a multiple of heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=f"task.model.*{message}|{message}"):
        make_task(random_batch(), model=TOKENIZER | changes)


@pytest.mark.parametrize("settings", [{"clips": 0}, {"masked_share": 1.5}, {"masked_share_stills": -0.1}])
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must be"):
        TokenizerTask(model=TOKENIZER, **settings)


def test_the_perceptual_loss_compares_the_reconstruction_with_the_truth(monkeypatch):
    distance = lambda weights, a, b: weights * jnp.mean(a - b, axis=(-3, -2, -1))  # noqa: E731
    monkeypatch.setattr("tasks.tokenizer.lpips.lpips", distance)
    batch = random_batch()
    task = make_task(batch, ErringTokenizerTask, lpips_weight=0.2)
    rng, extra = jax.random.key(0), task.init_extra({})
    out = task.loss({"whole": 0.1}, {"lpips": 3.0}, batch, rng=rng, step=0, extra=extra, train=False)
    assert float(out.metrics["lpips"]) == pytest.approx(0.3 * (batch["frames"] / 255).mean(), rel=1e-4)
    assert float(out.loss) == pytest.approx(1.2, rel=1e-4)  # at first every term is as large as its weight


def test_only_training_needs_the_weights_of_the_perceptual_loss():
    task = make_task(random_batch(), lpips_weight=0.2, lpips_weights="absent.npz")
    with pytest.raises(ConfigError, match=r"task.lpips_weight = 0.2: no LPIPS weights at absent.npz.*lpips_weight=0"):
        task.frozen()
    assert make_task(random_batch()).frozen() == {}
