"""Data sets that the tests of this folder share: prepared once, never taken from the user's own folder."""

import pytest
from counting.counting_dataset_builder import Builder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with `counting` in all its configs."""
    folder = tmp_path_factory.mktemp("tfds")
    for config in Builder.BUILDER_CONFIGS:
        Builder(config=config.name, data_dir=folder).download_and_prepare(file_format="array_record")
    return str(folder)
