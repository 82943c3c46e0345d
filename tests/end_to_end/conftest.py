"""A place with data and compiled programs of its own, and one whole chain of runs in it, which all tests share."""

import fcntl
import shutil
from pathlib import Path

import jax
import pytest
from chain_runs import COMMAND, Home

from trainer import cli


@pytest.fixture(scope="session")
def home(common, programs):
    """Trains the chain once, also where several processes run the tests."""
    folder = common / "end_to_end"
    home = Home(folder / "data", programs, folder / "chain", folder / "chain.txt")
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.chain.exists():
            home.chain.mkdir()
            assert home.start(COMMAND, home.chain, home.errors).wait(1800) == 0, home.errors.read_text()
    return home


@pytest.fixture
def workspace(home, tmp_path, monkeypatch):
    """A copy of the chain's runs to work in, and the same data."""
    shutil.copytree(home.chain / "logs", tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(home.data))
    return tmp_path


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A place with neither runs nor data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def main(capsys):
    """The command line, in this process: (exit code, what it printed to stderr)."""
    before = {
        "jax_disable_most_optimizations": jax.config.read("jax_disable_most_optimizations"),
        "jax_compilation_cache_dir": jax.config.jax_compilation_cache_dir,
    }
    jax.config.update("jax_disable_most_optimizations", True)

    def call(*arguments: str, cache: Path | str = "") -> tuple[int, str]:
        code = cli.main([*arguments, f"--config.compilation_cache={cache}"])
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    yield call
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def contents():
    """Every file below a folder with its bytes, but for the locks, which hold the number of the last process."""

    def read(folder: Path) -> dict[Path, bytes | None]:
        paths = (path for path in folder.rglob("*") if path.name != ".lock")
        return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in paths}

    return read
