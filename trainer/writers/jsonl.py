"""Scalars as one JSON object per line, the file that tools read."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from trainer.writers.base import Writer


class JsonlWriter(Writer):
    """Appends `{"step": 100, "time": 12.5, "train/loss": 0.25}` to a file.

    JSON has no NaN: values that are not finite become the strings "NaN", "Infinity" and "-Infinity", which `float()`
    and JavaScript's `Number()` read back. Every line is handed to the system at once, so that a killed process loses
    none.

    Args:
      path: the file, `metrics.jsonl` of the run folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._file: TextIO | None = None

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a line."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - closed in close()
        numbers = {name: _number(float(value)) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": int(step), **numbers}, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def resume(self, step: int) -> None:
        """Cuts away the lines after `step` and what cannot be read, such as a line that a kill tore."""
        self.close()
        if not self._path.exists():
            return
        text = self._path.read_bytes().decode("utf-8", errors="replace")
        kept, torn = [], 0
        for line in _lines(text):
            line_step = _step_of(line)
            if line_step is None:
                torn += 1
            elif line_step <= step:
                kept.append(line)
        if torn:
            logging.getLogger(__name__).warning("%s: left out %d line(s) that are not whole.", self._path, torn)
        new = "".join(line + "\n" for line in kept)
        if new != text:
            temporary = self._path.with_name(self._path.name + ".tmp")
            temporary.write_text(new, encoding="utf-8")
            os.replace(temporary, self._path)

    def flush(self) -> None:
        """Brings the lines to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; the next write opens it again."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, with numbers that are not finite as floats; a torn line is left out."""
    text = Path(path).read_text(encoding="utf-8")
    lines = [line for line in _lines(text) if _step_of(line) is not None]
    return [{k: float(v) if isinstance(v, str) else v for k, v in json.loads(line).items()} for line in lines]


def _lines(text: str) -> list[str]:
    """The lines; `str.splitlines` would also break a name that holds one of the rarer line separators."""
    return text.removesuffix("\n").split("\n") if text else []


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _step_of(line: str) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return None
    return step if isinstance(step, int) else None
