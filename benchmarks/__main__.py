"""The command line: `python -m benchmarks [--only=NAME] [--json=FILE]`."""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import trainer_overhead

BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {"trainer_overhead": trainer_overhead.measure}


def main() -> int:
    """Runs benchmarks and prints their figures as JSON, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), help="run this one alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures into this file, too")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(BENCHMARKS)
    machine = {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "machine": platform.processor()}
    results: dict[str, Any] = {"machine": {**machine, "jax": jax.__version__, "python": platform.python_version()}}
    for name in names:
        results[name] = BENCHMARKS[name]()
        print(json.dumps({name: results[name]}, indent=2), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
