"""`read`: what somebody recorded, an `.npz` or a video with its actions beside it, as arrays, nothing checked yet."""

import csv
import dataclasses
import difflib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.errors import DataError
from datasets.images import resize
from datasets.writing import UNNAMED

VIDEOS = (".mp4", ".gif", ".avi", ".webm", ".mov", ".mkv")
TABLES = (".csv", ".jsonl")
_KNOWN = ("frames", "actions", "rewards", "is_terminal", "task", "relevant")
# What else people call them: a hint, never taken for the thing itself.
_ALSO = {
    "frames": ("frame", "images", "image", "video", "obs", "observation", "observations", "pixels"),
    "actions": ("action", "act", "controls"),
    "rewards": ("reward", "rew"),
    "is_terminal": ("terminal", "terminals", "terminated", "done", "dones"),
    "task": ("tasks", "task_id"),
}


class BadRecording(Exception):
    """A file cannot be used.

    Attributes:
      problems: what is wrong, each with its place in the file.
    """

    def __init__(self, *problems: str):
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclasses.dataclass(kw_only=True)
class Recording:
    """What a file holds.

    Attributes:
      frames: [T, H, W, C] or [T, H, W].
      actions: arrays [T, …] by component, `UNNAMED` for a single one; empty: none.
      arrays: `rewards`, `is_terminal`, `task`, `relevant`, where they are there.
      missing: entries that a table leaves empty, by array.
      from_table: whether numbers come from a text, where 1 may stand for 1.0.
      unused: names of what is not read.
    """

    frames: np.ndarray
    actions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    missing: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    from_table: bool = False
    unused: list[str] = dataclasses.field(default_factory=list)


def find(folder: Path) -> tuple[list[Path], list[Path]]:
    """The recordings in a folder and below it, and the files that belong to none.

    Raises:
      DataError: there is no such folder, or no recording in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder. Give the folder of the recordings.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    recordings = [path for path in files if path.suffix.lower() in (".npz", *VIDEOS)]
    if not recordings:
        kinds = ", ".join(sorted({path.suffix or path.name for path in files})) or "nothing"
        raise DataError(
            f"There is no recording in {folder}: .npz files or videos ({', '.join(VIDEOS)}) are expected; "
            f"it has {kinds}."
        )
    videos = {path.with_suffix("") for path in recordings if path.suffix.lower() in VIDEOS}
    tables = {path for path in files if path.suffix.lower() in TABLES and path.with_suffix("") in videos}
    return recordings, [path for path in files if path not in tables and path not in recordings]


def read(path: Path, size: int | None = None) -> Recording:
    """Reads a recording; its frames resized to `size` × `size` where given.

    Raises:
      BadRecording: it cannot be read.
      DataError: a library is missing.
    """
    try:
        recording = _read_npz(path) if path.suffix.lower() == ".npz" else _read_video(path, size)
        if size is not None and recording.frames.ndim in (3, 4) and recording.frames.dtype == np.uint8:
            recording.frames = np.stack([resize(frame, size) for frame in recording.frames])
        return recording
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadRecording(f"cannot be read: {error}") from error


def _read_npz(path: Path) -> Recording:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise BadRecording("is a single array, no .npz: write it with numpy.savez(file, frames=…, actions=…)")
        names = list(file)
        if "frames" not in names:
            raise BadRecording(
                f"has no array 'frames'{_hint('frames', names)}; its arrays: {', '.join(names) or 'none'}"
            )
        problems, arrays, unused = [], {}, []
        for name in names:
            if name not in _KNOWN and not name.startswith("actions/"):
                unused.append(name)
                continue
            try:
                arrays[name] = file[name]
            except ValueError as error:
                problems.append(f"{name}: cannot be read ({error}); store plain numbers")
    if problems:
        raise BadRecording(*problems)
    return _recording(arrays.pop("frames"), arrays, unused=unused)


def _read_video(path: Path, size: int | None) -> Recording:
    frames = np.stack(list(_decode(path, size)) or [np.empty(0)])
    tables = [path.with_suffix(suffix) for suffix in TABLES if path.with_suffix(suffix).exists()]
    if len(tables) > 1:
        raise BadRecording(f"has two files of actions, {' and '.join(table.name for table in tables)}; remove one")
    if not tables:
        return Recording(frames=frames)
    table, start = tables[0], 2 if tables[0].suffix.lower() == ".csv" else 1
    try:
        rows = _csv_rows(table) if start == 2 else _json_rows(table)
    except ValueError as error:
        raise BadRecording(f"{table.name}: {error}") from error
    if len(rows) != len(frames):
        raise BadRecording(
            f"has {len(frames)} frames, but {table.name} has {len(rows)} rows; one row per frame is expected"
        )
    try:
        arrays, missing = _columns(rows, start)
    except ValueError as error:
        raise BadRecording(f"{table.name}, {error}") from error
    unused = [name for name in arrays if name not in _KNOWN and not name.startswith("actions/")]
    arrays = {name: array for name, array in arrays.items() if name not in unused}
    return _recording(frames, arrays, missing=missing, from_table=True, unused=unused)


def _recording(frames: np.ndarray, arrays: dict[str, np.ndarray], **other: Any) -> Recording:
    actions = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("actions/")}
    if "actions" in arrays:
        if actions:
            raise BadRecording(
                f"has 'actions' and also 'actions/{next(iter(actions))}': give either one array or components"
            )
        actions = {UNNAMED: arrays["actions"]}
    rest = {name: array for name, array in arrays.items() if not name.startswith("actions")}
    for name in ("actions", "rewards", "is_terminal", "task"):
        hint = _hint(name, other.get("unused", []))
        if hint and name not in rest and not (name == "actions" and actions):
            raise BadRecording(f"has no {name!r}{hint}; rename or remove it")
    return Recording(frames=frames, actions=actions, arrays=rest, **other)


def _hint(name: str, present: list[str]) -> str:
    """ "(but 'action')" where something there may be meant."""
    close = [other for other in present if other in _ALSO.get(name, ())]
    close = close or difflib.get_close_matches(name, present, n=1, cutoff=0.8)
    return f" (but {close[0]!r})" if close else ""


def _decode(path: Path, size: int | None) -> Iterator[np.ndarray]:
    """The frames [H, W, 3] of a video."""
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{path.name} is a video, and videos are read with the library av: pip install 'reverie[video]'"
        ) from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadRecording("has no pictures in it")
            for frame in container.decode(video=0):
                yield resize(frame.to_ndarray(format="rgb24"), size)
    except av.error.FFmpegError as error:
        raise BadRecording(f"cannot be read as a video: {error}") from error


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """A dict per row; the columns `move.0`, `move.1`, … become one list."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            # A line with nothing on it is a row whose only column is empty.
            names, *rows = [[cell.strip() for cell in row] or [""] for row in reader] or [[""]]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"line 1: expected the names of the columns, each once, as in action,reward; it has {names}")
    out = []
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"line {number + 2}: has {len(row)} columns, the first line has {len(names)}")
        values: dict[str, Any] = {}
        for column, text in zip(names, row, strict=True):
            name, index = re.fullmatch(r"(.*?)(\.\d+)?", column).groups()
            if index is None:
                values[name] = _number(text)
            else:
                values.setdefault(name, []).append(_number(text))
        out.append(values)
    return out


def _number(text: str) -> Any:
    """A truth value, a whole number, a number, None for nothing, or else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number + 1}: is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f'line {number + 1}: expected an object, as in {{"action": 3, "reward": 0.5}}')
        rows.append(row)
    return rows


def _columns(rows: list[dict[str, Any]], first_line: int) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Arrays by name, and where they have no entry."""
    names = {"action": "actions", "reward": "rewards"}
    flat = [_flat(row, names) for row in rows]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    arrays, missing = {}, {}
    for key in keys:
        values = [row.get(key) for row in flat]
        if key not in _KNOWN and not key.startswith("actions/"):
            arrays[key] = np.empty(0)
            continue
        arrays[key], missing[key] = _column(key, values, first_line)
    return arrays, {key: indices for key, indices in missing.items() if indices}


def _flat(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`action`, `action/move` and {"action": {"move": …}} under the names of an .npz."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        head, slash, rest = key.partition("/")
        key = names.get(head, head) + slash + rest
        if isinstance(value, Mapping) and key == "actions":
            out |= {f"actions/{name}": part for name, part in value.items()}
        else:
            out[key] = value
    return out


def _column(name: str, values: list[Any], first_line: int) -> tuple[np.ndarray, list[int]]:
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
            raise ValueError(f"line {i + first_line}, {name}: {wrong[0]!r} is no number")
        if i in missing:
            lists[i] = []
        elif len(value) != width:
            raise ValueError(f"line {i + first_line}, {name}: {len(value)} numbers, where {width} are expected")
    kinds = {type(part) for value in lists for part in value}
    fill = False if kinds == {bool} else 0
    array = np.array([value or [fill] * width for value in lists])
    vector = any(isinstance(value, list) for value in values)
    return array if vector else array[:, 0], missing
