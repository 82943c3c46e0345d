"""How long a command takes to begin: help, imports, and a run until its first step is done, each in a new process."""

import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import product
from benchmarks.options import Options
from benchmarks.timing import seconds_of
from trainer import plugins
from trainer.callbacks import Callback, Run
from trainer.errors import UserError
from trainer.metrics import StepMetrics

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3  # of what takes seconds
TOUCH = "import os, numpy; numpy.ones(min(2**33, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2) // 8)"
IMPORTS = "import trainer.experiment, tasks.imagination_rl, datasets.pipeline"


@dataclasses.dataclass(kw_only=True)
class FirstStep(Callback):
    """Writes down when the first step's result was there, and ends the run.

    Attributes:
      file: where to.
    """

    file: str

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """Waits for the device."""
        jax.block_until_ready(metrics)
        Path(self.file).write_text(repr(time.time()), encoding="utf-8")
        run.request_stop("the first step is done", resumable=False)


def measure(options: Options) -> dict[str, Any]:
    """Starts the trainer on `configs/tokenizer.py`, with an empty compilation cache and with the one that this left.

    `first_step_s` is the cold start, `first_step_warm_s` the warm one; both count from the start of the process.
    Memory is touched before each of them, since the host of a virtual machine may have taken back what was unused,
    and needs seconds a gigabyte then to bring it again. `first_step_untouched_s` is a warm start without that.
    """
    config = product.load("tokenizer", options)
    plugins.build(config.data, "data").prepare()
    _python("-m", "trainer", "--help")  # brings the files into memory
    with tempfile.TemporaryDirectory() as folder:
        starts = []
        for number in range(1 + REPEATS):
            _python("-c", TOUCH)
            starts.append(_first_step(options, Path(folder), number))
        untouched = _first_step(options, Path(folder), 1 + REPEATS)
    return {
        "config": f"configs/tokenizer.py:{options.preset}",
        "batch": [config.data.batch_size, config.data.length],
        "help_s": _median("-m", "trainer", "--help"),
        "import_s": _median("-c", IMPORTS),
        "first_step_s": starts[0],
        "first_step_warm_s": statistics.median(starts[1:]),
        "first_step_warm_s_all": starts[1:],
        "first_step_untouched_s": untouched,
        "frames_per_s": None,
        "step_s": None,
        "utilization": None,
        "peak_memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }


def _first_step(options: Options, folder: Path, number: int) -> float:
    """Seconds from the start of a process to the end of its first step."""
    done = folder / f"done-{number}"
    overrides = ({"data.batch_size": str(options.rows)} if options.rows else {}) | dict(options.overrides)
    overrides |= {
        "callbacks.first_step.target": "benchmarks.startup:FirstStep",
        "callbacks.first_step.file": str(done),
        "compilation_cache": str(folder / "cache"),
    }
    began = time.time()
    _python(
        "-m", "trainer", f"--config=configs/tokenizer.py:{options.preset}", f"--workdir={folder / str(number)}",
        *(f"--config.{key}={text}" for key, text in overrides.items()),
    )  # fmt: skip
    return float(done.read_text(encoding="utf-8")) - began


def _median(*arguments: str) -> float:
    return statistics.median(seconds_of(lambda: _python(*arguments)) for _ in range(REPEATS))


def _python(*arguments: str) -> None:
    """Runs Python in the checkout.

    Raises:
      UserError: it failed; with the last line that it printed.
    """
    environment = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise UserError(f"python {' '.join(arguments)} ended with {done.returncode}: {last}")
