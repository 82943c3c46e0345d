"""Runs benchmarks by name: one in this process, or each in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks import data_pipeline, generate, startup, trainer_overhead
from benchmarks.machine import describe
from benchmarks.options import Options
from benchmarks.train_step import train_step

PREFIX = "--config."  # of flags that change the config
BENCHMARKS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "tokenizer_train_step": train_step("tokenizer"),
    "dynamics_train_step": train_step("dynamics"),
    "heads_train_step": train_step("heads"),
    "rl_train_step": train_step("imagination_rl"),
    "generate": generate.measure,
    "data_pipeline": data_pipeline.measure,
    "startup": startup.measure,
    "trainer_overhead": trainer_overhead.measure,
}


def run(name: str, options: Options) -> dict[str, Any]:
    """Runs a benchmark in this process."""
    jax.config.update("jax_enable_compilation_cache", False)  # first steps are to be first ones
    result = BENCHMARKS[name](options)
    print(json.dumps({name: result}, indent=2), flush=True)
    return {"machine": describe(), name: result}  # not before: a GPU is taken by whoever looks at it


def run_all(options: Options) -> dict[str, Any]:
    """Runs every benchmark in a process of its own, so that neither memory nor compiled programs are shared."""
    results: dict[str, Any] = {}
    for name in BENCHMARKS:
        result = run_apart(name, options)
        results.setdefault("machine", result.get("machine"))
        results[name] = result[name]
        print(json.dumps({name: result[name]}, indent=2), flush=True)
    return results


def run_apart(name: str, options: Options, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `run` returns, from another process; `{NAME: {"error": …}}` where it failed.

    Args:
      name: of the benchmark.
      options: handed on.
      environment: of the process; None for this one's.
    """
    command = [sys.executable, "-m", "benchmarks", f"--only={name}", f"--preset={options.preset}"]
    command += [f"--batch={options.batch}"] if options.batch else []
    command += [f"--seconds={options.seconds}", *(f"{PREFIX}{key}={text}" for key, text in options.overrides)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        done = subprocess.run(
            [*command, f"--json={file}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:]
            if not said or not said[0].startswith("error: "):  # such as a process that was killed
                said = [": ".join([f"ended with {done.returncode}", *said])]
            return {name: {"error": said[0].removeprefix("error: ")}}
        return json.loads(file.read_text(encoding="utf-8"))
