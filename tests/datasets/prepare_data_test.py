"""Data sets are found by name and written where they are missing."""

import shutil
from pathlib import Path

import pytest

from datasets import builders
from datasets.bouncing_square.bouncing_square_dataset_builder import Builder
from datasets.errors import DataError
from datasets.pipeline import TfdsData


def tiny(data_dir, **settings):
    return TfdsData(
        name="bouncing_square/tiny",
        **{"split": "train", "batch_size": 2, "length": 64, "data_dir": str(data_dir), **settings},
    )


def test_a_missing_data_set_is_written_once_and_said_so(tmp_path, capfd):
    tiny(tmp_path).prepare()
    said = capfd.readouterr()
    assert said.out == ""
    assert [line.split(" ")[:4] for line in said.err.splitlines() if "bouncing_square" in line] == [
        ["Preparing", "the", "data", "set"],
        ["Prepared", "bouncing_square/tiny:", "96", "examples,"],
    ]
    data = tiny(tmp_path, start="any")
    data.prepare()
    assert capfd.readouterr() == ("", "")
    batch = next(data.iterator(seed=0))
    assert batch["frames"].shape == (2, 64, 32, 32, 3)
    assert (batch["actions"][:, 0] == 4).all()
    assert (batch["continues"] == 1).all()


@pytest.fixture
def interrupted_write(monkeypatch):
    """Runs a function after the first three examples."""

    def patch(function):
        generate = Builder._generate_examples

        def examples(self, split):
            for number, example in generate(self, split):
                if number == 3:
                    function(self)
                yield number, example

        monkeypatch.setattr(Builder, "_generate_examples", examples)

    return patch


def test_an_interrupted_preparation_leaves_nothing_and_is_repeated(tmp_path, interrupted_write, monkeypatch):
    def interrupt(builder):
        raise KeyboardInterrupt

    interrupted_write(interrupt)
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path).prepare()
    assert not [path for path in tmp_path.rglob("*array_record*") if path.is_file()]
    monkeypatch.undo()
    # What a killed process leaves behind is in no one's way.
    leftover = tmp_path / "bouncing_square" / "tiny" / "incomplete.ABCDEF_1.0.0"
    leftover.mkdir(parents=True)
    (leftover / "bouncing_square-train.array_record-00000-of-00001").write_bytes(b"half")
    assert len(list(tiny(tmp_path, num_epochs=1).iterator(seed=0))) == 32


def test_another_process_may_finish_first(tmp_path, interrupted_write, monkeypatch):
    builders.prepare("bouncing_square/tiny", str(tmp_path / "other"))

    def finish_first(builder):
        shutil.copytree(tmp_path / "other" / "bouncing_square", tmp_path / "bouncing_square", dirs_exist_ok=True)

    interrupted_write(finish_first)
    assert len(list(tiny(tmp_path, num_epochs=1).iterator(seed=0))) == 32


def test_a_folder_that_cannot_be_written_is_named_with_the_setting(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    folder = tmp_path / "file" / "data"
    with pytest.raises(DataError, match=rf"{folder}.*--config.data.data_dir="):
        tiny(folder).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bouncing_sqare", "Did you mean 'bouncing_square'.*This project has: bouncing_square"),
        ("bouncing_square/refrence", "Did you mean 'reference'.*reference, clean, tiny"),
        ("mnits", "Did you mean 'mnist'"),
        ("no such name", "expected 'name', 'name/config'"),
        ("pipeline", "There is no data set 'pipeline'"),
    ],
)
def test_an_unknown_name_gets_near_matches(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        builders.find_builder(name, str(tmp_path))


def test_data_sets_that_were_written_into_the_folder_are_near_matches_too(tmp_path):
    for place in ("my_robot/1.0.0", "games/easy/1.0.0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="Did you mean 'my_robot'") as caught:
        builders.find_builder("my_robt", str(tmp_path))
    assert f"{tmp_path} holds games, my_robot (another folder: --config.data.data_dir=FOLDER)" in str(caught.value)
    assert "python -m datasets.folder RECORDINGS" in str(caught.value)


def test_own_data_sets_are_those_with_a_builder():
    folders = {path.parent.name for path in Path(builders.__file__).parent.glob("*/*_dataset_builder.py")}
    assert set(builders.own_names()) == folders
