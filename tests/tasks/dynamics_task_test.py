import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import TOKENIZER, TRANSFORMER, FlatTokenizerTask, HandMadeDynamicsTask, flat_upstream, generic, shapes
from fakes import upstream as finished

from models.functional import init
from tasks.dynamics import DynamicsTask
from tasks.rollout import Rollout
from tasks.tokenizer import TokenizerTask
from trainer.errors import ConfigError

MOVES = jnp.array([-1.0, 0.0, 1.0]) * 3 / 255  # what an action adds to the brightness of the whole picture
WALK = {"packing": 2, "max_steps": 8, "latent_scale": 2.0, "actions": {"move": {"kind": "categorical", "size": 3}}}
PAST, HORIZON = 4, 32


def walk_batch(rows=2, seed=0, frames=PAST + HORIZON):
    """Pictures whose brightness follows the actions, with a texture that tokens do not keep: 20 in context, then 6."""
    numbers = np.random.default_rng(seed)
    actions = numbers.integers(0, 3, (rows, frames)).astype(np.int32)
    actions[:, 0] = 1
    brightness = 120 + 3 * np.cumsum(actions - 1, axis=1)
    amplitude = np.where(np.arange(frames) < PAST, 20, 6)
    checkers = 1 - 2 * (np.indices((4, 4)).sum(0) % 2)
    pixels = brightness[..., None, None, None] + amplitude[:, None, None, None] * checkers[..., None]
    pixels = np.broadcast_to(pixels, (rows, frames, 4, 4, 3))
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    is_first = np.broadcast_to(np.arange(frames) == 0, actions.shape)
    return {"frames": pixels.astype(np.uint8), "actions": actions, "is_first": is_first}


def walk_on(config, params, noisy, halvings, actions, labelled, independent, past):
    """Knows the rule of `walk_batch`; errs by `error[halvings]` in every frame."""
    move = params["influence"] * jnp.where(labelled, MOVES[actions], 0) + params["error"][halvings]
    return past + config.latent_scale * move[..., None, None]


@functools.cache
def walker(clips=64):
    task = HandMadeDynamicsTask(walk_on, model=WALK, sampler={"steps": 4}, rollout={"context": PAST, "clips": clips})
    task.setup(flat_upstream(), shapes(walk_batch()))
    return task


def walk_parameters(quick=0.003, finest=0.001, influence=1.0):
    return {"influence": jnp.float32(influence), "error": jnp.array([1.0, 1.0, quick, finest])}


def roll_out(task, params, batches):
    (evaluator,) = task.evaluators().values()
    return evaluator.evaluate(
        params=params, frozen=task.frozen(), extra=None, rng=jax.random.key(5), batches=batches, step=0
    )


def decibel(error):
    """PSNR of an array of errors."""
    return pytest.approx(-10 * np.log10(np.mean(np.square(error))), abs=0.01)


def test_figures_of_a_rollout_computed_by_hand():
    batch = walk_batch()
    scalars = roll_out(walker(), walk_parameters(), [batch]).scalars
    ahead, texture = np.arange(1, HORIZON + 1), 6 / 255 * np.array([1, -1])
    assert scalars["rollout/psnr_ceiling"] == decibel(texture)  # of the generated frames, not of the context
    assert scalars["rollout/psnr_k4"] == decibel(0.003 * ahead[:, None] + texture)
    assert scalars["rollout/psnr_finest"] == decibel(0.001 * ahead[:, None] + texture)
    for t in (1, 16, 32):
        assert scalars[f"rollout/psnr_k4_t{t}"] == decibel(0.003 * t + texture)
    frames = batch["frames"] / 255
    assert scalars["rollout/psnr_repeat_last"] == decibel(frames[:, PAST:] - frames[:, PAST - 1 : PAST])


def test_a_dynamics_that_follows_actions_is_sensitive_to_them():
    batch = walk_batch()
    scalars = roll_out(walker(), walk_parameters(quick=0.0005), [batch]).scalars
    ahead, texture = np.arange(1, HORIZON + 1), 6 / 255 * np.array([1, -1])
    moved = 3 / 255 * np.cumsum(batch["actions"][:, PAST:] - 1, axis=1)
    swapped = moved[::-1] - moved + 0.0005 * ahead  # of two rows, each gets the other's actions after the context
    expected = np.mean((swapped[..., None] + texture) ** 2) / np.mean((0.0005 * ahead[:, None] + texture) ** 2)
    assert expected > 2
    assert scalars["rollout/action_sensitivity"] == pytest.approx(expected, rel=1e-3)


def test_a_dynamics_without_influence_of_actions_has_a_sensitivity_of_exactly_one():
    scalars = roll_out(walker(), walk_parameters(influence=0.0), [walk_batch()]).scalars
    assert scalars["rollout/action_sensitivity"] == 1.0


def test_a_single_row_says_nothing_about_sensitivity():
    scalars = roll_out(walker(), walk_parameters(), [walk_batch(), walk_batch(rows=1)]).scalars
    assert "rollout/psnr_k4" in scalars
    assert "rollout/action_sensitivity" not in scalars


def test_unlabelled_actions_are_not_used():
    batch = walk_batch() | {"labelled": np.zeros(2, bool)}
    scalars = roll_out(walker(), walk_parameters(), [batch]).scalars
    still = roll_out(walker(), walk_parameters(influence=0.0), [walk_batch()]).scalars
    assert scalars == still


def test_clips_beyond_the_number_asked_for_do_not_count():
    batches = [walk_batch(seed=1), walk_batch(seed=2)]
    three = roll_out(walker(clips=3), walk_parameters(), batches).scalars
    frames = np.concatenate([batch["frames"] for batch in batches])[:3] / 255
    assert three["rollout/psnr_repeat_last"] == decibel(frames[:, PAST:] - frames[:, PAST - 1 : PAST])
    endless = iter([*batches, "no batch"])
    assert roll_out(walker(clips=3), walk_parameters(), endless).scalars == three
    assert next(endless) == "no batch"


def test_media_show_the_first_clips():
    result = roll_out(walker(), walk_parameters(), [walk_batch(rows=2)])
    video, image = result.videos["rollout"], result.images["rollout"]
    assert (video.dtype, image.dtype) == (np.uint8, np.uint8)
    assert video.shape == (PAST + HORIZON, 4 + 4 * 72, 84 + 2 * 72, 3)
    assert image.shape[-1] == 3
    assert roll_out(walker(), walk_parameters(), []).videos == {}


@pytest.mark.parametrize("frames", [PAST - 1, PAST])
def test_clips_no_longer_than_the_context_are_refused(frames):
    (evaluator,) = walker().evaluators().values()
    with pytest.raises(ConfigError, match=f"rollouts give 4 frames .* clips have {frames}.*eval_data.length"):
        evaluator.check(shapes(walk_batch(frames=frames)))
    evaluator.check(shapes(walk_batch(frames=PAST + 1)))
    evaluator.check(None)


def test_labelled_frames():
    batch = {
        "frames": np.zeros((4, 3, 4, 4, 3), np.uint8),
        "is_first": np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]], bool),
        "labelled": np.array([1, 1, 0, 1], bool),
        "independent": np.array([0, 0, 0, 1], bool),
    }
    expected = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(walker().labelled_frames(batch), expected)
    assert walker().labelled_frames({"frames": batch["frames"]}).all()


# Rows of one value each, which a dynamics can tell only if a row's actions and marks stay with its frames.
VALUES = jnp.array([0.2, 0.4, 0.6, 0.8])


def look_up(config, params, noisy, halvings, actions, labelled, independent, past):
    """The value of a row: by its action, or 0.6 without labels and 0.8 in independent rows; coarse steps miss row 1."""
    value = jnp.where(independent[:, None], VALUES[3], jnp.where(labelled, VALUES[actions], VALUES[2]))
    missed = (halvings == 0) & labelled & (actions == 1)
    value = params["scale"] * (value + jnp.where(missed, 0.3, 0))
    return jnp.broadcast_to(value[..., None, None], noisy.shape)


def table_batch():
    rows = np.arange(4)
    return {
        "frames": np.broadcast_to(np.array([51, 102, 153, 204], np.uint8)[:, None, None, None, None], (4, 3, 4, 4, 3)),
        "actions": np.broadcast_to(rows[:, None] % 2, (4, 3)).astype(np.int32),
        "labelled": rows != 2,
        "independent": rows == 3,
        "is_first": np.zeros((4, 3), bool),
    }


@pytest.fixture(scope="module")
def table_loss():
    """(scale of the predictions, the tokenizer's gain) → the terms of the loss for many keys."""
    model = {"packing": 2, "max_steps": 2, "actions": {"move": {"kind": "categorical", "size": 4}}}
    task = HandMadeDynamicsTask(
        look_up,
        model=model,
        objective={"bootstrap_share": 0.25, "clean_share": 0.0},
        sampler={"steps": 1, "context_signal": 1},
    )
    task.setup(flat_upstream(), shapes(table_batch()))

    batch = jax.tree.map(jnp.asarray, table_batch())

    def loss(scale, gain, key):
        frozen = {"tokenizer": {"gain": gain}}
        out = task.loss({"scale": scale}, frozen, batch, rng=key, step=0, extra={}, train=True)
        return out.loss, out.metrics

    return loss


def test_rows_change_places_together_and_take_turns_in_bootstrapping(table_loss):
    keys = jax.random.split(jax.random.key(0), 200)
    total, terms = jax.jit(jax.vmap(lambda key: table_loss(1.0, 1.0, key)))(keys)
    np.testing.assert_allclose(terms["flow"], 0, atol=1e-9)
    np.testing.assert_allclose(total, terms["flow"] + terms["bootstrap"])
    missed = np.asarray(terms["bootstrap"]) > 1e-4
    assert 25 <= missed.sum() <= 80  # one row of four, a different one each time


def test_no_gradient_reaches_the_tokenizer(table_loss):
    def summed(scale, gain):
        return jnp.mean(jax.vmap(lambda key: table_loss(scale, gain, key)[0])(jax.random.split(jax.random.key(0), 4)))

    evaluated = jax.jit(jax.value_and_grad(summed, argnums=(0, 1)))
    (value, (to_scale, to_gain)), (other, _) = evaluated(1.2, 1.0), evaluated(1.2, 0.5)
    assert float(to_gain) == 0
    assert float(to_scale) > 0
    assert float(value) != float(other)  # it does depend on the tokenizer


def test_the_tokenizer_is_told_of_unrelated_frames():
    tokenizer = FlatTokenizerTask()
    task = HandMadeDynamicsTask(walk_on, model=WALK)
    task.setup(finished(tokenizer, {"gain": jnp.float32(1)}), shapes(walk_batch()))
    independent = np.array([True, False])
    batch = walk_batch()
    latents = task.encode(task.frozen()["tokenizer"], batch | {"independent": independent})
    assert tokenizer.calls[-1] is independent
    means = batch["frames"].mean((2, 3, 4)) / 255
    np.testing.assert_allclose(latents, np.broadcast_to(2.0 * means[..., None, None], (2, 36, 2, 2)), rtol=1e-5)
    flat = np.broadcast_to(means[..., None, None, None], (2, 36, 4, 4, 3))
    np.testing.assert_allclose(task.decode(task.frozen()["tokenizer"], latents), flat, rtol=1e-5)


def real_tokenizer():
    task = TokenizerTask(model=TOKENIZER)
    frames = np.zeros((2, 5, 8, 8, 3), np.uint8)
    task.setup({}, shapes({"frames": frames}))
    return finished(task, generic(task, {"frames": frames}))


def real_task(batch, actions, max_steps=2, steps=1):
    task = DynamicsTask(
        model={"packing": 2, "registers": 1, "max_steps": max_steps, "actions": actions, "transformer": TRANSFORMER},
        sampler={"steps": steps}, rollout={"context": 2, "shown": 1},
    )  # fmt: skip
    task.setup(real_tokenizer(), shapes(batch))
    return task


def video(frames=5):
    numbers = np.random.default_rng(0)
    return {"frames": numbers.integers(0, 256, (2, frames, 8, 8, 3)).astype(np.uint8)}


def test_the_real_dynamics_under_its_actions_and_without_them():
    actions = {"move": {"kind": "categorical", "size": 3}, "keys": {"kind": "binary", "size": 2}}
    numbers = np.random.default_rng(1)
    given = {"move": numbers.integers(0, 3, (2, 5)), "keys": numbers.integers(0, 2, (2, 5, 2))}
    batch = video() | {"actions": given, "is_first": np.broadcast_to(np.arange(5) == 0, (2, 5))}
    task = real_task(batch, actions)
    params = generic(task, batch)
    scalars = roll_out(task, params, [batch]).scalars
    names = ("finest", "k4", "k1", "ceiling", "repeat_last", "k4_t1")
    assert set(scalars) == {"rollout/clips", "rollout/action_sensitivity", *(f"rollout/psnr_{name}" for name in names)}
    assert abs(scalars["rollout/action_sensitivity"] - 1) > 1e-4
    params["action"]["components"] = jax.tree.map(jnp.zeros_like, params["action"]["components"])
    assert roll_out(task, params, [batch]).scalars["rollout/action_sensitivity"] == 1.0


def test_unlabelled_video_trains_and_rolls_out():
    batch = {"frames": np.repeat(video()["frames"], 8, axis=0)}
    task = real_task(batch, {})
    params = init(task._make, jax.random.key(0))
    tx = optax.adam(1e-2)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, key):
        def loss(params):
            return task.loss(params, task.frozen(), batch, rng=key, step=0, extra={}, train=True).loss

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    losses = []
    for key in jax.random.split(jax.random.key(1), 80):
        params, opt_state, value = step(params, opt_state, key)
        losses.append(float(value))
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    scalars = roll_out(task, params, [batch]).scalars
    assert "rollout/action_sensitivity" not in scalars
    assert np.isfinite(list(scalars.values())).all()


def other_kind_of_upstream():
    return finished(walker(), {})


@pytest.mark.parametrize(
    ("upstream", "changes", "message"),
    [
        (dict, {}, "DynamicsTask needs a trained tokenizer: set config.upstream.tokenizer"),
        (other_kind_of_upstream, {}, "DynamicsTask needs a trained tokenizer: set config.upstream.tokenizer"),
        (real_tokenizer, {}, r"logs/tokens was trained on frames of \(8, 8, 3\), the data has \(4, 4, 3\)"),
        (flat_upstream, {"model": WALK | {"packing": 3}}, "4 latent tokens do not pack by 3"),
        (flat_upstream, {"model": WALK | {"max_steps": 6}}, "max_steps must be a power of two, got 6"),
        (flat_upstream, {"model": WALK | {"packign": 2}}, "task.model has no 'packign'. Did you mean 'packing'"),
        (flat_upstream, {"model": WALK | {"actions": {"move": {"kind": "binary", "size": 3}}}}, r"\[B, T, 3\]"),
        (flat_upstream, {"model": WALK | {"actions": {"move": {"kind": "direction", "size": 3}}}}, "'direction'"),
        (flat_upstream, {"model": WALK | {"actions": {}}, "sampler": {"steps": 3}}, "must divide .*max_steps=8, got 3"),
        (flat_upstream, {"sampler": {"steps": 16}}, "must divide .*max_steps=8, got 16"),
        (flat_upstream, {"sampler": {"context_signal": 9}}, "context_signal must be in 1 … 8, got 9"),
        (
            flat_upstream,
            {"model": WALK | {"transformer": {"widht": 8}}},
            "task.model.transformer has no 'widht'. Did you",
        ),
        (
            flat_upstream,
            {"objective": {"bootstrap": 0.5}},
            "task.objective has no 'bootstrap'. Did you mean 'bootstrap_",
        ),
        (flat_upstream, {"sampler": {"step": 4}}, "task.sampler has no 'step'. Did you mean 'steps'"),
        (flat_upstream, {"objective": {"clean_share": 0.0}}, "past frames clean, .*clean_share = 0.0"),
        (flat_upstream, {"objective": {"forcing": "teacher"}}, "set clean_share=0, got 0.25"),
        (flat_upstream, {"model": WALK | {"residual": True}}, "set objective.forcing to .teacher.*not .diffusion"),
        (flat_upstream, {"objective": {"forcing": "techer", "clean_share": 0.0}}, "one of diffusion, teacher"),
        (flat_upstream, {"rollout": {"contxt": 3}}, "task.rollout has no 'contxt'. Did you mean 'context'"),
        (flat_upstream, {"rollout": {"context": 0}}, "rollout.context must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(upstream, changes, message):
    task = DynamicsTask(**{"model": WALK, **changes})
    with pytest.raises(ConfigError, match=message) as caught:
        task.setup(upstream(), shapes(walk_batch()))
    assert "\n" not in str(caught.value)


def test_an_action_space_without_actions_in_the_data_is_refused():
    batch = walk_batch()
    del batch["actions"]
    with pytest.raises(ConfigError, match=r"the data has no actions; .*task.model.actions=\{\}"):
        DynamicsTask(model=WALK).setup(flat_upstream(), shapes(batch))


def test_rollouts_are_measured_at_their_own_interval():
    task = DynamicsTask(model=WALK, rollout={"every": 7})
    task.setup(flat_upstream(), shapes(walk_batch()))
    (evaluator,) = task.evaluators().values()
    assert isinstance(evaluator, Rollout)
    assert evaluator.every == 7


@pytest.mark.parametrize(("by_frame", "rows", "sorts"), [(False, None, True), (True, None, False), (True, 2, True)])
def test_rows_stay_where_they_are_when_bootstrap_frames_are_drawn(by_frame, rows, sorts):
    # On a mesh, rows in another order have to be sent to other devices.
    objective = {"bootstrap_share": 0.5, "bootstrap_frames": by_frame}
    task = HandMadeDynamicsTask(walk_first, model=WALK, objective=objective, rollout={"context": PAST})
    batch = jax.tree.map(jnp.asarray, walk_batch(rows=4, frames=6))
    task.setup(flat_upstream(), shapes(batch))

    def terms(clean, rng):
        return task.shortcut_terms(walk_parameters(), clean, batch, rng, rows)

    clean = task.encode(task.frozen()["tokenizer"], batch)
    assert (" sort[" in str(jax.make_jaxpr(terms)(clean, jax.random.key(0)))) == sorts


def walk_first(config, params, noisy, halvings, actions, labelled, independent, past):
    """Depends on noise and action alone."""
    return noisy + params["influence"] * MOVES[actions][..., None, None]


def its_own_past(config, params, noisy, halvings, actions, labelled, independent, past):
    """Gives away the finished frames that it is handed."""
    return past


@pytest.mark.parametrize("bootstrap", [0.0, 0.5])
def test_with_teacher_forcing_every_row_is_given_its_own_finished_frames(bootstrap):
    objective = {"forcing": "teacher", "clean_share": 0.0, "bootstrap_share": bootstrap}
    task = HandMadeDynamicsTask(its_own_past, model=WALK, objective=objective, rollout={"context": PAST})
    batch = jax.tree.map(jnp.asarray, walk_batch(rows=4, frames=6))
    task.setup(flat_upstream(), shapes(batch))
    clean = task.encode(task.frozen()["tokenizer"], batch)
    terms = jax.vmap(lambda rng: task.shortcut_terms({}, clean, batch, rng, 3))(jax.random.split(jax.random.key(0), 20))
    np.testing.assert_allclose(terms.flow, 0, atol=1e-9)
    np.testing.assert_allclose(terms.bootstrap, 0, atol=1e-9)
    assert np.ptp(np.asarray(clean).mean(axis=(2, 3)), axis=0).max() > 1e-2  # rows differ


def test_with_teacher_forcing_every_frame_is_noisy_and_learns():
    objective = {"forcing": "teacher", "clean_share": 0.0, "bootstrap_share": 0.0, "ramp": 0.0}
    wrong = lambda config, params, noisy, *rest: rest[-1] + params  # noqa: E731
    task = HandMadeDynamicsTask(wrong, model=WALK, objective=objective, rollout={"context": PAST})
    batch = jax.tree.map(jnp.asarray, walk_batch(rows=4, frames=6))
    task.setup(flat_upstream(), shapes(batch))
    clean = task.encode(task.frozen()["tokenizer"], batch)
    errors = jnp.arange(24.0).reshape(4, 6)[..., None, None]
    terms = task.shortcut_terms(errors, clean, batch, jax.random.key(0))
    assert float(terms.flow) == pytest.approx(float(jnp.mean(errors**2)), rel=1e-5)
    # Where a clip begins in the middle of an episode, its first frame cannot be foretold: it does not count.
    batch["is_first"] = jnp.zeros_like(batch["is_first"])
    terms = task.shortcut_terms(errors, clean, batch, jax.random.key(0))
    assert float(terms.flow) == pytest.approx(float(jnp.mean(errors[:, 1:] ** 2)), rel=1e-5)
    terms = task.shortcut_terms(errors, clean, batch | {"independent": jnp.ones(4, bool)}, jax.random.key(0))
    assert float(terms.flow) == pytest.approx(float(jnp.mean(errors**2)), rel=1e-5)


@pytest.mark.parametrize(
    ("steps", "names"), [(1, {"k4", "k1", "finest"}), (4, {"k4", "finest"}), (8, {"k4", "finest"})]
)
def test_dreams_are_measured_in_four_the_finest_and_the_given_steps(steps, names):
    batch = video()
    task = real_task(batch, {}, max_steps=8, steps=steps)
    params = generic(task, batch)
    dreams = jax.jit(lambda params: task.dream(params, task.frozen(), batch, 2, jax.random.key(0)))(params)
    assert set(dreams) == names | {"ceiling"}
    assert all(np.abs(dreams["k4"] - dreams[name]).max() > 1e-4 for name in names - {"k4"})


def test_sampling_in_steps_that_nothing_trains_is_told(capsys):
    for settings, told in (({"sampler": {"steps": 8}}, False), ({}, True)):
        DynamicsTask(model=WALK, objective={"bootstrap_share": 0.0}, **settings).setup(
            flat_upstream(), shapes(walk_batch())
        )
        assert ("only steps of 1/8 are trained" in capsys.readouterr().err) == told
