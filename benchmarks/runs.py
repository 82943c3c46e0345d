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


def upstream(phase: str, root: Path, preset: str = "cpu") -> dict[str, str]:
    """What tells a run of `phase` to build on the one before it in `root`; nothing for the first phase."""
    before = UPSTREAM.get(phase)
    return {f"upstream.{before}.run": str(root / f"{before}-{preset}")} if before else {}


def commit_of(folder: Path) -> str:
    """The commit, shortened, of the checkout that `folder` lies in.

    Raises:
      UserError: it lies in none.
    """
    told = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if told.returncode:
        raise UserError(f"{folder} is not in a git checkout, so that nobody could tell what was measured there")
    return told.stdout.strip()


def replace_between(file: Path, begin: str, end: str, text: str) -> None:
    """Writes `text` between two markers of a file, in place of what stands there."""
    before, rest = file.read_text(encoding="utf-8").split(begin, 1)
    file.write_text(before + begin + text + end + rest.split(end, 1)[1], encoding="utf-8")


def figures(run: Path, names: Sequence[str] = ()) -> dict[str, float]:
    """The last value of each figure in a run's `metrics.jsonl`; of `names` only where some are given."""
    last: dict[str, float] = {}
    for line in read_jsonl(run / "metrics.jsonl"):
        last |= {name: value for name, value in line.items() if not names or name in names}
    return last
