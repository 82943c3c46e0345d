"""TFDS data sets that others built: RLDS episodes, nested names, other formats, made and read without TensorFlow."""

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from datasets import writing
from datasets.errors import DataError
from datasets.pipeline import TfdsData
from trainer import plugins
from trainer.config import load_config

LENGTHS = (6, 7, 8, 9)
F = tfds.features


def shade(episode, step):
    """What every pixel of an observation holds."""
    return 20 * episode + step


def png(value, size=8):
    out = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(out, "png")
    out.seek(0)
    return out


def rlds_step(episode, step):
    """The action and reward of a step come after its observation; those of the last mean nothing."""
    last = step == LENGTHS[episode] - 1
    return {
        "observation": {"image": png(shade(episode, step)), "wrist": png(0), "depth": np.zeros(4, np.float32)},
        "action": {
            "move": np.full(2, -99.0 if last else shade(episode, step) + 0.5),
            "grip": {"closed": -99 if last else step % 2},
        },
        "choice": 99 if last else (episode + step) % 5,
        "reward": -99.0 if last else shade(episode, step) / 4,
        "discount": 1.0,
        "is_first": step == 0,
        "is_last": last,
        "is_terminal": last and episode % 2 == 0,
        "words": "go",
    }


RLDS_STEP = {
    "observation": {
        "image": F.Image(shape=(8, 8, 3)),
        "wrist": F.Image(shape=(8, 8, 3)),
        "depth": F.Tensor(shape=(4,), dtype=np.float32),
    },
    "action": {"move": F.Tensor(shape=(2,), dtype=np.float64), "grip": {"closed": np.int64}},
    "choice": np.int64,
    "reward": np.float64,
    "discount": np.float32,
    "is_first": np.bool_,
    "is_last": np.bool_,
    "is_terminal": np.bool_,
    "words": F.Text(),
}  # fmt: skip


def rlds():
    """Features and episodes of a data set of RLDS form."""
    episodes = [[rlds_step(e, t) for t in range(length)] for e, length in enumerate(LENGTHS)]
    return {"steps": F.Dataset(RLDS_STEP), "id": F.Text()}, [{"steps": steps, "id": "x"} for steps in episodes]


def store(data_dir, name, features, examples, file_format="array_record"):
    """Writes a data set of one split."""
    builder = writing._Builder(
        name=name, version="1.0.0", data_dir=data_dir, features=F.FeaturesDict(features),
        split_datasets={"train": enumerate(examples)}, file_format=file_format, disable_shuffling=True,
    )  # fmt: skip
    builder.download_and_prepare(file_format=file_format)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with RLDS episodes, and with flat ones of odd features."""
    path = tmp_path_factory.mktemp("foreign")
    store(path, "robot", *rlds())
    gray = [[{"observation": np.full((8, 8), shade(e, t), np.uint8), "action": t} for t in range(6)] for e in range(2)]
    plain = {"observation": F.Tensor(shape=(8, 8), dtype=np.uint8), "action": np.int64}
    store(path, "gray", {"steps": F.Dataset(plain)}, [{"steps": steps} for steps in gray])
    nested = {
        "obs": {"camera": F.Sequence(F.Image(shape=(8, 8, 3))), "state": F.Sequence({"speed": np.float32})},
        "controls": {"move": {"x": F.Sequence(np.float64), "y": F.Sequence(np.float64)}},
        "labelled": np.bool_,
    }
    store(path, "nested", nested, [
        {
            "obs": {"camera": [png(shade(e, t)) for t in range(6)], "state": {"speed": np.zeros(6, np.float32)}},
            "controls": {"move": {"x": np.arange(6.0) + e, "y": np.arange(6.0) - e}},
            "labelled": e > 0,
        }
        for e in range(3)
    ])  # fmt: skip
    return path


def source(folder, name="robot", **settings):
    defaults = {"split": "train", "batch_size": 4, "length": 5, "alignment": "after", "data_dir": str(folder)}
    return TfdsData(name=name, **(defaults | settings))


def batches(data, count=12):
    iterator = data.iterator(seed=0)
    return [next(iterator) for _ in range(count)]


def assert_arrived(batch):
    """Every frame stands with the action and the reward that led to it."""
    episode, step = np.divmod(batch["frames"][..., 0, 0, 0].astype(int), 20)
    first = step == 0
    before = shade(episode, step - 1)
    np.testing.assert_array_equal(batch["is_first"], first)
    np.testing.assert_array_equal(batch["rewards"], np.where(first, 0, before / 4))
    np.testing.assert_array_equal(
        batch["continues"] == 0, (step == np.array(LENGTHS)[episode] - 1) & (episode % 2 == 0)
    )
    return episode, step, first, before


MOVE = {"move": "action/move", "closed": "action/grip/closed", "choice": "choice"}


def test_rlds_steps_are_turned_to_what_led_to_a_frame(folder):
    starts = set()
    for batch in batches(source(folder, keys={"actions": MOVE})):
        episode, step, first, before = assert_arrived(batch)
        np.testing.assert_array_equal(batch["actions"]["choice"], np.where(first, 0, (episode + step - 1) % 5))
        np.testing.assert_array_equal(batch["actions"]["closed"], np.where(first, 0, (step - 1) % 2))
        np.testing.assert_array_equal(batch["actions"]["move"][..., 1], np.where(first, 0, before + 0.5))
        starts |= set(step[:, 0])
    assert starts >= {0, 1, 2}


def test_the_other_alignment_is_told_apart_by_this_very_test(folder):
    (batch,) = batches(source(folder, keys={"actions": MOVE}, alignment="before"), 1)
    with pytest.raises(AssertionError):
        assert_arrived(batch)


def test_types_are_those_that_jax_has_and_the_usual_names_are_found(folder):
    (batch,) = batches(source(folder), 1)
    types = {key: str(value.dtype) for key, value in batch.items() if key != "actions"}
    assert types["frames"] == "uint8"
    assert types["rewards"] == "float32"
    # A group of features, nested as it may be, is a group of components.
    actions = {name: (str(part.dtype), part.shape) for name, part in batch["actions"].items()}
    assert actions == {"grip_closed": ("int32", (4, 5)), "move": ("float32", (4, 5, 2))}


@pytest.mark.parametrize("name", ["observation/image", "steps/observation/image"])
def test_a_name_may_leave_out_the_steps(folder, name):
    (batch,) = batches(source(folder, keys={"frames": name, "actions": "choice", "rewards": ""}), 1)
    assert batch["frames"].shape == (4, 5, 8, 8, 3)
    assert batch["actions"].shape == (4, 5)
    assert "rewards" not in batch


def test_frames_without_colours_get_a_channel(folder):
    (batch,) = batches(source(folder, "gray", batch_size=2), 1)
    assert batch["frames"].shape == (2, 5, 8, 8, 1)


def test_flat_episodes_with_groups_and_sequences(folder):
    keys = {"frames": "obs/camera", "actions": "controls"}
    (batch,) = batches(source(folder, "nested", keys=keys, alignment=None, batch_size=3), 1)
    episode, step = np.divmod(batch["frames"][..., 0, 0, 0].astype(int), 20)
    np.testing.assert_array_equal(batch["labelled"], episode[:, 0] > 0)
    shown = batch["labelled"][:, None]
    np.testing.assert_array_equal(batch["actions"]["move_x"], np.where(shown, step + episode, 0))
    np.testing.assert_array_equal(batch["actions"]["move_y"], np.where(shown, step - episode, 0))


def test_components_that_would_have_the_same_name_are_refused(tmp_path):
    arm = {"x": F.Sequence(np.float32), "y": F.Sequence(np.float32)}
    features = {"frames": F.Sequence(F.Image(shape=(8, 8, 3))), "actions": {"arm": arm, "arm_x": F.Sequence(np.int64)}}
    steps = np.zeros(6)
    parts = {"arm": {"x": steps, "y": steps}, "arm_x": steps.astype(np.int64)}
    store(tmp_path, "twice", features, [{"frames": [png(0) for _ in steps], "actions": parts}])
    message = "'arm/x' and 'arm_x' would both be called 'arm_x'.*--config.data.keys.actions.COMPONENT=NAME"
    with pytest.raises(DataError, match=message):
        batches(source(tmp_path, "twice", alignment=None, batch_size=1), 1)
    keys = {"actions": {"x": "actions/arm/x", "n": "actions/arm_x"}}
    (batch,) = batches(source(tmp_path, "twice", alignment=None, batch_size=1, keys=keys), 1)
    assert set(batch["actions"]) == {"x", "n"}


def test_episodes_shorter_than_a_clip_can_be_left_out_also_in_steps_and_of_plain_video(folder, capfd):
    data = source(folder, length=8, skip_short=True, num_epochs=1, batch_size=1)
    assert sorted(shade_of(batch) // 20 for batch in data.iterator(seed=0)) == [2, 3]
    assert capfd.readouterr().err == (
        "note: left out 2 of 4 episodes of robot/1.0.0, split 'train', which have fewer than 8 frames\n"
    )
    keys = {"frames": "obs/camera", "actions": ""}
    video = source(folder, "nested", keys=keys, alignment=None, length=7, skip_short=True)
    with pytest.raises(DataError, match=r"All 3 episodes of nested.* have fewer than 7 frames. Lower the length"):
        video.prepare()


def shade_of(batch):
    return int(batch["frames"][0, 0, 0, 0, 0])


def test_names_in_a_config_file_hold_for_held_out_data_too(folder, tmp_path):
    """As docs/your_data.md has it."""
    (tmp_path / "robot.py").write_text(
        "from configs import tokenizer\n\nPRESETS = tokenizer.PRESETS\n\n\n"
        "def get_config(preset):\n    config = tokenizer.get_config(preset)\n"
        f"    config.data.name, config.data.data_dir, config.data.alignment = 'robot', {str(folder)!r}, 'after'\n"
        "    config.data['keys'].update(frames='observation/image', actions={'grip': 'choice'}, rewards='')\n"
        "    config.data.length = config.eval_data.length = 6\n"
        "    config.eval_data.batch_size, config.eval_data.split = 2, 'train'\n"
        "    return config\n"
    )
    config = load_config(f"{tmp_path / 'robot.py'}:smoke")
    for data in (config.data, config.eval_data):
        batch = next(plugins.build(data, "data").iterator(seed=0))
        assert (list(batch["actions"]), "rewards" in batch) == (["grip"], False)


def test_the_alignment_and_the_names_are_in_the_fingerprint_and_the_default_is_not(folder):
    keys = {"actions": MOVE}
    after, before = (source(folder, keys=keys, alignment=kind).fingerprint() for kind in ("after", "before"))
    assert {key for key in after | before if after.get(key) != before.get(key)} == {"alignment"}
    assert json.loads(json.dumps(after)) == after
    assert after["features"]["steps/action/move"] == "float64[2]"
    flat = {"frames": "obs/camera"}
    assert (
        source(folder, "nested", keys=flat, alignment=None).fingerprint()
        == source(folder, "nested", keys=flat, alignment="before").fingerprint()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment": None}, "nested data set, as RLDS does: .*alignment=after .*alignment=before"),
        ({"alignment": "behind"}, "must be 'before' or 'after', not 'behind'"),
        (
            {"keys": {"frames": "observation/imag"}},
            "no feature 'observation/imag'.*steps/observation/image.*data.keys.frames",
        ),
        ({"keys": {"frames": "observation/depth"}}, r"uint8 arrays.*is float32 \[\d, 4\]"),
        ({"keys": {"frames": "observation"}}, "is a group of features: image, wrist, depth|depth, image, wrist"),
        ({"keys": {"actions": "words"}}, "Actions must be numbers; 'steps/words'.*data.keys.actions.COMPONENT=NAME"),
        ({"keys": {"actions": {"a": "choise"}}}, "no feature 'choise' for the actions. Did you mean"),
        ({"keys": {"rewards": {"a": "reward"}}}, "keys.rewards must be one name"),
        ({"keys": {"rewards": "action/move"}}, "'rewards' must be one number per frame"),
        ({"keys": {"frames": 3}}, r"keys.frames must be a feature's name, not 3 \(int\)"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_would_be_right(folder, settings, message):
    with pytest.raises(DataError, match=message):
        batches(source(folder, **settings), 1)


def test_the_usual_format_of_published_data_sets_is_read_too(folder, tmp_path):
    """The same records as TFRecord files, in two shards."""
    there, made = folder / "robot" / "1.0.0", tmp_path / "robot" / "1.0.0"
    made.mkdir(parents=True)
    (made / "features.json").write_text((there / "features.json").read_text())
    info = json.loads((there / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    info["splits"][0]["shardLengths"] = ["3", "1"]
    (made / "dataset_info.json").write_text(json.dumps(info))
    records = ArrayRecordReader(str(next(there.glob("*array_record*")))).read_all()
    for shard, part in enumerate((records[:3], records[3:])):
        file = made / f"robot-train.tfrecord-0000{shard}-of-00002"
        file.write_bytes(b"".join(struct.pack("<Q", len(r)) + b"0000" + r + b"0000" for r in part))
    settings = {"keys": {"actions": MOVE}, "split": "train[1:]", "shuffle": False, "batch_size": 3}
    for batch, other in zip(batches(source(tmp_path, **settings)), batches(source(folder, **settings)), strict=True):
        assert_arrived(batch)
        np.testing.assert_array_equal(batch["frames"], other["frames"])
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match="ends within a record"):
        source(tmp_path, split="train[2:]").prepare()
    source(tmp_path, split="train[:2]").prepare()


@pytest.fixture
def parquet(tmp_path):
    """The same as Parquet, in two shards, and their folder."""
    store(tmp_path, "robot", *rlds(), file_format="parquet")
    made = tmp_path / "robot" / "1.0.0"
    (whole,) = made.glob("*.parquet*")
    table = pyarrow.parquet.read_table(whole)
    whole.unlink()
    for shard, part in enumerate((table[:3], table[3:])):
        pyarrow.parquet.write_table(part, made / f"robot-train.parquet-0000{shard}-of-00002")
    info = json.loads((made / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["3", "1"]
    (made / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path, made


@pytest.mark.parametrize("split", ["train", "train[1:]", "train[:2]", "train[3:]+train[1:2]"])
def test_parquet_files_are_read_too_and_of_a_part_of_a_split_no_more_than_that(folder, parquet, split):
    settings = {"keys": {"actions": MOVE}, "split": split, "shuffle": False, "batch_size": 1, "num_epochs": 1}
    given = [list(source(path, **settings).iterator(seed=0)) for path in (parquet[0], folder)]
    for batch, other in zip(*given, strict=True):
        assert_arrived(batch)
        np.testing.assert_array_equal(batch["frames"], other["frames"])


def test_a_parquet_file_that_is_cut_short_is_named(parquet):
    path, made = parquet
    file = made / "robot-train.parquet-00001-of-00002"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"^robot/1.0.0, split 'train', cannot be read: .*00001-of-00002.* again\.$"):
        source(path).prepare()
    source(path, split="train[:2]").prepare()


def test_nothing_of_it_needs_tensorflow(folder):
    code = (
        "import sys\nfrom datasets.pipeline import TfdsData\n"
        f"data = TfdsData(name='robot', data_dir={str(folder)!r}, split='train', batch_size=2, length=5,"
        " alignment='after')\nprint(next(data.iterator(seed=0))['frames'].shape, 'tensorflow' in sys.modules)"
    )
    root = Path(writing.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 5, 8, 8, 3) False\n"
