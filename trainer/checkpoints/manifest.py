"""Whether the files of a checkpoint are what was written: sizes and checksums beside them."""

import json
import os
import zlib
from pathlib import Path, PurePath
from typing import Any

_NAME = "manifest.json"


class DamagedError(Exception):
    """A checkpoint cannot be read; the message says which file or array."""


def write_manifest(folder: Path) -> None:
    """Writes size and checksum of every file below `folder`, and brings all of them to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(folder)): [path.stat().st_size, _checksum(path)] for path in files}
    path = folder / _NAME
    path.write_text(json.dumps(manifest), encoding="utf-8")
    for entry in [*files, path, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        sync(entry)


def verify_manifest(folder: Path) -> None:
    """Compares every file with what was written.

    Raises:
      DamagedError: the first difference.
    """
    manifest = read_json(folder / _NAME)
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        ours = path.suffix == ".json" or path.parent != folder  # a note that somebody left beside them is nobody's harm
        if ours and path.is_file() and not path.name.startswith(".") and name not in {*manifest, _NAME}:
            raise DamagedError(f"{_NAME} does not list {name}")
    for name, entry in manifest.items():
        if not (isinstance(entry, list) and len(entry) == 2) or not is_plain(name):
            raise DamagedError(f"{_NAME} does not list sizes and checksums")
        (size, checksum), path = entry, folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if path.stat().st_size != size:
            raise DamagedError(f"{name} has {path.stat().st_size} bytes, {size} were written")
        if _checksum(path) != checksum:
            raise DamagedError(f"{name} has another checksum than when it was written")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      DamagedError: the file is missing, or no JSON object.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, for ever
        raise DamagedError(f"{path.name} is no file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path.name}: {error}") from error
    if not isinstance(data, dict):
        raise DamagedError(f"{path.name}: expected a JSON object, found a {type(data).__name__}")
    return data


def is_plain(name: str) -> bool:
    """Whether a file's name leads to somewhere below the folder that it is in."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def sync(path: Path) -> None:
    """Brings a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
