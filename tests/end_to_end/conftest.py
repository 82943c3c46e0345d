"""A place with data and compiled programs of its own, and one whole chain of runs in it, which all tests share."""

import dataclasses
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest

from trainer import cli

ROOT = Path(__file__).parents[2]
COMMAND = ("--config=configs/imagination_rl.py:smoke",)
RUNS = ("tokenizer-smoke", "dynamics-smoke", "heads-smoke", "imagination_rl-smoke")


@dataclasses.dataclass(frozen=True)
class Home:
    """Where subprocesses work.

    Attributes:
      data: the folder of data sets.
      cache: the folder of compiled programs.
      chain: the folder in which a newcomer's first command was given.
      errors: what that command printed.
    """

    data: Path
    cache: Path
    chain: Path
    errors: Path

    def start(self, arguments: Sequence[str], folder: Path, errors: Path) -> subprocess.Popen[bytes]:
        """`python -m trainer` in `folder`; what it prints goes to `errors`."""
        environment = {
            **os.environ, "TFDS_DATA_DIR": str(self.data), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes minutes otherwise, running no time at all
        }  # fmt: skip
        command = [sys.executable, "-m", "trainer", *arguments, f"--config.compilation_cache={self.cache}"]
        with errors.open("wb") as file:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)


@pytest.fixture(scope="session")
def home(tmp_path_factory, programs):
    """Trains the chain once, also where several processes run the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "end_to_end"
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
