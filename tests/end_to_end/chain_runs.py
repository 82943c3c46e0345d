"""The chain of runs that the tests share, and how its command is started."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
