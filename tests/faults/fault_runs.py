"""`python -m trainer` as a process: started, waited for, killed, and what it leaves behind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer.checkpoints import read_params

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = "--config=fault_config.py:first"
FIRST = "logs/first"
WAIT = 240.0  # seconds: for anything that should happen at once, on a machine that does much else
_TIMINGS = ("time", "train/steps_per_s", "train/frames_per_s", "train/utilization")


class Process:
    """One command.

    Args:
      words: the command.
      folder: where it is started.
      place: an empty folder for what it prints and for what it and the test tell each other.
      environment: its variables.
    """

    def __init__(self, words: Sequence[str], folder: Path, place: Path, environment: dict[str, str]) -> None:
        self.place, self._printed = place, place / "printed.txt"
        with self._printed.open("wb") as file:
            environment = {**environment, "FAULT_FOLDER": str(place)}
            self._process = subprocess.Popen(words, cwd=folder, env=environment, stdout=file, stderr=file)

    @property
    def printed(self) -> str:
        """All that it has printed."""
        return self._printed.read_text(encoding="utf-8", errors="replace")

    @property
    def trace(self) -> list[str]:
        """What `fault_parts.Watch` has seen, as "step 3"."""
        path = self.place / "trace.txt"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def end(self) -> int:
        """Waits, and returns the exit code; negative: the signal that ended it."""
        return self._process.wait(WAIT)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Waits for a condition, which must come while the process lives."""
        deadline = time.monotonic() + WAIT
        while not condition():
            ended = self._process.poll()
            assert ended is None or condition(), f"ended with {ended} before {what}:\n{self.printed}"
            assert time.monotonic() < deadline, f"no {what} in {WAIT} s:\n{self.printed}"
            time.sleep(0.002)

    def reached(self) -> "Process":
        """Waits until the process is where `at` says."""
        self.until((self.place / "reached").exists, "the moment")
        return self

    def go(self) -> None:
        """Lets it go on from there."""
        (self.place / "go").touch()

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """`kill -9`, if it still lives."""
        self._process.kill()
        self._process.wait()


class Runs:
    """Starts processes in a folder that holds the config.

    Args:
      folder: where.
      cache: of compiled programs; others may share it.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self._started = folder, cache, []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fault_config.py").write_bytes((HERE / "fault_config.py").read_bytes())

    def start(
        self, *arguments: str, at: str = "", pace: float = 0.0, wrap: Sequence[str] = (), **environment: str
    ) -> Process:
        """Starts a command.

        Args:
          *arguments: of `python -m trainer`; without any, the run `first` is trained.
          at: the moment at which it waits, see `fault_parts`.
          pace: seconds of a batch.
          wrap: words before `python -m trainer`.
          **environment: further variables.
        """
        variables = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), "JAX_PLATFORMS": "cpu",
            "FAULT_AT": at, "FAULT_PACE": str(pace), **environment,
        }  # fmt: skip
        words = [*wrap, sys.executable, "-m", "trainer", *(arguments or [CONFIG])]
        if not any(word.startswith("--config.compilation_cache") for word in words):
            words.append(f"--config.compilation_cache={self.cache}")
        place = Path(tempfile.mkdtemp(prefix="process-", dir=self.folder.parent))
        self._started.append(Process(words, self.folder, place, variables))
        return self._started[-1]

    def run(self, *arguments: str, code: int = 0, **settings: Any) -> Process:
        """Starts a command, waits for its end and expects an exit code."""
        process = self.start(*arguments, **settings)
        ended = process.end()
        assert ended == code, f"exit code {ended}, expected {code}:\n{process.printed}"
        return process

    def close(self) -> None:
        """Kills what still lives."""
        for process in self._started:
            process.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def lines(run: Path) -> list[list[tuple[str, Any]]]:
    """The metrics without their timings."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [[(k, v) for k, v in json.loads(line).items() if k not in _TIMINGS] for line in text.splitlines()]


def result(run: Path) -> dict[str, Any]:
    """All that two runs must have in common, bit for bit: metrics, final state, parameters on the disk."""
    leaves, structure = jax.tree.flatten(read_params(run).params)
    return {
        "metrics": lines(run),
        "state": json.loads((run / "end.json").read_text()),
        "parameters": [(str(structure), np.asarray(leaf).tobytes()) for leaf in leaves],
    }


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints."""
    folder = run / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.exists() else []


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes; but for the lock, which holds the number of the last process."""
    paths = (path for path in folder.rglob("*") if path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def error(process: Process, lines: int = 1) -> str:
    """The message that a process ended with; it has so many lines at most and is no traceback."""
    assert "Traceback" not in process.printed, process.printed
    place = f"\n{process.printed}".rfind("\nerror: ")
    assert place >= 0, process.printed
    message = process.printed[place:]
    assert message.rstrip("\n").count("\n") < lines, message
    return message
