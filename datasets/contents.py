"""`checksum`: whether the files of a data set are still the same, at little cost."""

import math
import zlib
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

_BLOCK = 1 << 16
_BLOCKS = 512  # 32 MiB, which take less than a tenth of a second


def checksum(paths: Iterable[str | PathLike[str]]) -> int:
    """A CRC-32 over the sizes and bytes of files.

    Of more than 32 MiB in all it takes 64 KiB blocks, evenly spaced, each file's first and last among them. Other bytes
    between the blocks, in files of the same size, go unseen.
    """
    files = [(Path(path), Path(path).stat().st_size) for path in paths]
    total, value = sum(size for _, size in files), 0
    for path, size in files:
        value = zlib.crc32(str(size).encode(), value)
        with open(path, "rb") as file:
            for start in _starts(size, total):
                file.seek(start)
                value = zlib.crc32(file.read(_BLOCK), value)
    return value


def _starts(size: int, total: int) -> Iterator[int]:
    """Where the blocks of a file begin."""
    count = max(2, math.ceil(_BLOCKS * size / max(total, 1)))
    if size <= count * _BLOCK:
        return iter(range(0, size, _BLOCK))
    return ((size - _BLOCK) * i // (count - 1) for i in range(count))
