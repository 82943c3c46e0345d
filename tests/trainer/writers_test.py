import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from trainer.writers import ConsoleWriter, JsonlWriter, MediaWriter, MultiWriter, TensorBoardWriter, Writer, read_jsonl

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
VIDEO = np.stack([np.full((4, 6, 3), 40 * t, np.uint8) for t in range(5)])[None]


def events(folder):
    """Parses event files: length (8 bytes), checksum (4), record, checksum (4)."""
    for path in sorted(folder.glob("*tfevents*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_jsonl_writes_one_valid_object_per_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write_scalars(1, {"a": 0.1, "b": np.float32(2)})
    writer.write_scalars(2, {"a": math.nan, "b": math.inf, "c": -math.inf})
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    parsed = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert parsed[0] == {"step": 1, "a": 0.1, "b": 2.0}
    assert parsed[1] == {"step": 2, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    back = read_jsonl(path)[1]
    assert math.isnan(back["a"])
    assert back["b"] == math.inf


def test_jsonl_is_cut_back_and_forgets_a_torn_line(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    for step in (5, 10, 15):
        writer.write_scalars(step, {"é": step})
    writer.close()
    with open(path, "ab") as file:
        file.write('{"step": 20, "é'.encode()[:-1])
    JsonlWriter(path).resume(10)
    writer = JsonlWriter(path)
    writer.resume(10)
    writer.write_scalars(11, {"é": 11})
    writer.close()
    assert [line["step"] for line in read_jsonl(path)] == [5, 10, 11]
    assert "1 line(s)" in caplog.text
    assert path.read_text().endswith("}\n")


def test_a_line_torn_before_the_restored_step_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a"')
    writer = JsonlWriter(path)
    writer.resume(2)
    writer.write_scalars(3, {"a": 3})
    writer.close()
    assert [line["step"] for line in read_jsonl(path)] == [1, 3]


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "/etc/passwd",
        "..",
        ".hidden",
        "a\\b:c*?",
        "x" * 300,
        "über/größe",
        "",
        "a\0b",
        "con\n",
        "half\udcff",
        "\udcff" * 200,
        "<script>",
        "\u202e\u2028",
        "📷" * 80,
    ],
)
def test_media_files_stay_in_their_folder(tmp_path, name):
    folder = tmp_path / "deep" / "media"
    MediaWriter(folder).write_images(3, {name: IMAGE})
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 2
    assert all(path.parent == folder and not path.name.startswith(".") for path in written)


HOSTILE = [
    "../../x", "/etc/passwd", "<script>alert(1)</script>", "a\0b", "two\nlines", "\x1b[31mred\x1b[2J", "\x9b2J",
    "\u202ebidi", "line\u2028separator\x85", "half\udcff", "x" * 5000, '"quoted", with = and \\', "",
]  # fmt: skip


def test_jsonl_holds_any_name(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write_scalars(1, dict.fromkeys(HOSTILE, 0.5))
    writer.write_scalars(2, dict.fromkeys(HOSTILE, 1.5))
    writer.resume(1)
    writer.write_scalars(2, dict.fromkeys(HOSTILE, 2.5))
    writer.close()
    assert [set(line) - {"step"} for line in read_jsonl(path)] == [set(HOSTILE)] * 2
    assert [line["two\nlines"] for line in read_jsonl(path)] == [0.5, 2.5]


def test_nothing_that_a_terminal_acts_on_reaches_it(capsys):
    writer = ConsoleWriter()
    writer.write_scalars(1, dict.fromkeys(HOSTILE, 0.5))
    writer.write_texts(1, {name: f"\x1b]0;title\x07{name}" for name in HOSTILE})
    shown = capsys.readouterr().err
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert len(shown.splitlines()) == 1 + len(HOSTILE)
    assert r"\x1b[31mred\x1b[2J 0.5" in shown
    assert "<script>" in shown


def test_tensorboard_holds_any_name_and_writes_nowhere_else(tmp_path):
    writer = TensorBoardWriter(tmp_path / "deep" / "run")
    writer.write_scalars(1, dict.fromkeys(HOSTILE, 0.5))
    writer.write_images(1, dict.fromkeys(HOSTILE, IMAGE))
    writer.write_texts(1, {name: name for name in HOSTILE})
    writer.close()
    values = [v for e in events(tmp_path / "deep" / "run") for v in e.summary.value]
    assert len([v for v in values if v.HasField("simple_value")]) == len(HOSTILE)
    assert len([v for v in values if v.HasField("image")]) == len(HOSTILE)
    assert len([v for v in values if v.tensor.string_val]) == len(HOSTILE)
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "deep" / "run"]


@pytest.mark.parametrize("name", ["step", "time"])
def test_a_scalar_may_not_take_the_name_of_the_step_or_the_time(name):
    with pytest.raises(ValueError, match=f"no scalar may be called {name}"):
        MultiWriter([ConsoleWriter()]).write_scalars(1, {name: 1.0})


def test_media_names_never_collide_and_the_newest_has_a_stable_name(tmp_path):
    writer = MediaWriter(tmp_path)
    writer.write_images(1, {"a/b": IMAGE, "a_b": IMAGE + 1})
    writer.write_images(2, {"a/b": IMAGE + 2})
    assert len(list(tmp_path.glob("*_1.png"))) == 2
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a_b_1.png")), IMAGE[0])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a_b.png")), IMAGE[0] + 2)


def test_videos_become_animated_gifs(tmp_path):
    MediaWriter(tmp_path, fps=10).write_videos(1, {"v": VIDEO})
    gif = Image.open(io.BytesIO((tmp_path / "v_1.gif").read_bytes()))
    assert gif.n_frames == 5
    assert gif.info["duration"] == 100
    for t in range(5):
        gif.seek(t)
        np.testing.assert_allclose(np.asarray(gif.convert("RGB")), VIDEO[0, t], atol=2)


def test_pictures_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected uint8 \[N, H, W, 3\], got float64"):
        MediaWriter(tmp_path).write_images(1, {"x": np.zeros((2, 2, 3))})


def test_tensorboard_files_hold_everything(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write_hparams({"lr": 0.5})
    writer.write_scalars(7, {"train/loss": 0.25, "bad": math.nan})
    writer.write_images(7, {"image": IMAGE})
    writer.write_videos(7, {"video": VIDEO})
    writer.write_texts(7, {"note": "**hello**"})
    writer.close()
    values = {v.tag: (e.step, v) for e in events(tmp_path) for v in e.summary.value}
    assert values["train/loss"][0] == 7
    assert values["train/loss"][1].simple_value == 0.25
    assert math.isnan(values["bad"][1].simple_value)
    image = Image.open(io.BytesIO(values["image"][1].image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(image), IMAGE[0])
    video = Image.open(io.BytesIO(values["video"][1].image.encoded_image_string))
    assert (video.format, video.n_frames) == ("GIF", 5)
    texts = [v.tensor.string_val[0] for e in events(tmp_path) for v in e.summary.value if v.tensor.string_val]
    assert any(b"hello" in text for text in texts)
    assert any(b'"lr": 0.5' in text for text in texts)


def test_tensorboard_is_told_what_to_forget(tmp_path):
    first = TensorBoardWriter(tmp_path)
    first.resume(0)
    first.write_scalars(5, {"a": 1})
    first.close()
    second = TensorBoardWriter(tmp_path)
    second.resume(3)
    second.write_scalars(4, {"a": 2})
    second.close()
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log") and e.session_log.status == 1]
    assert starts == [4]


def test_an_exception_names_the_writer_and_all_are_closed():
    closed = []

    class Broken(Writer):
        def write_scalars(self, step, scalars):
            raise OSError("disk full")

        def close(self):
            closed.append("broken")
            raise OSError("still full")

    class Fine(Writer):
        def close(self):
            closed.append("fine")

    writer = MultiWriter([Broken(), Fine()])
    with pytest.raises(OSError, match="disk full") as caught:
        writer.write_scalars(1, {"a": 1})
    assert caught.value.__notes__ == ["raised in Broken.write_scalars"]
    with pytest.raises(OSError, match="still full"):
        writer.close()
    assert closed == ["broken", "fine"]


def test_what_no_writer_takes_is_reported_once(tmp_path, caplog):
    writer = MultiWriter([JsonlWriter(tmp_path / "m.jsonl"), ConsoleWriter()])
    writer.write_videos(1, {"rollout": VIDEO})
    writer.write_videos(2, {"rollout": VIDEO})
    assert len(caplog.records) == 1
    assert "rollout" in caplog.text
    assert "JsonlWriter, ConsoleWriter" in caplog.text
    caplog.clear()
    pictures_alone = MultiWriter([MediaWriter(tmp_path / "media")])
    for step in (1, 2):
        pictures_alone.write_scalars(step, {"loss": 1.0})
    assert len(caplog.records) == 1
    assert "scalars (loss …) are not written" in caplog.text


def test_a_writer_with_clus_methods_and_no_base_class_plugs_in(capsys):
    calls = []

    class Foreign:
        def write_scalars(self, step, scalars):
            calls.append((step, scalars))

        def flush(self):
            calls.append("flush")

        def close(self):
            calls.append("close")

    writer = MultiWriter([Foreign(), ConsoleWriter()], clock=lambda: 2.0)
    writer.resume(0)
    writer.write_scalars(3, {"a": 1})
    writer.flush()
    writer.close()
    assert calls == [(3, {"time": 2.0, "a": 1.0}), "flush", "close"]
    assert capsys.readouterr().err == "[3] time 2  a 1\n"
