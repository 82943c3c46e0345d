"""The trainer without the world models: no `tasks`, `models`, `datasets` and `configs` anywhere on the path.

All of its tests run, which takes some minutes: none may need what is gone, in this process or in one that it starts.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GONE = """
import sys


class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tasks", "models", "datasets", "configs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Gone())
"""


def test_the_trainer_and_its_tests_work_where_the_world_models_are_gone(tmp_path):
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer")
    shutil.copytree(ROOT / "tests" / "trainer", tmp_path / "tests" / "trainer")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("images"))
    (tmp_path / "sitecustomize.py").write_text(GONE)  # every Python that starts with this folder on its path reads it
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for name in ("tasks", "models.transformer"):
        done = subprocess.run([sys.executable, "-c", f"import {name}"], env=environment, capture_output=True, text=True)
        assert "No module named" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/trainer"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout or "[100%]" in done.stdout
