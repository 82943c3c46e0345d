"""What the tests of this folder share: a data set, prepared once, and the command that makes one of recordings."""

import numpy as np
import pytest
from counting.counting_dataset_builder import Builder

from datasets.folder import main


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with `counting` in all its configs."""
    folder = tmp_path_factory.mktemp("tfds")
    for config in Builder.BUILDER_CONFIGS:
        Builder(config=config.name, data_dir=folder).download_and_prepare(file_format="array_record")
    return str(folder)


@pytest.fixture
def recordings(tmp_path):
    """Writes .npz files, by name."""

    def write(**files):
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, content in files.items():
            np.savez(tmp_path / "in" / f"{name}.npz", **content)
        return tmp_path / "in"

    return write


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on a folder; returns status, output and messages."""

    def start(source, *options):
        status = main([str(source), "--name=mine", f"--data_dir={tmp_path / 'out'}", *options])
        said = capsys.readouterr()
        return status, said.out, said.err

    return start
