"""Tests of the builder.

They ask what `tfds.testing.DatasetBuilderTestCase` asks (registration, valid tags, splits of the right size that do not
overlap, examples that come back as they were written) without it: importing that class needs `dill`, and its main test
runs `as_dataset` in TensorFlow's graph and eager modes. Neither is a dependency, and the data set needs neither.
"""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from datasets.bouncing_square import bouncing_square_dataset_builder as module
from datasets.bouncing_square import rules

SPLITS = {"train": 64, "validation": 16, "test": 16}
# If this changes, so did the data: give the builder a new VERSION, and published results another name.
FIRST_EPISODE = "d9226adb18083eb9"


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = module.Builder(config="tiny", data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder


def digest(frames, actions):
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes() + actions.astype("<i4").tobytes()).hexdigest()[:16]


def test_tfds_finds_the_prepared_data_by_name(builder):
    found = tfds.builder("bouncing_square/tiny", data_dir=builder._data_dir_root)
    assert found.is_prepared()
    assert {name: split.num_examples for name, split in found.info.splits.items()} == SPLITS
    assert len(found.as_data_source("train")) == 64


def test_every_config_declares_what_the_catalog_shows():
    assert [config.name for config in module.Builder.BUILDER_CONFIGS] == ["reference", "clean", "tiny"]
    assert str(module.Builder.VERSION) in module.Builder.RELEASE_NOTES
    metadata = module.Builder.get_metadata()
    assert metadata.tags
    assert set(metadata.tags) <= set(dataset_metadata.valid_tags())
    assert "2509.24527" in metadata.citation
    assert "square" in metadata.description
    for config in module.Builder.BUILDER_CONFIGS:
        assert config.description


@pytest.mark.parametrize(("config", "length"), [("reference", 64), ("clean", 128), ("tiny", 64)])
def test_every_feature_is_documented(config, length, tmp_path):
    info = module.Builder(config=config, data_dir=tmp_path).info
    assert info.features["frames"].shape == (length, 32, 32, 3)
    assert all(feature._doc.desc for feature in info.features.values())


def test_examples_come_back_as_they_were_simulated_and_in_order(builder):
    source = builder.as_data_source("validation")
    for number, episode in enumerate(module.simulate(rules.REFERENCE, module.SEEDS["validation"], 16)):
        example = source[number]
        assert example["episode_id"] == number
        np.testing.assert_array_equal(example["frames"], episode.frames)
        np.testing.assert_array_equal(example["actions"], episode.actions)
        np.testing.assert_array_equal(example["rewards"], episode.rewards)
        assert example["frames"].dtype == np.uint8
        assert example["rewards"].dtype == np.float32


def test_flags_mark_the_ends_of_an_episode(builder):
    example = builder.as_data_source("test")[3]
    np.testing.assert_array_equal(np.flatnonzero(example["is_first"]), [0])
    np.testing.assert_array_equal(np.flatnonzero(example["is_last"]), [63])
    assert not example["is_terminal"].any()
    assert np.isfinite(example["rewards"]).all()


def test_no_episode_is_in_two_splits(builder):
    sources = {split: builder.as_data_source(split) for split in SPLITS}
    seen = [digest(e["frames"], e["actions"]) for source in sources.values() for e in source]
    assert len(set(seen)) == len(seen) == 96


def test_the_content_is_the_one_of_this_version(builder):
    example = builder.as_data_source("train")[0]
    assert digest(example["frames"], example["actions"]) == FIRST_EPISODE


def test_an_episode_does_not_depend_on_how_many_are_written():
    few = list(module.simulate(rules.REFERENCE, 0, 2))
    many = list(module.simulate(rules.REFERENCE, 0, module.CHUNK + 1))
    assert len(many) == module.CHUNK + 1
    np.testing.assert_array_equal(few[1].frames, many[1].frames)
    assert digest(many[0].frames, many[0].actions) != digest(many[-1].frames, many[-1].actions)


def test_the_build_command_needs_no_tensorflow(tmp_path):
    program = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['bouncing_square/tiny', f'--data_dir={sys.argv[1]}']\n"
        "try: runpy.run_module('datasets.build', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, env=environment, capture_output=True, timeout=120
    )
    assert tfds.builder_from_directory(tmp_path / "bouncing_square/tiny/1.0.0").info.splits["train"].num_examples == 64
