"""The trainer without the world models: no `tasks`, `models`, `datasets` and `configs` anywhere on the path."""

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
# All others together take as long as these alone, of which each trains dozens of runs or starts several processes.
SLOW = {"callbacks_test.py", "checkpoints_test.py", "devices_test.py", "hosts_test.py", "trainer_test.py"}
OPTIONAL = {"wandb_test.py"}  # needs a library that the trainer does not


def test_the_trainer_and_its_tests_work_where_the_world_models_are_gone(tmp_path):
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer")
    shutil.copytree(ROOT / "tests" / "trainer", tmp_path / "tests" / "trainer")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("images"))
    (tmp_path / "gone.py").write_text(GONE)
    there = {path.name for path in (ROOT / "tests" / "trainer").glob("*_test.py")}
    assert there > SLOW | OPTIONAL
    files = [f"tests/trainer/{name}" for name in sorted(there - SLOW - OPTIONAL)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "gone", "-p", "no:cacheprovider", "-p", "no:xdist", *files],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout or "[100%]" in done.stdout
