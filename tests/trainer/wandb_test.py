import importlib
import io
import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from toy import Counter, Regression, StopAt, make_trainer

from trainer import plugins
from trainer.errors import ConfigError
from trainer.writers import WandbWriter, keeps_record

wandb = importlib.import_module("wandb")
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
VIDEO = np.stack([np.full((4, 6, 3), 40 * t, np.uint8) for t in range(5)])[None]
_BLOCK = 32768


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """Nothing of the person who runs the tests, and nothing sent anywhere."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_ID", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "home"))


def records(path):
    """The records of a file: LevelDB's log, pieces of records none of which crosses the end of a block."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last piece
            found.append(Record.FromString(whole))
            whole = b""
    return found


def of_kind(folder, kind):
    """What the records of a kind say, of all offline runs in a folder by time; wandb writes them in another process."""
    wandb.teardown()
    paths = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    everything = [record for path in paths for record in records(path)]
    return [getattr(record, kind) for record in everything if record.WhichOneof("record_type") == kind]


def history(folder):
    """What was logged, as one flat mapping per line."""
    lines = []
    for entry in of_kind(folder, "history"):
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in entry.item}
        lines.append({name: value for name, value in items.items() if not name.startswith("_")})
    return lines


def offline(folder, **changes):
    return WandbWriter(folder, mode="offline", **changes)


def test_everything_arrives(tmp_path):
    folder = tmp_path / "my-run"
    writer = offline(folder, project="p", group="g", tags=("a", "b"))
    writer.resume(0)
    writer.write_hparams({"optimizer": {"learning_rate": 0.5}, "name": "n"})
    writer.write_scalars(7, {"train/loss": 0.25, "bad": math.nan})
    writer.write_scalars(3, {"train/loss": 0.5})  # wandb's own count never goes back
    writer.write_images(7, {"rollout/image": IMAGE})
    writer.write_videos(7, {"rollout/video": VIDEO})
    writer.write_texts(7, {"note": "**bold** <script>"})
    writer.flush()
    writer.close()
    [run] = of_kind(folder, "run")
    assert (run.project, run.run_group, list(run.tags), run.display_name) == ("p", "g", ["a", "b"], "my-run")
    config = {update.key: json.loads(update.value_json) for c in of_kind(folder, "config") for update in c.update}
    assert config["optimizer"] == {"learning_rate": 0.5}
    lines = history(folder)
    assert (lines[0]["step"], lines[0]["train/loss"]) == (7, 0.25)
    assert math.isnan(lines[0]["bad"])
    assert (lines[1]["step"], lines[1]["train/loss"]) == (3, 0.5)
    assert [line["step"] for line in lines] == [7, 3, 7, 7, 7]
    metrics = {metric.name or metric.glob_name: metric.step_metric for metric in of_kind(folder, "metric")}
    assert metrics == {"step": "", "*": "step"}
    [media] = folder.glob("wandb/offline-run-*/files/media")
    [image] = media.rglob("*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(image)), IMAGE[0])
    [video] = media.rglob("*.gif")
    assert Image.open(io.BytesIO(video.read_bytes())).n_frames == 5
    [text] = media.rglob("*.html")
    assert text.read_text() == "<pre>**bold** &lt;script&gt;</pre>"
    assert of_kind(folder, "exit")[0].exit_code == 0


def test_a_continued_run_keeps_its_id_and_its_line(tmp_path):
    def fit(**changes):
        settings = dict(data=Counter(), eval_data=None, evaluators={}, log_every=2, checkpoint_every=3, steps=8)
        return make_trainer(tmp_path, writers=[offline(tmp_path)], **{**settings, **changes}).fit()

    fit(callbacks=[StopAt(step=4)])
    fit()
    runs = of_kind(tmp_path, "run")
    assert len(runs) == 2
    assert {run.run_id for run in runs} == {(tmp_path / "wandb_id").read_text().strip()}
    lines = history(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(line["train/loss"] > 0 for line in lines)


def test_a_run_that_failed_says_so(tmp_path):
    class Broken(Regression):
        def frames_per_batch(self, batch):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        make_trainer(tmp_path, task=Broken(), writers=[offline(tmp_path)]).fit()
    assert of_kind(tmp_path, "exit")[0].exit_code == 1


@pytest.mark.parametrize(
    "name", ["../../../x", "/etc/x", "a\0b", "two\nlines", "<b>", "half\udcff", "x" * 3000, "a//b", "", "_step"]
)
def test_names_stay_in_the_folder_and_break_nothing(tmp_path, name):
    folder = tmp_path / "run"
    writer = offline(folder)
    writer.write_scalars(1, {name: 0.5})
    writer.write_images(1, {name: IMAGE})
    writer.close()
    [media] = folder.glob("wandb/offline-run-*/files/media/images")
    assert len([path for path in media.rglob("*.png") if path.is_file()]) == 1
    assert len(list(tmp_path.rglob("*.png"))) == 1
    assert 0.5 in history(folder)[0].values()


def test_nothing_is_written_before_the_run_begins_and_nothing_by_an_evaluation(tmp_path):
    writer = plugins.build({"target": "wandb", "mode": "offline"}, "writers", workdir=tmp_path)
    assert isinstance(writer, WandbWriter)
    assert keeps_record(writer)
    writer.close()
    assert not list(tmp_path.iterdir())


def test_disabled_leaves_nothing_behind(tmp_path):
    writer = WandbWriter(tmp_path, mode="disabled")
    writer.resume(0)
    writer.write_scalars(1, {"a": 1.0})
    writer.write_images(1, {"b": IMAGE})
    writer.close()
    assert not (tmp_path / "wandb").exists()


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'offline'"):
        WandbWriter(tmp_path, mode="ofline")


@pytest.mark.parametrize("instead", [None, type(sys)("wandb")])
def test_without_the_package_the_extra_is_named_before_anything_is_trained(tmp_path, monkeypatch, instead):
    monkeypatch.setitem(sys.modules, "wandb", instead)  # not there, or a folder of that name
    with pytest.raises(ConfigError, match=r"pip install 'reverie\[wandb\]'"):
        plugins.build({"target": "wandb"}, "writers", workdir=tmp_path)


def test_the_package_is_loaded_only_where_it_is_wanted():
    code = "import sys, trainer.writers, trainer.trainer; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
