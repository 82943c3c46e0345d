"""`read`: what somebody recorded, an `.npz` or a video with its actions beside it, as arrays, nothing checked yet."""

import dataclasses
import difflib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets import tables
from datasets.errors import DataError
from datasets.images import resize
from datasets.writing import UNNAMED

VIDEOS = (".mp4", ".gif", ".avi", ".webm", ".mov", ".mkv")
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
      table: name of the text that the numbers come from, where 1 may stand for 1.0; "" for arrays.
      unused: names of what is not read.
    """

    frames: np.ndarray
    actions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    missing: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    table: str = ""
    unused: list[str] = dataclasses.field(default_factory=list)


def find(folder: Path) -> tuple[list[Path], list[Path]]:
    """The recordings in a folder and below it, and the files that belong to none.

    Raises:
      DataError: there is no such folder, or no recording in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder. Give the folder of the recordings.")
    # Links that lead nowhere, and links to folders, which are not entered, are told as well; so is a folder that is
    # called like a recording, such as an unpacked archive, and has none in it.
    everything = sorted(folder.rglob("*"))
    entered = {parent for path in everything if _is_called(path) for parent in path.parents}
    files = [path for path in everything if path.is_symlink() or not path.is_dir() or _is_called(path)]
    files = [path for path in files if path not in entered]
    recordings = [path for path in files if _is_called(path)]
    if not recordings:
        kinds = ", ".join(sorted({path.suffix or path.name for path in files})) or "nothing"
        raise DataError(
            f"There is no recording in {folder}: .npz files or videos ({', '.join(VIDEOS)}) are expected; "
            f"it has {kinds}."
        )
    videos = {path.with_suffix("") for path in recordings if path.suffix.lower() in VIDEOS}
    used = {*recordings, *(path for path in files if tables.is_table(path) and path.with_suffix("") in videos)}
    return recordings, [path for path in files if path not in used]


def _is_called(path: Path) -> bool:
    return path.suffix.lower() in (".npz", *VIDEOS)


def read(path: Path, size: int | None = None) -> Recording:
    """Reads a recording; its frames resized to `size` × `size` where given.

    Raises:
      BadRecording: it cannot be read.
      DataError: a library is missing.
    """
    if path.is_symlink() and not path.exists():
        raise BadRecording(f"is a link to {path.readlink()}, which is not there")
    if not path.is_file():
        raise BadRecording(f"is {'a folder' if path.is_dir() else 'no ordinary file'}; a recording is a file")
    try:
        recording = _read_npz(path) if path.suffix.lower() == ".npz" else _read_video(path, size)
        if size is not None and recording.frames.ndim in (3, 4) and recording.frames.dtype == np.uint8:
            recording.frames = np.stack([resize(frame, size) for frame in recording.frames])
        return recording
    except DataError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadRecording(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_npz(path: Path) -> Recording:
    _check_npz(path)
    with np.load(path, allow_pickle=False) as file:
        names = list(file)
        if "frames" not in names:
            raise BadRecording(
                f"has no array 'frames'{_hint('frames', names)}; its arrays: {', '.join(names) or 'none'}"
            )
        problems, arrays, unused = [], {}, []
        for name in names:
            if name != "frames" and not tables.is_read(name):
                unused.append(name)
                continue
            try:
                arrays[name] = file[name]
            except ValueError as error:
                why = "it holds Python objects" if "allow_pickle" in str(error) else error
                problems.append(f"{name}: cannot be read ({why}); store plain numbers")
    if problems:
        raise BadRecording(*problems)
    return _recording(arrays.pop("frames"), arrays, unused=unused)


def _check_npz(path: Path) -> None:
    """Raises `BadRecording` for what is called .npz and is none."""
    with open(path, "rb") as file:
        head = file.read(6)
    if zipfile.is_zipfile(path):
        return
    if head == b"\x93NUMPY":
        raise BadRecording("is a single array, no .npz: write it with numpy.savez(file, frames=…, actions=…)")
    if head[:2] == b"PK":
        raise BadRecording("is cut short: the end of the archive is missing; copy it again")
    what = "no .npz" if head else "empty"
    raise BadRecording(f"is {what}: an archive is expected, as numpy.savez(file, frames=…, actions=…) writes it")


def _read_video(path: Path, size: int | None) -> Recording:
    frames = np.stack(list(_decode(path, size)) or [np.empty(0)])
    beside = sorted(other for other in path.parent.iterdir() if tables.is_table(other) and other.stem == path.stem)
    if len(beside) > 1:
        raise BadRecording(f"has two files of actions, {' and '.join(table.name for table in beside)}; remove one")
    if not beside:
        return Recording(frames=frames)
    try:
        table = tables.read(beside[0], len(frames))
    except ValueError as error:
        raise BadRecording(str(error)) from error
    return _recording(frames, table.arrays, missing=table.missing, table=beside[0].name, unused=table.unused)


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
    if not path.stat().st_size:
        raise BadRecording("is empty: a video is expected")
    decoded = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadRecording("has no pictures in it")
            for frame in container.decode(video=0):
                yield resize(frame.to_ndarray(format="rgb24"), size)
                decoded += 1
    except av.error.FFmpegError as error:
        where = f" beyond its first {decoded} frames" if decoded else ""
        raise BadRecording(f"cannot be read as a video{where} ({error.strerror}); copy or encode it again") from error
