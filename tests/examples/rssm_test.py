"""A world model of another kind, as a third party would add it: what it imports and computes, and that it trains."""

import ast
import functools
import importlib
import json
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reverie_rssm.behavior_task import RssmBehaviorTask
from reverie_rssm.imagination import Imagination, RssmEyes
from reverie_rssm.inputs import action_vectors
from reverie_rssm.networks import merge, spread
from reverie_rssm.rssm import State, draw
from reverie_rssm.task import RssmTask
from small_world import BATCH, MODEL, TIME, behavior, keys, make_batch, shapes, upstream, world

from models.actions import Component
from models.imagination import roll_out
from trainer import ConfigError, DataError, Task, cli, experiment
from trainer.writers import read_jsonl

EXAMPLE = Path(__file__).parents[2] / "examples" / "rssm"
CONFIGS = EXAMPLE / "reverie_rssm" / "configs"


@functools.cache
def compiled():
    task, params = world()

    def observe(batch):
        states, logits = task.model(params).observe(batch, keys(7))
        return {"deter": states.deter, "stoch": states.stoch, "posterior": logits}

    return jax.jit(observe)


def observed(batch):
    """h, z and the log-probabilities of the posterior, of every frame."""
    return compiled()(batch)


def changed(batch, other):
    """Which frames [B, T] of the states differ, by what differs."""
    a, b = observed(batch), observed(other)
    return {k: np.asarray(jnp.any(a[k] != b[k], axis=tuple(range(2, a[k].ndim)))) for k in a}


def edited(batch, name, index, value):
    array = batch[name].copy()
    array[:, index] = value(array[:, index])
    return {**batch, name: array}


def invert(frames):
    return 255 - frames


def other_action(actions):
    return (actions + 1) % 3


def python_files():
    return sorted(EXAMPLE.glob("reverie_rssm/**/*.py"))


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_it_uses_public_names_only():
    assert len(python_files()) > 8
    own = {"_fields", "_replace", "_asdict"}  # of a NamedTuple, public
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                own.add(node.name)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                parts = [part for alias in node.names for part in alias.name.split(".")]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute) and is_private(node.attr):
                assert isinstance(node.value, ast.Name), f"{path.name}, line {node.lineno}: {node.attr}"
                assert node.value.id == "self", f"{path.name}, line {node.lineno}: {node.attr}"
                assert node.attr in own, f"{path.name}, line {node.lineno}: {node.attr}"
                continue
            else:
                continue
            assert not [part for part in parts if is_private(part)], f"{path.name}, line {node.lineno}"
    assert not [name for name in own if is_private(name) and hasattr(Task, name)]


def test_entry_points_name_its_tasks():
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["trainer.tasks"]
    found = {name: getattr(importlib.import_module(at.split(":")[0]), at.split(":")[1]) for name, at in named.items()}
    assert found == {"rssm": RssmTask, "rssm_behavior": RssmBehaviorTask}


def test_patches_are_pieces_of_the_picture():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(merge(x, 2)[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(spread(merge(x, 2), 2), x)


def test_a_state_depends_on_its_frame_and_the_past_alone():
    batch, t, frames = make_batch(), 3, np.arange(TIME)
    by_frame = changed(batch, edited(batch, "frames", t, invert))
    np.testing.assert_array_equal(by_frame["posterior"][:, frames <= t], np.tile(frames[: t + 1] == t, (BATCH, 1)))
    assert not by_frame["deter"][:, : t + 1].any()  # h knows the past and the action only
    assert by_frame["deter"][:, t + 1 :].any(axis=0).all()
    by_action = changed(batch, edited(batch, "actions", t, other_action))
    for part in by_action.values():
        assert not part[:, :t].any()
    assert by_action["deter"][:, t].all()  # the action led to this frame


def test_a_reset_cuts_the_past_and_has_no_action():
    t = 3
    batch = make_batch(is_first=np.broadcast_to(np.arange(TIME) == t, (BATCH, TIME)))
    for name, value in (("frames", invert), ("actions", other_action)):
        other = batch
        for index in range(t + (name == "actions")):
            other = edited(other, name, index, value)
        difference = changed(batch, other)
        assert name == "actions" or difference["posterior"][:, :t].all()
        for part in difference.values():
            assert not part[:, t:].any()
    assert not any(part.any() for part in changed(batch, edited(batch, "actions", 0, other_action)).values())


def test_unrelated_frames_do_not_see_each_other():
    batch = make_batch(independent=np.arange(BATCH) == 1)
    difference = changed(batch, edited(batch, "frames", 2, invert))
    np.testing.assert_array_equal(difference["posterior"][1], np.arange(TIME) == 2)
    assert difference["posterior"][0, 3:].any()
    difference = changed(batch, edited(batch, "actions", 2, other_action))
    assert not any(part[1].any() for part in difference.values())


def test_hidden_actions_are_not_used():
    batch = make_batch(labelled=np.arange(BATCH) != 2)
    difference = changed(batch, edited(batch, "actions", 4, other_action))
    assert not any(part[2].any() for part in difference.values())
    assert difference["deter"][:2, 4].all()


def test_actions_as_vectors():
    space = {"a": Component("categorical", 3), "b": Component("binary", 2), "c": Component("continuous", 1)}
    actions = {"c": np.array([[[0.5], [np.nan]]]), "a": np.array([[2, 7]]), "b": np.array([[[0, 1], [1, 1]]])}
    vectors = action_vectors(actions, space, jnp.array([[True, False]]))
    np.testing.assert_array_equal(vectors, [[[0, 0, 1, -1, 1, 0.5], [0] * 6]])


def test_looking_frame_by_frame_gives_the_features_of_training():
    task, params = world()
    batch = make_batch(is_first=np.broadcast_to(np.arange(TIME) == 0, (BATCH, TIME)))
    eyes, random = RssmEyes(task.model(params)), keys(7)

    @jax.jit
    def look():
        state, seen = eyes.begin(BATCH), []
        for t in range(TIME):
            actions = {"move": batch["actions"][:, t]} if t else None
            state, features = eyes.look(state, batch["frames"][:, t], actions, random[t])
            seen.append(features)
        return jnp.stack(seen, axis=1)

    states = observed(batch)
    features = np.concatenate([states["deter"], states["stoch"].reshape(BATCH, TIME, -1)], axis=-1)
    np.testing.assert_allclose(look(), features, atol=1e-5)


def test_imagined_features_are_those_of_their_continuation():
    task, params = world()
    batch, rng = make_batch(), jax.random.key(5)
    states = observed(batch)
    start = State(states["deter"][:, -1], states["stoch"][:, -1])

    def policy(state, moment, t, rng):
        return {"move": jax.random.randint(rng, (BATCH,), 0, 3)}

    @jax.jit
    def imagine():
        model = task.model(params)
        imagination = Imagination(model)
        rollout = roll_out(imagination, (start, imagination.arrive(start)), policy, rng, 4)
        random = jnp.stack([jax.random.split(jax.random.fold_in(rng, t))[1] for t in range(4)])
        actions, known = rollout.actions["move"], jnp.ones((BATCH, 4), bool)
        whole = model.dream(start, actions, known, random)
        half = jax.tree.map(lambda x: x[:, 1], whole)
        rest = model.dream(half, actions[:, 2:], known[:, 2:], random[2:])
        return rollout, whole.features, rest.features, model.reward.now(whole.features)

    rollout, whole, rest, rewards = imagine()
    np.testing.assert_array_equal(rollout.features[:, 0], start.features)
    np.testing.assert_allclose(rollout.features[:, 1:], whole, atol=1e-5)  # the actions it reports led there
    np.testing.assert_allclose(rollout.rewards, rewards, atol=1e-5)  # received on arriving
    np.testing.assert_allclose(whole[:, 2:], rest, atol=1e-5)


def test_no_class_is_impossible():
    task, params = world()
    sure = jax.tree.map(lambda x: 100 * x, params)
    logits = task.model(sure).rssm.prior(jnp.ones((2, MODEL["deter"])))
    np.testing.assert_allclose(jnp.exp(logits).sum(-1), 1, atol=1e-5)
    assert jnp.exp(logits).min() == pytest.approx(0.01 / MODEL["classes"], rel=1e-3)


def test_gradients_pass_straight_through_a_draw():
    logits = jax.nn.log_softmax(jnp.array([[2.0, 0.0, 1.0]]))
    hot = draw(jax.random.key(0), logits)
    np.testing.assert_allclose(jnp.sort(hot), [[0, 0, 1]], atol=1e-6)
    weights = jnp.array([[1.0, 2.0, 3.0]])
    through = jax.grad(lambda x: jnp.sum(weights * draw(jax.random.key(0), x)))(logits)
    np.testing.assert_allclose(through, weights * jnp.exp(logits), rtol=1e-6)


def test_a_dream_sees_no_frame_beyond_its_context():
    task, params = world()
    batch = make_batch()
    other = edited(edited(batch, "frames", 3, invert), "frames", 4, invert)
    dream = jax.jit(lambda batch: task.dream(params, {}, batch, 3, jax.random.key(2)))
    a, b = dream(batch), dream(other)
    for name in ("k4", "shuffled"):
        np.testing.assert_array_equal(a[name], b[name])
        assert a[name].shape == batch["frames"].shape
    np.testing.assert_allclose(a["k4"][:, :3], a["ceiling"][:, :3], atol=1e-5)
    assert (a["ceiling"][:, 3:] != b["ceiling"][:, 3:]).any()
    assert (a["k4"] != a["shuffled"]).any()


def test_half_precision_computes_in_half_precision():
    task, params = world()
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    states, logits = jax.eval_shape(lambda p: task.model(p).observe(make_batch(), keys(0)), half)
    assert (states.deter.dtype, states.stoch.dtype, logits.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    seen = jax.eval_shape(lambda p, f: task.model(p).decoder(f), half, jax.ShapeDtypeStruct((BATCH, 40), jnp.bfloat16))
    assert seen.dtype == jnp.bfloat16


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="the terms are image"):
        RssmTask(model=MODEL, weights={"picture": 1})
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=r"weights\.image must be a number, 0 or more, got (-1\.0|nan)"):
            RssmTask(model=MODEL, weights={"image": weight})
    with pytest.raises(ConfigError, match="cannot be cut into squares of 8"):
        RssmTask(model=MODEL | {"stages": 2}).setup({}, shapes(make_batch(frames=2)) | {"frames": frames_of(12)})
    with pytest.raises(ConfigError, match="unexpected keyword argument 'depht'"):
        RssmTask(model=MODEL | {"depht": 3}).setup({}, shapes(make_batch()))
    with pytest.raises(ConfigError, match="no rewards"):
        RssmTask(model=MODEL).setup({}, {k: v for k, v in shapes(make_batch()).items() if k != "rewards"})
    with pytest.raises(DataError, match=r"move' should lie in 0 … 2; the data has .* 3"):
        world()[0].check_batch(make_batch(actions=np.full((BATCH, TIME), 3, np.int32)))
    world()[0].check_batch(make_batch(actions=np.full((BATCH, TIME), 3, np.int32), labelled=np.zeros(BATCH, bool)))
    with pytest.raises(ConfigError, match=r"config\.upstream\.world"):
        RssmBehaviorTask().setup({}, shapes(make_batch()))
    with pytest.raises(ConfigError, match=r"lower task\.context"):
        RssmBehaviorTask(context=TIME + 1).setup(upstream(), shapes(make_batch()))
    with pytest.raises(ConfigError, match="one categorical action of 4"):
        behavior(environment={"target": "bouncing_square"})


def frames_of(size):
    return jax.ShapeDtypeStruct((BATCH, 2, size, size, 3), np.uint8)


def test_both_phases_train_and_are_evaluated_again(tmp_path, monkeypatch, capsys, compiled_programs):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "data"))
    code = cli.main([f"--config={CONFIGS / 'rssm_behavior.py'}:smoke", compiled_programs])
    assert code == 0, capsys.readouterr().err
    wanted = {
        "rssm-smoke": {
            "eval/loss", "eval/image", "eval/dynamics", "eval/representation", "eval/reward_mae", "rollout/psnr_k4",
            "rollout/psnr_repeat_last", "rollout/psnr_ceiling", "rollout/psnr_k4_t1", "rollout/psnr_k4_t16",
            "rollout/psnr_k4_t32", "rollout/action_sensitivity",
        },
        "rssm_behavior-smoke": {
            "eval/loss", "control/return", "control/return_random", "control/return_optimal", "control/return_greedy",
            "control/normalized_return", "control/imagined_return",
        },
    }  # fmt: skip
    results, run = [], experiment.run
    monkeypatch.setattr(experiment, "run", lambda *args, **kwargs: results.append(run(*args, **kwargs)))
    for name, figures in wanted.items():
        *_, last = read_jsonl(tmp_path / "logs" / name / "metrics.jsonl")
        last = {key: value for key, value in last.items() if key not in ("step", "time")}
        assert figures <= set(last)
        judged = json.loads((tmp_path / "logs" / name / "report.json").read_text())["comparisons"]
        assert {row["metric"] for row in judged} <= set(last)  # nothing that this model cannot have
        assert (tmp_path / "logs" / name / "report.html").is_file()
        arguments = [f"--config=logs/{name}/config.json", "--mode=eval", compiled_programs]
        assert cli.main(arguments) == 0, capsys.readouterr().err
        assert results.pop() == last
