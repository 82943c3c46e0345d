"""What all tests share: compiled programs, so that the same one is compiled once by all processes of a test session."""

import os

import pytest


@pytest.fixture(scope="session")
def common(tmp_path_factory):
    """A folder that all processes of a test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def programs(common):
    """A folder of compiled programs, empty at the start of a test session."""
    (common / "programs").mkdir(exist_ok=True)
    return common / "programs"
