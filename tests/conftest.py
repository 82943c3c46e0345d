"""What all tests share: compiled programs, so that the same one is compiled once by all processes of a test session."""

import os

import pytest


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A folder of compiled programs, empty at the start of a test session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    folder.mkdir(exist_ok=True)
    return folder
