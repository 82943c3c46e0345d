"""A saved position continues with the very batch that would have come next."""

import json

import numpy as np
import pytest
from counting import counting_dataset_builder as counting

from datasets.pipeline import TfdsData


@pytest.fixture
def source(data_dir):
    def make(**settings):
        return TfdsData(
            name="counting/even", **{"split": "train", "batch_size": 5, "length": 4, "data_dir": data_dir, **settings}
        )

    return make


@pytest.mark.parametrize("handed_out", [0, 1, 2, 3, 7])  # 12 episodes by 5: the third batch crosses an epoch's end.
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"short_length": 2, "short_batch_size": 7, "long_every": 3},
        {"independent_share": 0.3, "unlabelled_share": 0.5},
        {"cache": False, "read_threads": 4, "read_ahead": 16},
        {"num_epochs": 6, "shuffle": False},
    ],
    ids=["plain", "alternating", "shares", "threads", "finite"],
)
def test_the_batch_after_a_restore_is_the_one_that_would_have_come(source, settings, handed_out):
    uninterrupted = source(**settings).iterator(seed=3)
    for _ in range(handed_out):
        next(uninterrupted)
    saved = json.dumps(uninterrupted.get_state())
    restored = source(**settings).iterator(seed=3)
    next(restored)
    restored.set_state(json.loads(saved))
    assert json.dumps(restored.get_state()) == saved
    for _ in range(4):
        expected, batch = next(uninterrupted), next(restored)
        assert batch.keys() == expected.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], expected[key], err_msg=key)


def test_a_finished_source_stays_finished(source):
    data = source(num_epochs=1)
    ended = data.iterator(seed=0)
    assert len(list(ended)) == 2
    restored = data.iterator(seed=0)
    restored.set_state(ended.get_state())
    with pytest.raises(StopIteration):
        next(restored)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 6}, {"length": 5}, {"short_length": 2}, {"short_length": 2, "long_every": 3},
        {"independent_share": 0.1}, {"unlabelled_share": 0.1}, {"start": "reset"}, {"shuffle": False},
        {"reset_share": 0.5}, {"num_epochs": 2}, {"split": "train[:6]"}, {"skip_short": True},
        {"keys": {"actions": "rewards"}},
    ],
    ids=str,
)  # fmt: skip
def test_the_fingerprint_tells_sources_apart_whose_batches_differ(source, settings):
    assert source(**settings).fingerprint() != source().fingerprint()


def test_the_fingerprint_is_the_same_where_the_batches_are(source):
    fingerprint = source().fingerprint()
    assert source(cache=False, read_threads=3, read_ahead=9).fingerprint() == fingerprint
    off = source(skip_short=False, reset_share=0.0).fingerprint()  # as checkpoints from before there were these two
    assert not {"skip_short", "reset_share"} & off.keys()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["name"] == "counting/even/1.0.0"
    assert fingerprint["num_episodes"] == 12


def test_the_fingerprint_tells_other_contents_and_features_of_the_same_name_and_size(source, tmp_path, monkeypatch):
    def rebuilt(place):
        counting.Builder(config="even", data_dir=tmp_path / place).download_and_prepare(file_format="array_record")
        return source(data_dir=str(tmp_path / place)).fingerprint()

    fingerprint = source().fingerprint()
    assert fingerprint["features"]["actions"] == "int32[None]"
    assert rebuilt("same") == fingerprint
    value = counting.value
    monkeypatch.setattr(counting, "value", lambda episode, frame: value(episode, frame) + (episode == 7))
    other = rebuilt("contents")
    assert {key for key in other if other[key] != fingerprint[key]} == {"checksum"}
    monkeypatch.setattr(counting, "REWARDS", np.float64)
    assert rebuilt("features")["features"] == {**fingerprint["features"], "rewards": "float64[None]"}
