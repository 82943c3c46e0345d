import os
import random

import pytest

from datasets.contents import checksum


@pytest.fixture
def files(tmp_path):
    """Three files, of 300 kB in all."""
    paths = [tmp_path / str(i) for i in range(3)]
    for path, size in zip(paths, (200_000, 70_000, 30_000), strict=True):
        path.write_bytes(random.Random(size).randbytes(size))
    return paths


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_every_byte_of_a_small_data_set_counts(files):
    before = checksum(files)
    for path, position in ((files[0], 0), (files[0], 131_077), (files[1], 69_999), (files[2], 15_000)):
        flip(path, position)
        assert checksum(files) != before
        flip(path, position)
    assert checksum(files) == before


def test_time_and_place_do_not_count(files, tmp_path):
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in files]
    before = checksum(moved)
    os.utime(moved[0], (1, 1))
    assert checksum(path.rename(path.with_name(path.name.removeprefix("moved-"))) for path in moved) == before


def test_sizes_and_the_ends_of_every_file_of_a_large_data_set_count(files, monkeypatch):
    monkeypatch.setattr("datasets.contents._BLOCK", 1000)
    monkeypatch.setattr("datasets.contents._BLOCKS", 30)
    before, read = checksum(files), 0
    for path in files:
        for position in (0, 999, path.stat().st_size - 1):
            flip(path, position)
            assert checksum(files) != before
            flip(path, position)
    for position in range(500, 200_000, 4000):
        flip(files[0], position)
        read += checksum(files) != before
        flip(files[0], position)
    assert 2 <= read <= 10  # blocks of a tenth of the file, all over it
    files[0].write_bytes(files[0].read_bytes()[:100_500] + b"x" + files[0].read_bytes()[100_500:])
    assert checksum(files) != before
