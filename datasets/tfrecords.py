"""`TfRecords`: the examples of a TFDS split stored as TFRecord files, at random, without TensorFlow.

TFDS itself reads only array_record and Parquet at random, and most published data sets are TFRecord files. Such a file
is a row of records: a length (8 bytes), its checksum (4), the data, its checksum (4).
"""

import functools
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from datasets.errors import DataError

_HEAD, _TAIL = 12, 4
_READABLE = {tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.PARQUET}


def only(info: tfds.core.DatasetInfo) -> bool:
    """Whether a data set is there as TFRecord files, and in no format that TFDS reads at random."""
    formats = info.available_file_formats()
    return tfds.core.FileFormat.TFRECORD in formats and not formats & _READABLE


class TfRecords:
    """A sequence of decoded examples; safe to use from several threads. Checksums are not verified."""

    def __init__(self, info: tfds.core.DatasetInfo, split: str, decoders: Mapping[str, Any]) -> None:
        """Finds where every record begins.

        Args:
          info: of the data set.
          split: in TFDS's notation.
          decoders: TFDS's, by feature.

        Raises:
          DataError: a file is cut short, or has fewer examples than the data set's description says.
        """
        self._features, self._decoders = info.features, decoders
        self._records: list[tuple[str, int, int]] = []
        for part in info.splits[split].file_instructions:
            records = _index(part.filename, Path(part.filename).stat().st_size)
            if len(records) < part.skip + part.take:
                raise DataError(
                    f"{part.filename} has {len(records)} records, but dataset_info.json beside it tells of "
                    f"{part.examples_in_shard}: the file is incomplete. Copy it again."
                )
            self._records += [(part.filename, *record) for record in records[part.skip : part.skip + part.take]]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, start, length = self._records[index]
        with open(path, "rb") as file:
            file.seek(start)
            return self._features.deserialize_example_np(file.read(length), decoders=self._decoders)


@functools.lru_cache(maxsize=4096)
def _index(path: str, size: int) -> tuple[tuple[int, int], ...]:
    """Where the records of a file of `size` bytes begin, and their lengths."""
    start, records = 0, []
    with open(path, "rb") as file:
        while start < size:
            file.seek(start)
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if start + _HEAD + length + _TAIL > size:
                raise DataError(f"{os.fspath(path)} ends within a record, at byte {size}. Copy it again.")
            records.append((start + _HEAD, length))
            start += _HEAD + length + _TAIL
    return tuple(records)
