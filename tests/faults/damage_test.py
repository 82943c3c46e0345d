"""A damaged newest checkpoint is named, the one before is used, and the run ends bit for bit the same."""

import json
import os
import shutil

import pytest
from fault_runs import FIRST, contents, error, result, steps


def largest(folder):
    """The file with most of the parameters."""
    return max((path for path in (folder / "params").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)


def truncated(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(folder):
    path = largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def all_emptied(folder):
    """What some file systems leave after a power failure."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def without(name):
    def remove(folder):
        path = largest(folder) if name == "array" else folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    remove.__name__ = f"without {name}"
    return remove


def nothing_left(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def of_another_step(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("5"), folder)


def nothing_listed(folder):
    (folder / "manifest.json").write_text("{}")


def not_all_listed(folder):
    listed = json.loads((folder / "manifest.json").read_text())
    listed.pop(next(name for name in listed if "/" in name))
    (folder / "manifest.json").write_text(json.dumps(listed))


def a_pipe(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


DAMAGES = [
    of_another_step, nothing_listed, not_all_listed, a_pipe, truncated, flipped, all_emptied, nothing_left,
    *(without(name) for name in ("array", "meta.json", "manifest.json", "data-0.json")),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_checkpoint_before_a_damaged_one_is_used(runs, half, undisturbed, damage):
    damage(half / "checkpoints/10")
    process = runs.run()
    named = [line for line in process.printed.splitlines() if f"{FIRST}/checkpoints/10" in line]
    assert len(named) == 1, process.printed
    assert "damaged" in named[0]
    assert "continues at step 5" in process.printed
    assert result(half) == undisturbed
    assert steps(half) == [10, 15, 20]


def test_where_every_checkpoint_is_damaged_nothing_is_changed(runs, half):
    for step in (5, 10):
        truncated(half / f"checkpoints/{step}")
    before = contents(half)
    message = error(runs.run(code=1))
    assert "None of the checkpoints in logs/first/checkpoints can be read" in message
    assert contents(half) == before
