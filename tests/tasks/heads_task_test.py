import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import generic, shapes
from hand_made import (
    ACTIONS,
    CHOICES,
    DISTANCES,
    END,
    LENGTH,
    NUMBERS,
    REWARD,
    SHOWN,
    TWO_HOT,
    StoryHeadsTask,
    knowing,
    real_heads,
    run_of,
    story,
    story_dynamics,
    story_heads,
)

from models.shortcut import ShortcutLoss
from tasks.batches import require_features
from tasks.heads import HeadsTask
from trainer.errors import ConfigError, DataError
from trainer.state import TrainState
from trainer.update import Update

KEY = jax.random.key(0)


@functools.cache
def teller():
    """(parameters, batch) → features, errors and masks of the story's task."""
    task = story_heads()

    @jax.jit
    def tell(params, batch):
        features = task.features(params, task.encode(task.frozen()["tokenizer"], batch), batch, KEY)
        return features, task.head_errors(params, features, batch)

    return lambda params, batch: jax.device_get(tell(params, batch))


def test_heads_are_asked_for_what_is_ahead_and_nothing_beside_it():
    batch = story()
    _, errors = teller()(knowing(), batch)
    assert set(errors) == {"policy", "reward", "continue"}
    for error, mask in errors.values():
        assert mask.any(axis=(0, 1)).all()
        assert error[mask].max() < 1e-3
    for name, shift in itertools.product(errors, (-1, 1)):
        wrong = knowing(**{name.replace("continue", "goes_on"): shift})
        _, others = teller()(wrong, batch)
        error, mask = others.pop(name)
        assert error[mask].max() > 20
        assert error[mask].mean() > (0.5 if name == "continue" else 10)  # one frame of the story is its end
        for error, mask in others.values():
            assert error[mask].max() < 1e-3


def test_features_are_of_the_frame_and_of_the_action_that_led_to_it():
    batch = story()
    features, _ = teller()(knowing(), batch)
    np.testing.assert_allclose(features[..., 0], batch["frames"][..., 0, 0, 0], atol=1e-3)
    np.testing.assert_array_equal(features[..., 1], np.where(batch["is_first"], -1, batch["actions"]))


def masks(batch):
    """What counts, frame by frame and in plain words."""
    rows, frames = batch["is_first"].shape
    found = {name: np.zeros((rows, frames, DISTANCES), bool) for name in ("policy", "reward", "continue")}
    for row, t, n in np.ndindex(rows, frames, DISTANCES):
        first = batch["is_first"][row]
        if batch["independent"][row]:
            continue
        if t + n < frames and not first[t + 1 : t + n + 1].any():
            found["continue"][row, t, n] = True
            found["reward"][row, t, n] = not first[t + n]
        if t + n + 1 < frames and batch["labelled"][row] and batch["relevant"][row]:
            found["policy"][row, t, n] = not first[t + 1 : t + n + 2].any()
    return found


def test_what_counts():
    batch = story((0, LENGTH - 6, LENGTH - 6, LENGTH - 6, 5, LENGTH - 1))
    marks = {"independent": [0, 0, 1, 0, 0, 0], "labelled": [1, 1, 1, 0, 1, 1], "relevant": [1, 1, 1, 1, 0, 1]}
    batch |= {name: np.array(mark, bool) for name, mark in marks.items()}
    _, errors = teller()(knowing(), batch)
    expected = masks(batch)
    for name, (error, mask) in errors.items():
        np.testing.assert_array_equal(np.broadcast_to(mask, error.shape), expected[name], err_msg=name)
        assert error[expected[name]].max() < 1e-3
    # What is left out would have been wrong: beyond a reset the story goes another way.
    error, mask = errors["reward"]
    assert error[1][~mask[1]].max() > 20
    assert [errors[name][1].any((1, 2)).tolist() for name in ("policy", "reward")] == [
        [True, True, False, False, False, True], [True, True, False, True, True, True],
    ]  # fmt: skip


def test_marks_that_the_data_does_not_have_are_not_missed():
    batch = story((1, 2, 3, 4))  # no reset inside
    bare = {name: batch[name] for name in ("frames", "actions", "rewards", "continues")}
    _, with_marks = teller()(knowing(), batch)
    _, without = teller()(knowing(), bare)
    for name, (error, mask) in with_marks.items():
        np.testing.assert_array_equal(np.broadcast_to(mask, error.shape), without[name][1])
    task = story_heads({name: value for name, value in batch.items() if name != "continues"})
    assert set(task.weights) == {"dynamics", "policy", "reward"}
    assert not task.has_continues


def story_loss(monkeypatch, flow, **settings):
    """The loss with a dynamics loss of `flow`; what it was told lands in `calls`."""
    calls = []

    def shortcut_terms(self, params, clean, batch, rng, rows=None):
        calls.append(rows)
        return ShortcutLoss(flow=jnp.float32(flow), bootstrap=jnp.float32(1.0))

    monkeypatch.setattr(StoryHeadsTask, "shortcut_terms", shortcut_terms)
    task = story_heads(**settings)

    @jax.jit
    def loss(params, batch, extra):
        return task.loss(params, task.frozen(), batch, rng=KEY, step=0, extra=extra, train=True)

    return task, loss, calls


def test_every_term_is_divided_by_its_running_size(monkeypatch):
    weights = {"dynamics": 2.0, "policy": 0.5, "continue": 3.0}
    task, loss, calls = story_loss(monkeypatch, 4.0, weights=weights, dynamics_share=0.5)
    batch, extra = story((0, 3, 8, 9)), task.init_extra({})
    first = loss(knowing(1, 1, 1, sure=2.0), batch, extra)
    out = loss(knowing(sure=2.0), batch, first.extra)
    assert calls == [2]  # half of the rows
    assert float(first.loss) == pytest.approx(2.0 + 0.5 + 1.0 + 3.0, rel=1e-5)  # alone, a term is its own size
    expected = 0.0
    for name, weight in {**weights, "reward": 1.0}.items():
        before, now = (5.0, 5.0) if name == "dynamics" else (float(o.metrics[name]) for o in (first, out))
        expected += weight * now / np.sqrt((0.99 * 0.01 * before**2 + 0.01 * now**2) / (0.99 * 0.01 + 0.01))
    assert float(out.loss) == pytest.approx(expected, rel=1e-4)
    assert set(out.metrics) == {"flow", "bootstrap", "policy", "reward", "continue", "cross_entropy_1"}
    _, loss, _ = story_loss(monkeypatch, 4.0, weights=weights, normalized=False)
    out, sizes = loss(knowing(sure=2.0), batch, extra), {**weights, "reward": 1.0}
    summed = sum(weight * (5.0 if name == "dynamics" else out.metrics[name]) for name, weight in sizes.items())
    assert float(out.loss) == pytest.approx(float(summed), rel=1e-5)


def test_only_relevant_rows_are_cloned(monkeypatch):
    task, loss, _ = story_loss(monkeypatch, 1.0)
    batch, params, extra = story((1, 2, 3, 4)), knowing(sure=1.0), task.init_extra({})
    batch["actions"] = batch["actions"] % np.array([[4], [4], [2], [2]])  # nothing of the story
    relevant = np.array([True, True, False, False])
    mixed = loss(params, batch | {"relevant": relevant}, extra).metrics
    known = np.log(np.e + CHOICES - 1) - 1
    assert float(mixed["policy"]) == pytest.approx(known, rel=1e-4)
    assert float(mixed["cross_entropy_1"]) == pytest.approx(known, rel=1e-4)
    everything = loss(params, batch | {"relevant": ~relevant | True}, extra).metrics
    assert float(everything["policy"]) > known + 0.1
    assert float(everything["reward"]) == float(mixed["reward"])


def noise(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(NUMBERS, DISTANCES, *shape)), jnp.float32)


UNSURE = {
    "policy": {"table": noise(0, CHOICES)},
    "reward": {"table": noise(1, TWO_HOT.bins)},
    "continue": {"table": noise(2)},
}


def softmax(logits):
    logits = np.asarray(logits, np.float64)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def evaluate(task, params, batches):
    return task.evaluators()["heads"].evaluate(
        params=params, frozen=task.frozen(), extra=None, rng=KEY, batches=batches, step=0
    )


def test_figures_of_heads_computed_by_hand():
    context, frames = 3, 9
    task = story_heads(
        environment={"target": "hand_made:Counting"}, evaluation={"context": context, "clips": 5, "dreams": 3}
    )
    batches = [story((0, 2, 4, 6), frames), story((9, 11, 3, LENGTH - 4), frames)]
    scalars = evaluate(task, UNSURE, batches).scalars
    losses, rewards, right = [[] for _ in range(DISTANCES)], [], []
    for start in (0, 2, 4, 6, 9):  # the last three clips are too many
        for t in range(frames):
            number = SHOWN[start + t]
            for n in range(DISTANCES):
                if t + n + 1 < frames:
                    probability = softmax(UNSURE["policy"]["table"][number, n])[ACTIONS[start + t + n + 1]]
                    losses[n].append(-np.log(probability))
            if start + t:
                mean = softmax(UNSURE["reward"]["table"][number, 0]) @ TWO_HOT.centers
                rewards.append(abs(mean - REWARD[number]))
            right.append((UNSURE["continue"]["table"][number, 0] > 0) == (number < END))
    pooled = {n: np.mean(np.concatenate(losses[:n])) for n in (1, 2)}
    assert scalars["heads/cross_entropy_1"] == pytest.approx(pooled[1], rel=1e-4)
    assert scalars["heads/cross_entropy_2"] == pytest.approx(pooled[2], rel=1e-4)
    assert scalars["heads/reward_mae"] == pytest.approx(np.mean(rewards), rel=1e-4)
    assert scalars["heads/continue_accuracy"] == pytest.approx(np.mean(right), rel=1e-4)
    # Along dreams of the first three clips, which follow the true actions.
    dreamed = [start + t for start in (0, 2, 4) for t in range(context, frames)]
    policy = [-np.log(softmax(UNSURE["policy"]["table"][SHOWN[at - 1], 0])[ACTIONS[at]]) for at in dreamed]
    errors = [softmax(UNSURE["reward"]["table"][SHOWN[at], 0]) @ TWO_HOT.centers - REWARD[SHOWN[at]] for at in dreamed]
    assert scalars["heads/cross_entropy_1_dreamed"] == pytest.approx(np.mean(policy), rel=1e-4)
    assert scalars["heads/reward_mae_dreamed"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-4)
    floors = {name: value for name, value in scalars.items() if "floor" in name}
    assert floors == {"heads/cross_entropy_floor_1": 901.0, "heads/cross_entropy_floor_2": 902.0}
    named = {c.metric: c.references for c in task.evaluators()["heads"].comparisons}
    assert named["heads/cross_entropy_2"] == {"floor": "heads/cross_entropy_floor_2"}
    # Heads that know the story make no error, in dreams neither; those that are a frame late do.
    knows = evaluate(task, knowing(), batches).scalars
    for name in ("cross_entropy_1", "cross_entropy_2", "cross_entropy_1_dreamed", "reward_mae", "reward_mae_dreamed"):
        assert knows[f"heads/{name}"] == pytest.approx(0, abs=1e-3)
        assert evaluate(task, knowing(-1, -1), batches).scalars[f"heads/{name}"] > 1


def test_no_more_clips_are_dreamed_on_than_are_measured():
    batches = [story((0, 2, 4, 6), 9), story((9, 11, 3, 5), 9)]
    many, all_of_them = (
        evaluate(story_heads(evaluation={"context": 3, "clips": 6, "dreams": dreams}), UNSURE, batches).scalars
        for dreams in (64, 6)
    )
    assert many == all_of_them


def test_along_dreams_only_what_is_known_and_relevant_counts():
    task = story_heads(evaluation={"context": 3, "clips": 4, "dreams": 4})
    batch = story((0, 2, 4, 6), 9)
    whole = evaluate(task, knowing(), [batch]).scalars
    assert whole["heads/cross_entropy_1_dreamed"] == pytest.approx(0, abs=1e-3)
    placeholder = np.where(np.arange(4)[:, None] < 2, batch["actions"], 0)
    half = np.array([True, True, False, False])
    unlabelled = batch | {"labelled": half, "actions": placeholder}
    # Rows with other actions than the policy's: their dreams are true, but nothing to be cloned.
    for other in (unlabelled, batch | {"relevant": half}):
        scalars = evaluate(task, knowing(), [other]).scalars
        for name in ("cross_entropy_1", "cross_entropy_1_dreamed", "reward_mae", "reward_mae_dreamed"):
            assert scalars[f"heads/{name}"] == pytest.approx(0, abs=1e-3)
    unsure = evaluate(task, UNSURE, [batch | {"relevant": half}]).scalars["heads/cross_entropy_1_dreamed"]
    rows = [batch | {name: value[:2] for name, value in batch.items()}]
    assert unsure == pytest.approx(evaluate(task, UNSURE, rows).scalars["heads/cross_entropy_1_dreamed"], rel=1e-4)
    assert unsure != pytest.approx(evaluate(task, UNSURE, [batch]).scalars["heads/cross_entropy_1_dreamed"], rel=1e-3)
    # Behind a reset in the middle of a clip a dream is another story.
    cut = batch | {"is_first": np.broadcast_to(np.arange(9) == 6, (4, 9))}
    assert evaluate(task, knowing(), [cut]).scalars["heads/reward_mae_dreamed"] == pytest.approx(0, abs=1e-3)
    nothing = evaluate(task, knowing(), [unlabelled | {"labelled": np.zeros(4, bool)}]).scalars
    assert not [name for name in nothing if name.startswith("heads/cross_entropy") or name.endswith("dreamed")]


def test_rows_without_anything_to_be_cloned_are_told(capsys):
    task, batch = story_heads(), story()
    task.check_batch(batch | {"labelled": np.array([False, True, False, False])})
    assert capsys.readouterr().err == ""
    for nothing in (
        {"labelled": np.zeros(4, bool)},
        {"labelled": np.eye(4, dtype=bool)[0], "relevant": np.eye(4)[1] > 0},
    ):
        task.check_batch(batch | nothing)
        assert "No row of the first batch has known actions that are relevant" in capsys.readouterr().err


def test_without_an_environment_there_is_no_floor_and_without_clips_nothing():
    task = story_heads()
    result = evaluate(task, UNSURE, [story(frames=5)])
    assert not [name for name in result.scalars if "floor" in name]
    assert {image.dtype for image in result.images.values()} == {np.dtype(np.uint8)}
    assert evaluate(task, UNSURE, []).scalars == {}
    assert not task.evaluators()["heads"].comparisons[0].references


def test_clips_no_longer_than_the_context_are_refused():
    evaluator = story_heads(evaluation={"context": 5}).evaluators()["heads"]
    with pytest.raises(ConfigError, match=r"after 5 frames, but held-out clips have 5; set eval_data.length above"):
        evaluator.check(shapes(story(frames=5)))
    evaluator.check(shapes(story(frames=6)))
    evaluator.check(None)


MIXED = {"move": {"kind": "categorical", "size": 3}, "keys": {"kind": "binary", "size": 2}}
FRAMES = 6


def mixed_batch():
    numbers = np.random.default_rng(0)
    return {
        "frames": numbers.integers(0, 256, (3, FRAMES, 8, 8, 3)).astype(np.uint8),
        "actions": {
            "move": numbers.integers(0, 3, (3, FRAMES)).astype(np.int32),
            "keys": numbers.integers(0, 2, (3, FRAMES, 2)).astype(np.int32),
        },
        "rewards": numbers.normal(size=(3, FRAMES)).astype(np.float32),
        "continues": np.ones((3, FRAMES), np.float32),
        "is_first": np.broadcast_to(np.arange(FRAMES) == 0, (3, FRAMES)),
        "task": np.array([0, 1, 1], np.int32),
    }


@functools.cache
def mixed_task():
    return real_heads(mixed_batch(), MIXED, tasks=2, task_id=1)


def test_heads_on_a_real_world_model_learn_and_every_part_of_it_with_them():
    task, batch = mixed_task(), mixed_batch()
    start = task.warm_start(task.init_params(KEY, batch))
    tx, zero = optax.adam(1e-2), jnp.int32(0)
    state = TrainState(zero, start, tx.init(start), None, task.init_extra(start), KEY, zero)
    step = jax.jit(lambda state, batch: task.train_step(state, task.frozen(), batch, Update(tx=tx)))
    losses = []
    for _ in range(50):
        state, metrics = step(state, batch)
        losses.append({name: float(value) for name, value in metrics.items()})
    assert int(state.skipped) == 0
    assert np.isfinite([list(line.values()) for line in losses]).all()
    assert losses[0]["policy"] == pytest.approx(np.log(3) + 2 * np.log(2), rel=0.1)
    for name in ("policy", "reward", "continue"):
        assert losses[-1][name] < 0.9 * losses[0][name]
    changed = jax.tree.map(lambda a, b: bool(np.abs(a - b).max() > 0), start, state.params)
    assert all(jax.tree.leaves(changed)), changed


def test_features_are_of_frames_at_the_context_level():
    batch = mixed_batch()
    task = real_heads(batch, MIXED, tasks=2, sampler={"context_signal": 1})
    params, spatial = generic(task, batch), task.encode(task.frozen()["tokenizer"], batch)
    a, same, other = (task.features(params, spatial, batch, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, same)
    assert np.abs(a - other).max() > 1e-2


def test_training_starts_from_the_upstreams_dynamics_with_new_task_embeddings():
    task = mixed_task()
    fresh = task.init_params(KEY, mixed_batch())
    start = task.warm_start(fresh)
    tasks = start["dynamics"].pop("tasks")
    assert tasks.shape == (2, 8)
    assert jax.tree.structure(start["dynamics"]) == jax.tree.structure(task._pretrained)
    jax.tree.map(np.testing.assert_array_equal, start["dynamics"], task._pretrained)
    for name in ("policy", "reward", "continue"):
        jax.tree.map(np.testing.assert_array_equal, start[name], fresh[name])
    np.testing.assert_array_equal(tasks, fresh["dynamics"]["tasks"])


def test_a_row_is_told_its_own_task():
    task, batch = mixed_task(), mixed_batch()
    params = generic(task, batch)

    @jax.jit
    def run(batch):
        features = task.features(params, task.encode(task.frozen()["tokenizer"], batch), batch, KEY)
        return features, task.head_errors(params, features, batch)["policy"][0]

    same_clips = batch | {name: jax.tree.map(lambda a: a[[0, 0, 0]], batch[name]) for name in ("frames", "actions")}
    features, errors = run(same_clips)
    np.testing.assert_array_equal(features[1], features[2])
    for values in (features, errors):
        assert np.abs(values[0] - values[1])[:-2].max() > 1e-2
    others, other_errors = run(same_clips | {"task": np.array([1, 0, 0], np.int32)})
    np.testing.assert_array_equal(others[1], features[0])
    np.testing.assert_array_equal(other_errors[0], errors[1])
    assert task.task_ids({"frames": batch["frames"]}).tolist() == [1, 1, 1]  # the config's, where data does not tell


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


@pytest.mark.parametrize(
    ("batch", "settings", "message"),
    [
        (without(story(), "rewards"), {}, "data has no rewards.*--config.data.keys.rewards=FEATURE"),
        (without(story(), "actions"), {}, "data has no actions.*--config.data.keys.actions=FEATURE"),
        (story() | {"actions": {"walk": story()["actions"]}}, {}, r"components \['move'\], the batch has \['walk'\]"),
        (story() | {"actions": np.zeros((4, 10, 2))}, {}, r"\(categorical\) should be \[B, T\], got \[4, 10, 2\]"),
        (story() | {"frames": np.zeros((4, 10, 8, 8, 3))}, {}, r"on frames of \(4, 4, 3\), the data has \(8, 8"),
        (story(), {"weights": {"polcy": 1.0}}, r"task.weights names \['polcy'\]; the terms are dynamics, policy"),
        (story(), {"weights": {"policy": -1.0}}, r"task.weights must be .* at least 0, got \{'policy': -1.0\}"),
        (story(), {"heads": {"distance": 3}}, "task.heads has no 'distance'. Did you mean 'distances'"),
        (story(), {"heads": {"distances": 0}}, "task: heads.distances must be at least 1, got 0"),
        (story(), {"evaluation": {"clips": 0}}, "task: evaluation.clips must be at least 1, got 0"),
        (story(), {"sampler": {"steps": 3}}, "sampler.steps must divide model.max_steps=2, got 3"),
        (story(), {"environment": {"target": "hand_made:Counting", "num_actions": 5}},
         r"one categorical action of 5, the world model was trained with \(move: categorical, 4\)"),
    ],
)  # fmt: skip
def test_data_and_settings_that_do_not_fit_are_refused(batch, settings, message):
    with pytest.raises(ConfigError, match=message):
        StoryHeadsTask(**settings).setup({"dynamics": story_dynamics()}, shapes(batch))


@pytest.mark.parametrize(
    ("model", "actions", "message"),
    [
        ({"actions": {}}, np.zeros((4, 10), np.int32), "the dynamics of logs/dynamics-test has no action space"),
        ({"actions": {"push": {"kind": "continuous", "size": 4}}}, np.zeros((4, 10, 4), np.float32),
         "one or more components, each of them categorical or binary; 'push' is continuous"),
    ],
)  # fmt: skip
def test_a_dynamics_that_no_policy_fits_is_refused(model, actions, message):
    batch = story() | {"actions": actions}
    with pytest.raises(ConfigError, match=message):
        StoryHeadsTask().setup({"dynamics": story_dynamics(batch, **model)}, shapes(batch))


@pytest.mark.parametrize(
    "upstream", [{}, {"dynamics": run_of(object(), {}, "tokenizer")}, {"dynamics": run_of(HeadsTask(), {}, "heads")}]
)
def test_without_a_trained_dynamics_the_way_to_one_is_told(upstream):
    with pytest.raises(ConfigError, match="HeadsTask needs a trained dynamics: set config"):
        HeadsTask().setup(upstream, shapes(story()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 2, "task_id": 2}, r"task_id must be in 0 … tasks - 1, got task_id=2 and tasks=2"),
        ({"task_id": -1}, "got task_id=-1 and tasks=1"),
        ({"tasks": 0}, "got task_id=0 and tasks=0"),
        ({"dynamics_share": 0.0}, "dynamics_share must be above 0 and at most 1, got 0.0"),
        ({"dynamics_share": 1.1}, "got 1.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HeadsTask(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": np.array([0, 2, 1, 0])}, r"task ids 0 … 2, and the model knows 0 … 1: set --config.task.tasks=3"),
        ({"task": np.array([0, -1, 1, 0])}, "task ids -1 … 1, and the model knows 0 … 1"),
        ({"actions": np.full((4, 10), 4)}, r"'move' \(categorical, 4\) should lie in 0 … 3; the data has 4 … 4"),
        ({"actions": np.full((4, 10), -1)}, "should lie in 0 … 3; the data has -1 … -1"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    task = story_heads(tasks=2)
    task.check_batch(story())
    task.check_batch(story() | {"task": np.array([0, 1, 1, 0])})
    with pytest.raises(DataError, match=message):
        task.check_batch(story() | changes)


@pytest.mark.parametrize("name", ["rewards", "actions"])
def test_held_out_data_without_rewards_or_actions_is_refused(name):
    message = f"^dreams need it, and eval_data has no {name}.*--config.eval_data.keys.{name}=FEATURE"
    with pytest.raises(ConfigError, match=message):
        require_features(without(story(), name), ("rewards", "actions"), "eval_data", "dreams need it")
