"""Latents that are kept: the encoder's own, of the right frames, encoded once, and never those of another tokenizer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import TOKENIZER, TRANSFORMER, generic, shapes
from fakes import upstream as finished
from hand_made import run_of

from datasets import writing
from datasets.pipeline import TfdsData
from models.tokenizer import to_float
from tasks import latents
from tasks.dynamics import DynamicsTask
from tasks.heads import HeadsTask
from tasks.imagination_rl import ImaginationRLTask
from tasks.latents import LatentData
from tasks.tokenizer import TokenizerTask
from trainer.errors import DataError

LENGTHS = (7, 20, 5, 12, 9)
MODEL = {"packing": 1, "actions": {"": {"kind": "categorical", "size": 3}}, "transformer": TRANSFORMER}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Episodes of noise, each of another length, whose actions count the frames."""
    numbers, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    episodes = [
        {
            "frames": numbers.integers(0, 256, (length, 8, 8, 3)).astype(np.uint8),
            "source": str(number),
            "actions": {writing.UNNAMED: np.arange(length, dtype=np.int32)},
        }
        for number, length in enumerate(LENGTHS)
    ]
    contents = writing.Contents(image=(8, 8, 3), actions={writing.UNNAMED: writing.Component("categorical", 20)})
    writing.write("noise", "1.0.0", str(folder), contents, {"train": episodes}, "noise")
    return str(folder)


def source(data_dir, **settings):
    return TfdsData(name="noise", split="train", data_dir=data_dir, **{"batch_size": 2, "length": 4, **settings})


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    task = TokenizerTask(model=TOKENIZER)
    example = shapes(next(source(data_dir).iterator(seed=0)))
    task.setup({}, example)
    return task, generic(task, example)


def encoded(tokenizer, data, folder, **changed):
    task, params = tokenizer
    data = LatentData(data, task.model, {**params, **changed}, folder)
    data.prepare()
    return data


def whole(tokenizer, frames):
    """What the tokenizer makes of an episode, all at once."""
    task, params = tokenizer
    return np.asarray(task.model(params).encode(to_float(frames[None]))[0][0])


@pytest.mark.parametrize("frames", [64, 4], ids=["at once", "in parts"])
def test_latents_are_those_of_whole_episodes(tokenizer, data_dir, tmp_path, monkeypatch, frames):
    monkeypatch.setattr(latents, "FRAMES", frames)
    monkeypatch.setattr(latents, "CPU_ROWS", 2)
    plain = source(data_dir, length=5, batch_size=1)
    data = encoded(tokenizer, plain, tmp_path)
    seen = set()
    for batch, other, _ in zip(data.iterator(seed=3), plain.iterator(seed=3), range(20), strict=False):
        assert batch.keys() == other.keys() - {"frames"} | {"latents"}
        for key in batch.keys() & other.keys():
            np.testing.assert_array_equal(batch[key], other[key])
        start = batch["actions"][0, 0]
        cuts = [plain.episodes[n]["frames"][start : start + 5] for n in range(5)]
        (number,) = [n for n, cut in enumerate(cuts) if np.array_equal(cut, other["frames"][0])]
        expected = whole(tokenizer, plain.episodes[number]["frames"])[start : start + 5]
        np.testing.assert_allclose(batch["latents"][0], expected, atol=2e-4)
        seen.add(number)
    assert seen == set(range(5))


def test_unrelated_frames_are_encoded_without_their_past(tokenizer, data_dir, tmp_path):
    plain = source(data_dir, independent_share=0.5)
    data = encoded(tokenizer, plain, tmp_path)
    task, params = tokenizer
    found = 0
    for batch, other, _ in zip(data.iterator(seed=0), plain.iterator(seed=0), range(6), strict=False):
        rows = batch["independent"]
        found += rows.sum()
        alone = task.model(params).encode(to_float(other["frames"]), independent=np.ones(2, bool))[0]
        np.testing.assert_allclose(batch["latents"][rows], np.asarray(alone)[rows], atol=2e-4)
        clips, alone = batch["latents"][~rows], np.asarray(alone)[~rows]
        assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(clips[:, 1:], alone[:, 1:], strict=True))
    assert found


def test_they_are_encoded_once_for_all_that_build_on_the_tokenizer(tokenizer, data_dir, tmp_path, monkeypatch):
    encoded(tokenizer, source(data_dir), tmp_path)
    monkeypatch.setattr(latents, "_encoder", None)  # would fail if it were asked again
    again = encoded(tokenizer, source(data_dir, batch_size=3, length=2), tmp_path)
    assert next(again.iterator(seed=0))["latents"].shape == (3, 2, 2, 4)
    for other in (
        lambda: encoded(tokenizer, source(data_dir, split="train[:3]"), tmp_path),
        lambda: encoded(
            tokenizer, source(data_dir), tmp_path, bottleneck=jax.tree.map(jnp.zeros_like, tokenizer[1]["bottleneck"])
        ),
    ):
        with pytest.raises(TypeError):
            other()


def test_another_tokenizer_is_another_fingerprint(tokenizer, data_dir, tmp_path):
    task, params = tokenizer
    changed = jax.tree.map(lambda x: x, params)
    changed["bottleneck"]["bias"] = changed["bottleneck"]["bias"].at[0].add(1e-3)
    plain = source(data_dir)
    prints = [LatentData(plain, task.model, p, tmp_path).fingerprint() for p in (params, params, changed)]
    assert prints[0] == prints[1] != prints[2]
    assert json.loads(json.dumps(prints[0])) == prints[0]  # as a checkpoint gives it back
    assert {key: value for key, value in prints[0].items() if key != "latents"} == plain.fingerprint()


def test_what_was_interrupted_goes_on(tokenizer, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "CPU_ROWS", 1)
    monkeypatch.setattr(latents, "FLUSH_EVERY", 1)
    reference = encoded(tokenizer, source(data_dir), tmp_path / "reference")
    made, calls = latents._encoder, []

    def failing(*args):
        encode = made(*args)

        def counted(params, episodes):
            calls.append(len(episodes[0]))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return encode(params, episodes)

        return counted

    monkeypatch.setattr(latents, "_encoder", failing)
    with pytest.raises(KeyboardInterrupt):
        encoded(tokenizer, source(data_dir), tmp_path / "other")
    data = encoded(tokenizer, source(data_dir), tmp_path / "other")
    assert tuple(calls) == (*LENGTHS[:4], *LENGTHS[3:])
    files = [next((tmp_path / name).glob("*/latents.npy")).read_bytes() for name in ("reference", "other")]
    assert files[0] == files[1]
    assert {path.name for path in data.folder.iterdir()} == {path.name for path in reference.folder.iterdir()}


def test_a_damaged_file_is_written_again(tokenizer, data_dir, tmp_path, capsys):
    data = encoded(tokenizer, source(data_dir), tmp_path)
    file = data.folder / "latents.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    encoded(tokenizer, source(data_dir), tmp_path)
    assert file.read_bytes() == content
    assert f"{file} is damaged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(tokenizer, data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be kept in .*cache_latents=false"):
        encoded(tokenizer, source(data_dir), tmp_path / "file")


def test_frames_of_another_size_are_told(tokenizer, data_dir, tmp_path):
    task = TokenizerTask(model=TOKENIZER)
    task.setup({}, {"frames": np.zeros((1, 1, 4, 4, 3), np.uint8)})
    with pytest.raises(
        DataError, match=r"episode 0 of noise.* has frames of \(8, 8, 3\), the tokenizer takes \(4, 4, 3\)"
    ):
        encoded((task, generic(task, {"frames": np.zeros((1, 1, 4, 4, 3), np.uint8)})), source(data_dir), tmp_path)


def test_the_dynamics_loss_is_that_of_the_frames(tokenizer, data_dir, tmp_path):
    plain = source(data_dir, length=5, start="reset")
    task = DynamicsTask(model=MODEL | {"actions": {"": {"kind": "categorical", "size": 20}}}, cache_latents=True)
    batch = next(plain.iterator(seed=0))
    task.setup(finished(*tokenizer), shapes(batch))
    task.tokenizer_run = tmp_path
    data = task.prepare_data(plain)
    kept = next(data.iterator(seed=0))
    params = task.init_params(jax.random.key(0), batch)
    losses = [
        task.loss(params, task.frozen(), b, rng=jax.random.key(1), step=0, extra=None, train=True).loss
        for b in (batch, kept)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert task.frames_per_batch(kept) == task.frames_per_batch(batch) == 10
    task.cache_latents = False
    assert task.prepare_data(plain) is plain


def test_later_phases_learn_from_the_latents_of_the_tokenizer_below(tokenizer, data_dir, tmp_path):
    plain = source(data_dir, length=5, start="reset", keys={"rewards": "actions"})
    batch = next(plain.iterator(seed=0))
    dynamics = DynamicsTask(model=MODEL | {"actions": {"": {"kind": "categorical", "size": 20}}})
    dynamics.setup(finished(*tokenizer), shapes(batch))
    heads = HeadsTask(cache_latents=True)
    heads.setup({"dynamics": run_of(dynamics, generic(dynamics, batch), "dynamics")}, shapes(batch))
    assert heads.tokenizer_run == dynamics.tokenizer_run
    heads.tokenizer_run = tmp_path
    agent = ImaginationRLTask(context=4, cache_latents=True)
    agent.setup({"heads": run_of(heads, generic(heads, batch), "heads")}, shapes(batch))
    for task in (heads, agent):
        assert next(task.prepare_data(plain).iterator(seed=0))["latents"].shape == (2, 5, 2, 4)
    assert len(list((tmp_path / "latents").glob("*/latents*"))) == 1  # encoded once


def test_fields_at_their_defaults_do_not_decide_which_latents_are_meant(tokenizer, data_dir, tmp_path):
    task, params = tokenizer
    about = LatentData(source(data_dir), task.model, params, tmp_path).about["tokenizer"]["config"]
    assert "soft_cap" not in about["encoder"]
    assert about["encoder"]["width"] == TRANSFORMER["width"]
