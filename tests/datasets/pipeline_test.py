"""Batches of hand-made episodes, whose pixels tell episode and frame."""

import numpy as np
import pytest
from counting.counting_dataset_builder import EPISODES, FRAMES, relevant, task

from datasets.errors import DataError
from datasets.pipeline import TfdsData


@pytest.fixture
def source(data_dir):
    def make(config="even", **settings):
        defaults = {"split": "train", "batch_size": 4, "length": 5, "data_dir": data_dir}
        return TfdsData(name=f"counting/{config}", **{**defaults, **settings})

    return make


def take(data, count, seed=0, **share):
    iterator = data.iterator(seed=seed, **share)
    return [next(iterator) for _ in range(count)]


def origins(batch):
    """Episode and frame of every frame of a batch, from its pixels."""
    assert (batch["frames"] == batch["frames"][..., :1, :1, :1]).all()
    return np.divmod(batch["frames"][..., 0, 0, 0].astype(int), FRAMES)


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


def test_a_clip_is_consecutive_frames_of_one_episode_with_what_belongs_to_them(source):
    starts = set()
    for batch in take(source(), 30):
        episode, frame = origins(batch)
        assert (episode == episode[:, :1]).all()
        np.testing.assert_array_equal(frame, frame[:, :1] + np.arange(5))
        np.testing.assert_array_equal(batch["actions"], episode * FRAMES + frame)
        np.testing.assert_array_equal(batch["rewards"], (episode * FRAMES + frame) / 2)
        np.testing.assert_array_equal(batch["is_first"], frame == 0)
        np.testing.assert_array_equal(batch["continues"] == 0, (frame == FRAMES - 1) & (episode % 2 == 0))
        assert batch["labelled"].all()
        assert not batch["independent"].any()
        starts |= set(frame[:, 0])
    assert starts == set(range(FRAMES - 5 + 1))


def test_types_are_those_of_the_contract(source):
    (batch,) = take(source(), 1)
    types = {key: str(value.dtype) for key, value in batch.items()}
    assert types == {
        "frames": "uint8", "actions": "int32", "rewards": "float32", "continues": "float32",
        "is_first": "bool", "independent": "bool", "labelled": "bool",
    }  # fmt: skip


def test_clips_from_the_reset_start_there(source):
    for batch in take(source(start="reset"), 5):
        assert (origins(batch)[1] == np.arange(5)).all()


def test_a_share_of_the_clips_starts_at_the_reset(source):
    starts = np.concatenate([origins(batch)[1][:, 0] for batch in take(source(reset_share=0.5, batch_size=12), 40)])
    elsewhere = np.concatenate([origins(batch)[1][:, 0] for batch in take(source(batch_size=12), 40)])
    by_chance = (elsewhere == 0).mean()
    assert (starts == 0).mean() == pytest.approx(0.5 + 0.5 * by_chance, abs=0.07)
    assert ((starts == elsewhere) | (starts == 0)).all()  # the others stay where they were


def test_every_epoch_shows_every_episode_once_in_a_new_order(source):
    # Batches of 5 do not divide 12 episodes: epochs meet inside a batch.
    order = np.concatenate([origins(batch)[0][:, 0] for batch in take(source(batch_size=5), 12)])
    epochs = order.reshape(5, EPISODES)
    assert (np.sort(epochs, 1) == np.arange(EPISODES)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_the_seed_decides_and_nothing_else_does(source):
    first, again, other = take(source(), 3, seed=1), take(source(), 3, seed=1), take(source(), 3, seed=2)
    for a, b in zip(first, again, strict=True):
        assert_same(a, b)
    assert any((a["frames"] != b["frames"]).any() for a, b in zip(first, other, strict=True))


def test_one_epoch_in_order_for_evaluation_drops_the_rest(source):
    data = source(batch_size=5, shuffle=False, num_epochs=1, start="reset")
    batches = list(data.iterator(seed=0))
    assert [origins(batch)[0][:, 0].tolist() for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert len(list(source(batch_size=6, num_epochs=1).iterator(seed=0))) == 2  # Nothing is left over.


@pytest.mark.parametrize("independent_share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("num_epochs", [1, 3])
def test_a_finite_source_never_starts_another_epoch(source, num_epochs, independent_share):
    data = source(num_epochs=num_epochs, independent_share=independent_share, short_length=2, short_batch_size=3)
    clips = [origins(batch)[0][~batch["independent"], 0] for batch in data.iterator(seed=0)]
    seen = np.bincount(np.concatenate(clips), minlength=EPISODES)
    assert seen.max() <= num_epochs
    assert seen.sum() > num_epochs * EPISODES - 4  # What is left over does not fill a batch.


def test_the_rows_of_all_processes_together_are_the_batch_of_one(source):
    data = source(independent_share=0.4, unlabelled_share=0.5, short_length=2)
    shares = [take(data, 6, process_index=index, process_count=2) for index in range(2)]
    for first, second, whole in zip(*shares, take(data, 6), strict=True):
        assert len(first["frames"]) == len(second["frames"])
        assert_same({key: np.concatenate([first[key], second[key]]) for key in first}, whole)


def test_independent_rows_are_frames_of_different_episodes_and_as_many_as_asked(source):
    batches = take(source(batch_size=5, length=8, independent_share=0.3), 40)
    assert sum(batch["independent"].sum() for batch in batches) == 60
    assert {int(batch["independent"].sum()) for batch in batches} == {1, 2}
    assert {row for batch in batches for row in np.flatnonzero(batch["independent"])} == set(range(5))
    for batch in batches:
        episode, frame = origins(batch)
        for row in range(5):
            assert len(set(episode[row])) == (8 if batch["independent"][row] else 1)
        np.testing.assert_array_equal(batch["rewards"], (episode * FRAMES + frame) / 2)
        np.testing.assert_array_equal(batch["is_first"], frame == 0)
        assert not batch["labelled"][batch["independent"]].any()
        assert not batch["actions"][batch["independent"]].any()


def test_more_independent_frames_than_episodes_use_all_of_them(source):
    (batch,) = take(source(length=18, batch_size=10, independent_share=0.99), 1)
    row = np.flatnonzero(batch["independent"])[0]
    assert len(set(origins(batch)[0][row])) == EPISODES


def test_short_batches_come_between_long_ones(source):
    data = source(short_length=2, long_every=3)
    assert [batch["frames"].shape[:2] for batch in take(data, 5)] == [(4, 5), (10, 2), (10, 2), (4, 5), (10, 2)]
    data = source(short_length=2, short_batch_size=7)
    assert [batch["frames"].shape[:2] for batch in take(data, 3)] == [(4, 5), (7, 2), (4, 5)]


def test_hidden_actions_are_the_same_episodes_for_every_seed_and_cannot_be_read(source):
    hidden = []
    for seed in (0, 1):
        by_episode = {}
        for batch in take(source(unlabelled_share=0.25), 12, seed=seed):
            episode, frame = origins(batch)
            for row in range(4):
                by_episode.setdefault(episode[row, 0], set()).add(bool(batch["labelled"][row]))
            shown = np.where(batch["labelled"][:, None], episode * FRAMES + frame, 0)
            np.testing.assert_array_equal(batch["actions"], shown)
        assert all(len(values) == 1 for values in by_episode.values())
        hidden.append({episode for episode, values in by_episode.items() if values == {False}})
    assert len(hidden[0]) == 3
    assert hidden[0] == hidden[1]


def test_plain_video_has_no_actions_and_no_rewards(source):
    (batch,) = take(source("video"), 1)
    assert set(batch) == {"frames", "is_first", "independent", "labelled"}
    np.testing.assert_array_equal(batch["is_first"], origins(batch)[1] == 0)


def test_features_of_other_names_and_composite_actions(source):
    keys = {"frames": "video", "actions": "controls", "rewards": "score", "is_terminal": "done"}
    batch = take(source("foreign", keys=keys, unlabelled_share=0.5, batch_size=12), 1)[0]
    episode, frame = origins(batch)
    values = np.where(batch["labelled"][:, None], episode * FRAMES + frame, 0)
    np.testing.assert_array_equal(batch["actions"]["mouse"], values)
    np.testing.assert_array_equal(batch["actions"]["keys"], np.stack([values % 2] * 3, -1))
    np.testing.assert_array_equal(batch["rewards"], (episode * FRAMES + frame) / 2)
    assert batch["rewards"].dtype == np.float32
    assert "continues" in batch


@pytest.mark.parametrize(("config", "keys"), [("tasks", {}), ("tasks_by_step", {"task": "goal", "relevant": "useful"})])
def test_rows_tell_the_task_and_relevance_of_the_episode_of_their_first_frame(source, config, keys):
    mixed = 0
    for batch in take(source(config, keys=keys, independent_share=0.4), 15):
        first = origins(batch)[0][:, 0]
        assert (batch["task"].dtype, batch["relevant"].dtype) == (np.int32, np.bool_)
        np.testing.assert_array_equal(batch["task"], task(first))
        np.testing.assert_array_equal(batch["relevant"], relevant(first))
        mixed += batch["independent"].sum()
    assert mixed == 24


def test_a_feature_can_be_left_out(source):
    (batch,) = take(source("tasks", keys={"task": ""}), 1)
    assert set(batch) == {"frames", "is_first", "independent", "labelled", "relevant"}


def test_a_full_cache_changes_nothing_but_the_time(source):
    one_episode = FRAMES * (4 * 4 * 3 + 4 + 4 + 1 + 1)
    half = source(cache_bytes=6 * one_episode, independent_share=0.3)
    for a, b in zip(take(half, 8), take(source(cache=False, independent_share=0.3), 8), strict=True):
        assert_same(a, b)
    assert half.episodes.cached_bytes == 6 * one_episode


def test_episodes_shorter_than_a_clip_can_be_left_out(source, capfd):
    data = source("uneven", length=12, batch_size=1, num_epochs=1, skip_short=True)  # they have 20, 19 … 9 frames
    clips = [batch["frames"][0, :, 0, 0, 0] for batch in data.iterator(seed=0)]
    assert sorted(int(clip[0]) // FRAMES for clip in clips) == list(range(9))
    assert capfd.readouterr().err == (
        "note: left out 3 of 12 episodes of counting/uneven/1.0.0, split 'train', which have fewer than 12 frames\n"
    )
    take(source("uneven", length=5, short_length=9, skip_short=True), 12)
    assert "note" not in capfd.readouterr().err
    # Those of independent rows too.
    for batch in take(source("uneven", length=19, independent_share=0.5, skip_short=True), 8):
        assert set(np.unique(origins(batch)[0])) <= {0, 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 21, "skip_short": True}, "All 12 episodes of .*even.* have fewer than 21 frames. Lower the length"),
        ({"skip_short": 1}, r"skip_short must be True or False, not 1 \(int\)"),
        ({"length": 21}, r"Episode \d+ of counting/even/1.0.0, split 'train' has 20 frames.*clips of 21.*length"),
        ({"config": "uneven", "length": 15}, r"has (9|1[0-4]) frames, and clips of 15.*skip_short=true"),
        ({"config": "shapes", "batch_size": 12}, r"do not fit into one batch.*\(4, 4, 3\).*\(5, 4, 3\)"),
        ({"config": "shapes", "independent_share": 0.9}, "do not fit into one batch"),
    ],
)
def test_episodes_that_do_not_fit_are_named(source, settings, message):
    with pytest.raises(DataError, match=message):
        take(source(**settings), 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "trian"}, "Did you mean 'train'"),
        ({"config": "evn"}, r"no config 'evn'. Did you mean 'even'.*Its configs: even, uneven"),
        ({"config": "foreign"}, "no feature 'frames' for the frames.*Its features: video, controls, score, done"),
        ({"keys": {"rewards": "reward"}}, "no feature 'reward' for the rewards. Did you mean 'rewards'"),
        ({"keys": {"pictures": "frames"}}, "pictures, which no batch has; known: frames, actions"),
        ({"keys": {"frames": "actions"}}, r"uint8 arrays \[T, H, W, C\]; 'actions'.*int32 \[20\]"),
        (
            {"config": "odd_tasks"},
            r"'task' must be an integer per episode or per frame; 'task' of .* is .* \[\]. .* or none: data.keys",
        ),
        ({"config": "odd_tasks", "keys": {"task": ""}}, r"'relevant' must be a truth value .* is bool \[20, 2\]"),
        ({"config": "tasks", "keys": {"frames": ""}}, "no feature '' for the frames"),
        ({"batch_size": 13, "num_epochs": 1}, "12 episodes: too few for one batch of 13 rows in 1 epoch"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": "16"}, r"batch_size must be a whole number, not '16' \(str\)"),
        ({"batch_size": 16.0}, r"batch_size must be a whole number, not 16.0 \(float\)"),
        ({"length": None}, r"length must be a whole number, not None"),
        ({"num_epochs": True}, r"num_epochs must be a whole number, not True \(bool\)"),
        ({"read_ahead": -1}, "read_ahead must be at least 0, not -1"),
        ({"unlabelled_share": "0.5"}, r"unlabelled_share must be a number, not '0.5' \(str\)"),
        ({"shuffle": "False"}, r"shuffle must be True or False, not 'False' \(str\)"),
        ({"independent_share": 1.0}, "independent_share must be a share"),
        ({"reset_share": 1.5}, "reset_share must be a share between 0 and 1"),
        ({"reset_share": 0.5, "start": "reset"}, "leave reset_share at 0, not 0.5"),
        ({"start": "middle"}, "'any' or 'reset', not 'middle'"),
        ({"short_batch_size": 8}, "without short_length"),
        ({"short_length": 2, "long_every": 1}, "every batch is long"),
    ],
)
def test_a_wrong_setting_is_told_with_what_would_be_right(source, settings, message):
    with pytest.raises(DataError, match=message) as caught:
        take(source(**settings), 1)
    assert caught.value.user_error
