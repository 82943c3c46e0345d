"""A data set that has changed since a run was started: refused with the difference, and nothing is touched."""

import shutil

import numpy as np
import pytest
from dots import dots_dataset_builder as dots
from fault_runs import contents, error, result

COMMAND = "--config=fault_config.py:frames"


def build(folder):
    dots.Builder(data_dir=folder).download_and_prepare(file_format="array_record")


@pytest.fixture(scope="session")
def frames(once):
    """A folder with the data and a run on them that was killed at step 8, and what it should come to."""

    def make(runs):
        build(runs.folder / "data")
        runs.run(COMMAND)
        (runs.folder / "logs").rename(runs.folder / "whole")
        process = runs.start(COMMAND, at="step:8").reached()
        process.until((runs.folder / "logs/frames/checkpoints/5").exists, "the checkpoint")
        process.kill()

    folder = once("frames", make)
    return folder, result(folder / "whole/frames")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"BRIGHTER": 1}, "checksum: stored "),
        ({"EPISODES": 7}, "num_episodes: stored 6, wanted 7"),
        ({"FEATURES": {"rewards": np.float32}}, "features.rewards: stored '(absent)', wanted 'float32[None]'"),
    ],
    ids=["contents", "size", "features"],
)
def test_changed_data_is_refused_and_the_run_continues_when_it_is_back(runs, frames, monkeypatch, changes, part):
    folder, whole = frames
    run, data = runs.folder / "logs/frames", runs.folder / "data"
    shutil.copytree(folder / "logs", run.parent)
    for name, value in changes.items():
        monkeypatch.setattr(dots, name, value)
    build(data)
    before = contents(run)
    message = error(runs.run(COMMAND, code=1), lines=8)
    assert "logs/frames/checkpoints/5 holds a position in other data" in message
    assert part in message
    assert "Nothing was changed" in message
    assert contents(run) == before
    shutil.rmtree(data)
    shutil.copytree(folder / "data", data)
    assert "continues at step 5" in runs.run(COMMAND).printed
    assert result(run) == whole
