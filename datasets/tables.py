"""`read`: the actions and rewards beside a video, a `.csv` or `.jsonl` with a row per frame, as arrays."""

import collections
import csv
import io
import json
import re
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = (".csv", ".jsonl")
ARRAYS = ("actions", "rewards", "is_terminal", "task", "relevant")
MOST_DIGITS = 20  # Of a whole number of 64 bits, and its sign.
_ALSO = {"action": "actions", "reward": "rewards"}  # What a row, which has one of them, calls them.


class Table(NamedTuple):
    """What a table holds.

    Attributes:
      arrays: by the names that an `.npz` has.
      missing: entries that are left empty, by array.
      unused: names of what is not read.
    """

    arrays: dict[str, np.ndarray]
    missing: dict[str, list[int]]
    unused: list[str]


def is_table(path: Path) -> bool:
    """Whether a file is called like a table, in large or small letters."""
    return path.suffix.lower() in SUFFIXES


def first_line(name: str) -> int:
    """The line of a table's first row, counted from 1."""
    return 2 if name.lower().endswith(".csv") else 1


def place(label: str, index: int, table: str) -> str:
    """An entry of an array, and the line that it stands in where it comes from a table."""
    return f"{label}[{index}]" + (f" ({table}, line {index + first_line(table)})" if table else "")


def is_read(name: str) -> bool:
    """Whether a recording may have an array of this name beside its frames."""
    return name in ARRAYS or name.startswith("actions/")


def read(path: Path, length: int) -> Table:
    """Reads the table of a video of `length` frames.

    Raises:
      ValueError: it cannot be used; the message names it, and the line.
    """
    first = first_line(path.name)
    try:
        rows = _csv_rows(_text(path)) if first == 2 else _json_rows(_text(path))
    except OSError as error:
        raise ValueError(f"{path.name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if len(rows) != length:
        raise ValueError(f"has {length} frames, but {path.name} has {len(rows)} rows; one row per frame is expected")
    try:
        flat = [_flat(row, number + first) for number, row in enumerate(rows)]
        names = list(dict.fromkeys(name for row in flat for name in row))
        columns = {name: _column(name, [row.get(name) for row in flat], first) for name in names if is_read(name)}
    except ValueError as error:
        raise ValueError(f"{path.name}, {error}") from error
    arrays = {name: array for name, (array, _) in columns.items()}
    missing = {name: places for name, (_, places) in columns.items() if places}
    return Table(arrays, missing, [name for name in names if not is_read(name)])


def _text(path: Path) -> str:
    """What a table says.

    Raises:
      ValueError: it is no UTF-8.
    """
    data = path.read_bytes()
    if b"\0" in data:  # as in every line's end; it may be UTF-8 all the same
        raise ValueError("seems to be UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: is not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from error


def _csv_rows(text: str) -> list[dict[str, Any]]:
    """A dict per row; the columns `move.0`, `move.1`, … become one list."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        # A line with nothing on it is a row whose only column is empty.
        names, *rows = [[cell.strip() for cell in row] or [""] for row in reader] or [[""]]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"line 1: expected the names of the columns, each once, as in action,reward; it has {names}")
    columns = [_place(name) for name in names]
    _check_names({name for name, _ in columns}, "line 1: none of the columns")
    sizes = _sizes(columns)
    out = []
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"line {number + 2}: has {len(row)} columns, the first line has {len(names)}")
        values: dict[str, Any] = {name: [None] * size for name, size in sizes.items()}
        for (name, index), text in zip(columns, row, strict=True):
            if index is None:
                values[name] = _number(text)
            else:
                values[name][index] = _number(text)
        out.append(values)
    return out


def _place(column: str) -> tuple[str, int | None]:
    """`action/move.1` is the number 1 of `action/move`; what is not read stays as it is."""
    name, _, index = column.rpartition(".")
    return (name, int(index)) if index.isdecimal() and is_read(_array_of(name)) else (column, None)


def _sizes(columns: Collection[tuple[str, int | None]]) -> dict[str, int]:
    """How many columns there are of everything that has several.

    Raises:
      ValueError: one is missing.
    """
    found: dict[str, list[int | None]] = collections.defaultdict(list)
    for name, index in columns:
        found[name].append(index)
    several = {name: indices for name, indices in found.items() if indices != [None]}
    for name, indices in several.items():
        lacking = next((index for index in range(len(indices)) if index not in indices), None)
        if lacking is not None:
            there = ", ".join(repr(name if index is None else f"{name}.{index}") for index in indices)
            raise ValueError(f"line 1: has {there}, but no '{name}.{lacking}'; count a vector's columns from 0")
    return {name: len(indices) for name, indices in several.items()}


def _check_names(names: Collection[str], none: str) -> None:
    """Raises ValueError where nothing of a table is read: it is written in another way, or is no table of actions."""
    separator = next((s for s in (";", "\t", "|") for name in names if s in name and len(names) == 1), None)
    if not separator and any(is_read(_array_of(name)) for name in names):
        return
    hint = f"; columns are separated by commas, not by {separator!r}" if separator else ""
    raise ValueError(
        f"{none} is read: {', '.join(map(repr, sorted(names))) or 'there are none'}{hint}; expected are action, "
        "action/NAME, reward, is_terminal, task or relevant"
    )


def _number(text: str) -> Any:
    """A truth value, a whole number, a number, None for nothing, or else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return _whole(text)
    try:
        return float(text) if text.isascii() and "_" not in text else text
    except ValueError:
        return text or None


def _whole(digits: str) -> int | str:
    """The number, or what is written where it has more than 64 bits: that is nothing to an array which is not read."""
    number = int(digits) if len(digits) <= MOST_DIGITS else 2**63
    return number if -(2**63) <= number < 2**63 else digits


def _json_rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines()):
        try:
            row = json.loads(line, parse_int=_whole)
        except ValueError as error:
            raise ValueError(f"line {number + 1}: is not JSON ({error})") from error
        except RecursionError as error:
            raise ValueError(
                f"line {number + 1}: is nested too deeply; numbers or lists of them are expected"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f'line {number + 1}: expected an object, as in {{"action": 3, "reward": 0.5}}')
        rows.append(row)
    _check_names({name for row in rows for name in row}, "none of the names")
    return rows


def _array_of(name: str) -> str:
    """The array that a table calls so."""
    head, slash, rest = name.partition("/")
    return _ALSO.get(head, head) + slash + rest


def _flat(row: Mapping[str, Any], line: int) -> dict[str, Any]:
    """`action`, `action/move` and {"action": {"move": …}} under the names of an .npz."""
    out: dict[str, Any] = {}
    for given, value in row.items():
        name = _array_of(given)
        parts = {name: value}
        if isinstance(value, Mapping) and name == "actions":
            parts = {f"actions/{part}": entry for part, entry in value.items()}
        twice = next((part for part in parts if part in out), None)
        if twice is not None:
            raise ValueError(f"line {line}, {twice}: is given twice, the second time by {given!r}; leave one out")
        out |= parts
    return out


def _column(name: str, values: list[Any], first: int) -> tuple[np.ndarray, list[int]]:
    """An array [T] or [T, K], 0 where nothing is given, and these places.

    Raises:
      ValueError: an entry is no number, or has another length than the others.
    """
    lists = [value if isinstance(value, list) else [value] for value in values]
    missing = [i for i, value in enumerate(lists) if None in value]
    width = max((len(value) for i, value in enumerate(lists) if i not in missing), default=1)
    for i, value in enumerate(lists):
        wrong = [part for part in value if part is not None and not isinstance(part, bool | int | float)]
        if wrong:
            digits = isinstance(wrong[0], str) and re.fullmatch(r"[+-]?[0-9]{19,}", wrong[0])
            why = "has more than 64 bits" if digits else "is no number"
            raise ValueError(f"line {i + first}, {name}: {reprlib.repr(wrong[0])} {why}")
        if i in missing:
            lists[i] = []
        elif len(value) != width:
            raise ValueError(f"line {i + first}, {name}: {len(value)} numbers, where {width} are expected")
    kinds = {type(part) for value in lists for part in value}
    fill = False if kinds == {bool} else 0
    array = np.array([value or [fill] * width for value in lists])
    vector = any(isinstance(value, list) for value in values)
    return array if vector else array[:, 0], missing
