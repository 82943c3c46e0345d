"""A run folder that cannot be written: one line says so, and nothing is half-written."""

import os
import shutil
import subprocess
import sys

import pytest
from fault_runs import CONFIG, FIRST, HERE, contents, error, result
from without_capabilities import UNABLE

WRAP = (sys.executable, str(HERE / "without_capabilities.py"))


def protect(folder, mode=0o555):
    """Takes away the right to write to all below, and returns nothing; `mode` 0o755 gives it back."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(mode if path.is_dir() else mode & 0o666)


@pytest.fixture(autouse=True)
def bound(runs):
    """Skips where permissions do not bind; gives back the right to write at the end."""
    probe = subprocess.run([*WRAP, shutil.which("true") or "/bin/true"])
    if probe.returncode == UNABLE:
        pytest.skip("root cannot give up its privileges here, so permissions do not bind")
    assert probe.returncode == 0
    yield
    protect(runs.folder, 0o755)


@pytest.mark.parametrize("kind", ["root", "folder"])
def test_a_run_cannot_begin_where_nothing_can_be_written(runs, kind):
    run = runs.folder / FIRST
    (run if kind == "folder" else run.parent).mkdir(parents=True)
    protect(runs.folder / "logs")
    message = error(runs.run(code=1, wrap=WRAP))
    assert FIRST in message
    assert "Permission denied" in message
    assert list((runs.folder / "logs").rglob("*")) == ([run] if kind == "folder" else [])


def test_a_run_whose_folder_has_become_read_only_is_left_as_it_was_and_continues_later(runs, half, undisturbed):
    before = contents(half)
    protect(half)
    message = error(runs.run(code=1, wrap=WRAP))
    assert FIRST in message
    assert "Permission denied" in message
    assert contents(half) == before
    protect(half, 0o755)
    assert "continues at step 10" in runs.run(wrap=WRAP).printed
    assert result(half) == undisturbed


def test_checkpoints_that_cannot_be_written_end_the_run_with_the_last_good_one_named(runs, half, undisturbed):
    before = contents(half / "checkpoints")
    (half / "checkpoints").chmod(0o555)
    message = error(runs.run(code=1, wrap=WRAP))
    assert "logs/first/checkpoints" in message
    assert "Permission denied" in message
    assert "step 10" in message
    assert contents(half / "checkpoints") == before
    (half / "checkpoints").chmod(0o755)
    runs.run(wrap=WRAP)
    assert result(half) == undisturbed


def test_a_compilation_cache_that_cannot_be_written_costs_a_line_only(runs, undisturbed):
    cache = runs.folder / "cache"
    cache.mkdir(mode=0o555)
    process = runs.run(CONFIG, f"--config.compilation_cache={cache}", wrap=WRAP)
    assert f"compilation_cache = {str(cache)!r} cannot be used" in process.printed
    assert result(runs.folder / FIRST) == undisturbed
    assert not os.listdir(cache)
