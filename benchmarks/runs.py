"""Training runs as measurements: started as a user would, each in a process of its own, and read from their folders."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.writers import read_jsonl

PHASES = ("tokenizer", "dynamics", "heads", "imagination_rl")
UPSTREAM = {"dynamics": "tokenizer", "heads": "dynamics", "imagination_rl": "heads"}


def train(phase: str, root: Path, name: str, changes: Mapping[str, Any], *, preset: str = "cpu") -> Path:
    """Trains `phase` into `root`/`name`, or goes on with what is there.

    Args:
      phase: one of `PHASES`.
      root: folder of the run.
      name: of the run.
      changes: fields of its config and their values.
      preset: of its config.

    Returns:
      The run's folder.

    Raises:
      UserError: the run failed.
    """
    command = [sys.executable, "-m", "trainer", f"--config=configs/{phase}.py:{preset}"]
    fields = {"root": str(root), "name": name, **changes}
    command += [f"--config.{field}={_text(value)}" for field, value in fields.items()]
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{name}.log").open("a", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise UserError(f"{' '.join(command)} ended with {status}; its output is in {root / name}.log")
    return root / name


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def upstream(phase: str, run: Path) -> dict[str, str]:
    """What tells a run of `phase` to build on `run`; nothing for the first phase."""
    return {f"upstream.{UPSTREAM[phase]}.run": str(run)} if phase in UPSTREAM else {}


def figures(run: Path, names: Sequence[str] = ()) -> dict[str, float]:
    """The last value of each figure in a run's `metrics.jsonl`; of `names` only where some are given."""
    last: dict[str, float] = {}
    for line in read_jsonl(run / "metrics.jsonl"):
        last |= {name: value for name, value in line.items() if not names or name in names}
    return last
