"""The trainer without the world models: no `tasks`, `models`, `datasets` and `configs` anywhere on the path.

Its tests always run so (`tests/trainer/conftest.py`); here it is seen that this is true, and that what a copy of the
trainer alone holds is all that they import.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEN = """
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["tasks", "models.transformer", "datasets", "configs"])
def test_gone(name):
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        __import__(name)
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
    assert "No module named" in done.stderr
"""


def pytest_in(folder, *arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_trainers_tests_see_no_world_model(tmp_path):
    for name in ("conftest.py", "gone.py", "alone"):
        copy = shutil.copytree if name == "alone" else shutil.copy
        copy(ROOT / "tests" / "trainer" / name, tmp_path / name)
    (tmp_path / "seen_test.py").write_text(SEEN)
    done = pytest_in(tmp_path, "seen_test.py", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout
    (tmp_path / "conftest.py").write_text("")
    assert pytest_in(tmp_path, "seen_test.py", PYTHONPATH=str(ROOT)).returncode == 1  # they are there otherwise


def test_the_trainer_and_its_tests_import_nothing_that_a_copy_lacks(tmp_path):
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer")
    shutil.copytree(ROOT / "tests" / "trainer", tmp_path / "tests" / "trainer")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = os.pathsep.join(map(str, (tmp_path / "tests" / "trainer" / "alone", tmp_path)))
    done = pytest_in(tmp_path, "tests/trainer", "--collect-only", PYTHONPATH=path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "trainer_test.py" in done.stdout
