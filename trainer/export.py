"""A run's scalars as a table."""

import csv
import math
from pathlib import Path
from typing import Any, TextIO

from trainer.errors import DataError
from trainer.writers import read_jsonl
from trainer.writers.base import utf8


def to_csv(run_folder: str | Path, file: str | Path | TextIO) -> None:
    """Writes all of a run's `metrics.jsonl` as CSV (RFC 4180).

    ::

      to_csv("logs/tokenizer-cpu", "tokenizer.csv")

    The first columns are `step` and `time`, then comes one for every scalar, in the order in which they were logged
    first. There is one row per step; a scalar that was not logged at a step is empty, one that is not finite is `NaN`,
    `Infinity` or `-Infinity`.

    Args:
      run_folder: the run.
      file: a path, or an open text file such as `sys.stdout`; one of your own should be opened with `newline=""`.

    Raises:
      DataError: there are no metrics, or they cannot be read.
    """
    path = Path(run_folder) / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    try:
        for line in read_jsonl(path):
            rows.setdefault(line["step"], {}).update(line)
    except FileNotFoundError:
        raise DataError(f"there is no {path}: give the folder of a run that has logged something.") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    columns = list(dict.fromkeys(["step", "time", *(name for row in rows.values() for name in row)]))
    table = [[utf8(name) for name in columns]]
    table += [[_cell(rows[step].get(name)) for name in columns] for step in sorted(rows)]
    if isinstance(file, str | Path):
        with open(file, "w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows(table)
    else:
        csv.writer(file).writerows(table)


def _cell(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return "" if value is None else str(value)
