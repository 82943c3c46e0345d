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
        ("a.csv", "action\n" + "1\n" * 3 + "\n" + "1\n" * 3, r"actions\[3\] \(a.csv, line 5\): is empty"),
        ("a.csv", "action,reward\n" + "1,2\n" * 3 + "1\n" * 4, "a.csv: line 5: has 1 columns, the first line has 2"),
        (
            "a.jsonl",
            '{"action": [1, 0]}\n' * 3 + '{"action": [1]}\n' * 4,
            "line 4, actions: 1 numbers, where 2",
        ),
        ("a.jsonl", '{"action": 1}\n{\n', "a.jsonl: line 2: is not JSON"),
        ("other.csv", "action\n", "other.csv: there is no video of this name beside it"),
        ("b.gif", "no picture", r"b.gif: cannot be read as a video \(End of file\); copy or encode it again"),
        ("b.mp4", "no video", r"b.mp4: cannot be read as a video \(Invalid data found [a-z ]*\); copy or encode it"),
        ("b.mp4", "", "b.mp4: is empty: a video is expected"),
        ("a.csv", "action\n1\n".encode("utf-16"), "a.gif: a.csv: seems to be UTF-16 text; save it as UTF-8"),
        ("a.csv", "action\n1\n".encode("utf-16-le"), "a.gif: a.csv: seems to be UTF-16 text"),
        ("a.jsonl", '{"action": 1}\n'.encode("utf-16"), "a.gif: a.jsonl: seems to be UTF-16 text"),
        ("a.csv", "action,b\n1,größe\n".encode("latin-1"), r"a.csv: line 2: is not UTF-8 text \(byte 0xf6\); save it"),
        (
            "a.jsonl",
            '{"action": 1}\n' * 3 + '{"action": 9223372036854775808}\n' * 4,
            r"a.jsonl, line 4, actions: '9223372036854775808' has more than 64 bits\n$",
        ),
        (
            "a.jsonl",
            f'{{"action": -{"9" * 5000}}}\n' * 7,
            r"a.jsonl, line 1, actions: '-9+\.\.\.9+' has more than 64 bits\n$",
        ),
        (
            "a.csv",
            f"action,reward\n1,{'9' * 30}\n" + "1,1\n" * 6,
            r"line 2, rewards: '9+\.\.\.9+' has more than",
        ),
        (
            "a.jsonl",
            '{"action": 1}\n' + f'{{"action": {"[" * 100_000 + "]" * 100_000}}}\n' * 6,
            "a.gif: a.jsonl: line 2: is nested too deeply; numbers or lists of them are expected\n$",
        ),
        (
            "a.jsonl",
            f'{{"action": {"[" * 500 + "]" * 500}}}\n' * 7,
            r"line 1, actions: [\[\]. ]+ is no number\n$",
        ),
        ("a.csv", "action\n" + "1\n" * 6 + "1_0\n", "a.csv, line 8, actions: '1_0' is no number"),
        ("a.csv", "action\n" + "2.5\n" * 6 + "nan\n", r"a.gif: actions\[6\] \(a.csv, line 8\): is nan; finite"),
        ("a.csv", "action\n" + "2\n" * 6 + "-1\n", r"a.gif: actions\[6\] \(a.csv, line 8\): is -1; whole numbers are"),
        (
            "a.csv",
            "action\n" + "1\n" * 6 + "30\n",
            r"a.gif: actions\[6\] \(a.csv, line 8\): is 30, and no choice",
        ),
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
    (tmp_path / "in" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, errors = run(tmp_path / "in")
    assert (status, len(errors.splitlines())) == (1, 3)  # what is done, the head, and one line
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


def test_a_video_that_is_cut_short_is_told_with_how_much_of_it_is_good(tmp_path, run):
    (tmp_path / "in").mkdir()
    save_video(tmp_path / "in" / "a.gif", 0)
    whole = (tmp_path / "in" / "a.gif").read_bytes()
    (tmp_path / "in" / "b.gif").write_bytes(whole[: len(whole) // 2])
    status, _, errors = run(tmp_path / "in")
    assert status == 1
    assert re.search(
        r"\n  b.gif: cannot be read as a video beyond its first [2-5] frames \(Invalid [a-z ]+\); ", errors
    ), errors
    assert not (tmp_path / "out").exists()


def test_what_is_not_read_may_hold_numbers_of_any_length_and_a_mark_may_stand_first(tmp_path, run):
    (tmp_path / "in").mkdir()
    for name, text in (("a.csv", "action,id\n" + f"2,{'9' * 30}\n" * 7), ("b.jsonl", '{"action": 2, "id": 9e9}\n' * 7)):
        save_video(tmp_path / "in" / f"{name[0]}.gif", 0)
        (tmp_path / "in" / name).write_text(text.replace("9e9", "9" * 5000), encoding="utf-8-sig")
    status, said, _ = run(tmp_path / "in")
    assert (status, "categorical, 0 … 2" in said) == (0, True)


def test_a_number_among_choices_is_noted_with_its_line(tmp_path, run):
    (tmp_path / "in").mkdir()
    for name, cell in (("a", "2"), ("b", "1.5")):
        save_video(tmp_path / "in" / f"{name}.gif", 0)
        (tmp_path / "in" / f"{name}.csv").write_text("action\n" + "0\n1\n2\n" * 2 + f"{cell}\n")
    status, said, notes = run(tmp_path / "in")
    assert (status, "continuous, 1 number, 0 … 2" in said) == (0, True)
    assert (
        "note: actions: numbers, not choices, since b.gif has 1.5 at actions[6] (b.csv, line 8); 11 of 12 are whole, "
        "0 … 2. Where choices were meant, mend that, and store whole numbers\n"
    ) in notes
