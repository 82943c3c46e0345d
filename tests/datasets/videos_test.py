"""Videos with their actions in a table beside them become a data set, or all that is wrong with them is told."""

import json
import re

import av
import numpy as np
import pytest
from PIL import Image
from recorded import LENGTH, rows, shade


def save_video(path, episode, length=LENGTH, size=16):
    frames = [np.full((size, size, 3), shade(episode, step), np.uint8) for step in range(length)]
    if path.suffix == ".gif":
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:], duration=40, loop=0)
        return
    codec = {".mp4": "mpeg4", ".avi": "mpeg4", ".webm": "libvpx-vp9"}[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = size, size, "yuv420p", 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_videos_with_tables_beside_them(tmp_path, run):
    source = tmp_path / "in"
    source.mkdir()
    save_video(source / "a.gif", 4)
    table = "time,action,reward\n0.0,,\n" + "".join(f"{t},{t % 3},{t / 2}\n" for t in range(1, LENGTH))
    (source / "a.csv").write_text(table)
    save_video(source / "b.mp4", 5)
    lines = [{"action": t % 3, "reward": t} for t in range(LENGTH)]
    (source / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    save_video(source / "c.webm", 6)
    lines = [{"action": 2, "reward": 0.0} for _ in range(LENGTH)]
    (source / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, said, notes = run(source, "--size=8")
    assert status == 0
    assert "'time' is not read (a.gif)" in notes
    assert "8 × 8 × 3" in said
    read = list((rows(tmp_path) | rows(tmp_path, "validation")).values())
    for batch in read:
        steps = np.arange(LENGTH)
        episode = round((batch["frames"][0].mean((1, 2, 3)) - steps).mean() / 16)
        np.testing.assert_allclose(batch["frames"][0, :, 0, 0, 0], shade(episode, steps), atol=3)
        wanted = {4: (steps % 3, steps / 2), 5: (steps % 3, steps), 6: (np.where(steps > 0, 2, 0), 0 * steps)}[episode]
        np.testing.assert_array_equal(batch["actions"][0], wanted[0])
        np.testing.assert_array_equal(batch["rewards"][0], wanted[1])
    assert len(read) == 3


def test_videos_alone_are_unlabelled(tmp_path, run):
    (tmp_path / "in").mkdir()
    for episode in (0, 1):
        save_video(tmp_path / "in" / f"{episode}.avi", episode)
    status, said, _ = run(tmp_path / "in")
    assert status == 0
    assert "none: plain video" in said
    assert "config.task.model.actions = {}" in said
    assert "actions" not in rows(tmp_path).popitem()[1]


def test_a_table_may_have_vectors_and_numbers_that_happen_to_be_whole(tmp_path, run):
    (tmp_path / "in").mkdir()
    for episode, (head, row) in enumerate((("turn,move.0,move.1", "1,1,0"), ("turn,move.1,move.0", "0.5,1,0.25"))):
        save_video(tmp_path / "in" / f"{episode}.gif", episode)
        names = ",".join(f"action/{name}" for name in head.split(","))
        (tmp_path / "in" / f"{episode}.csv").write_text(f"{names}\n" + f"{row}\n" * LENGTH)
    assert run(tmp_path / "in")[0] == 0
    for episode, batch in (rows(tmp_path) | rows(tmp_path, "validation")).items():
        np.testing.assert_array_equal(batch["actions"]["turn"][0, 1:], (1, 0.5)[episode])
        np.testing.assert_array_equal(batch["actions"]["move"][0, 1:], np.tile(((1, 0), (0.25, 1))[episode], (6, 1)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "action\n1\n", "has 7 frames, but a.csv has 1 rows"),
        ("a.csv", "action\n" + "1\n" * 3 + "up\n" + "1\n" * 3, "a.csv, line 5, actions: 'up' is no number"),
        ("a.csv", "action\n" + "1\n" * 3 + "\n" + "1\n" * 3, r"actions\[3\]: is empty"),
        ("a.csv", "action,reward\n" + "1,2\n" * 3 + "1\n" * 4, "a.csv: line 5: has 1 columns, the first line has 2"),
        (
            "a.jsonl",
            '{"action": [1, 0]}\n' * 3 + '{"action": [1]}\n' * 4,
            "line 4, actions: 1 numbers, where 2",
        ),
        ("a.jsonl", '{"action": 1}\n{\n', "a.jsonl: line 2: is not JSON"),
        ("other.csv", "action\n", "other.csv: there is no video of this name beside it"),
        ("b.gif", "no picture", "b.gif: cannot be read as a video"),
        ("b.npz", "no archive", r"b.npz: is no .npz: an archive is expected, as numpy.savez.* writes it\n$"),
        ("b.npz", "", "b.npz: is empty: an archive is expected"),
        ("b.npz", "PK\3\4 and no more", "b.npz: is cut short"),
        (
            "a.csv",
            "action/move.0,action/move.2\n" + "0.5,1\n" * 7,
            r"a.csv: line 1: has 'action/move.0', 'action/move.2', but no 'action/move.1'; count",
        ),
        ("a.csv", "action.1\n" + "0.5\n" * 7, r"has 'action.1', but no 'action.0'; count a vector's columns from 0"),
        ("a.csv", "action,action.0\n" + "0,1\n" * 7, r"line 1: has 'action', 'action.0', but no 'action.1'"),
        ("a.csv", "action,actions\n" + "0,1\n" * 7, r"a.csv, line 2, actions: is given twice, .* by 'actions'"),
        (
            "a.csv",
            "action;reward\n" + "1;0,5\n" * 7,
            r"a.csv: line 1: none of the columns is read: 'action;reward'; columns are separated by commas, not by ';'",
        ),
        ("a.csv", "action/a\taction/b\n" + "1\t1\n" * 7, r"separated by commas, not by '\\t'; expected are action,"),
        ("a.csv", "time\n" + "1\n" * 7, "none of the columns is read: 'time'; expected are action, action/NAME"),
        ("a.jsonl", '{"time": 1}\n' * 7, "a.jsonl: none of the names is read: 'time'; expected are"),
        (
            "a.jsonl",
            '{"action": {"move": 1}, "action/move": 2}\n' * 7,
            "a.jsonl, line 1, actions/move: is given twice, the second time by 'action/move'",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_line(tmp_path, run, name, text, message):
    (tmp_path / "in").mkdir()
    save_video(tmp_path / "in" / "a.gif", 0)
    (tmp_path / "in" / name).write_text(text)
    status, _, errors = run(tmp_path / "in")
    assert status == 1
    assert re.search(message, errors), errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".CSV", ".Csv", ".JSONL"])
def test_the_suffix_of_a_table_may_be_of_large_letters(tmp_path, run, suffix):
    (tmp_path / "in").mkdir()
    for episode in (0, 1):
        save_video(tmp_path / "in" / f"{episode}.gif", episode)
        (tmp_path / "in" / f"{episode}.gif").rename(tmp_path / "in" / f"{episode}.GIF")
        text = '{"action": 2}\n' * LENGTH if suffix == ".JSONL" else "action\n" + "2\n" * LENGTH
        (tmp_path / "in" / f"{episode}{suffix}").write_text(text)
    status, said, notes = run(tmp_path / "in")
    assert status == 0
    assert "categorical, 0 … 2" in said
    assert "note" not in notes
    (tmp_path / "in" / f"other{suffix}").write_text("action\n")
    assert f"other{suffix}: there is no video of this name beside it" in run(tmp_path / "in", "--version=2.0.0")[2]
