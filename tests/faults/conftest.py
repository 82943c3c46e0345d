"""Runs to compare with and to damage, made once for all tests, and a place for each test."""

import fcntl
import shutil
from pathlib import Path

import pytest
from fault_runs import FIRST, Runs, result, steps


@pytest.fixture(scope="session")
def shared(common):
    """The part of it that is these tests'."""
    (common / "faults").mkdir(exist_ok=True)
    return common / "faults"


@pytest.fixture(scope="session")
def once(shared):
    """Calls `make(runs)` in a folder of that name, by the first process that asks, and returns the folder."""

    def call(name, make) -> Path:
        folder = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                runs = Runs(folder, shared / "cache")
                try:
                    make(runs)
                finally:
                    runs.close()
                (folder / "made").touch()
        return folder

    return call


@pytest.fixture(scope="session")
def undisturbed(once):
    """What the run `first` comes to when nothing happens."""
    return result(once("undisturbed", lambda runs: runs.run()) / FIRST)


@pytest.fixture(scope="session")
def killed(once, undisturbed):
    """A folder with the run `first`, killed before step 13, with the checkpoints 5 and 10."""

    def make(runs):
        process = runs.start(at="step:13").reached()
        process.until(lambda: steps(runs.folder / FIRST) == [5, 10], "the checkpoints")
        process.kill()

    return once("killed", make)


@pytest.fixture
def runs(tmp_path, shared):
    """Starts processes in a new folder; none of them outlives the test."""
    runs = Runs(tmp_path / "work", shared / "cache")
    yield runs
    runs.close()


@pytest.fixture
def half(runs, killed):
    """The run folder of a copy of the killed run, in the folder of `runs`."""
    shutil.copytree(killed / "logs", runs.folder / "logs")
    return runs.folder / FIRST
