"""The real configs through the real command line: a fresh start, a second one, a kill, an evaluation."""

import json
import shutil
import time

import jax
import numpy as np
from conftest import COMMAND
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from trainer import experiment
from trainer.checkpoints import finished, read_params
from trainer.writers import read_jsonl

TRAIN = {"loss", "grad_norm", "update_skipped", "steps_per_s", "frames_per_s"}
FIGURES = {
    "tokenizer-smoke": {
        "train": TRAIN | {"mse", "latent_rms"},
        "eval": {"eval/loss", "eval/mse", "eval/latent_rms", "eval/psnr", "eval/psnr_masked"},
        "media": {"reconstruction": "png"},
    },
    "dynamics-smoke": {
        "train": TRAIN | {"flow", "bootstrap"},
        "eval": {
            "eval/loss", "eval/flow", "eval/bootstrap", "rollout/psnr_finest", "rollout/psnr_k4",
            "rollout/psnr_ceiling", "rollout/psnr_repeat_last", "rollout/psnr_k4_t1", "rollout/psnr_k4_t16",
            "rollout/psnr_k4_t32", "rollout/action_sensitivity", "rollout/clips",
        },
        "media": {"rollout": "png", "rollout.": "gif"},
    },
}  # fmt: skip
TIMINGS = ("time", "train/steps_per_s", "train/frames_per_s")


def metrics(run):
    """The lines of a run without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_jsonl(run / "metrics.jsonl")]


def parameters(run):
    leaves, structure = jax.tree.flatten(read_params(run).params)
    return structure, [np.asarray(leaf).tobytes() for leaf in leaves]


def tags(run):
    """The names in a run's TensorBoard events: length (8 bytes), checksum (4), record, checksum (4)."""
    found = set()
    for path in run.glob("*tfevents*"):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found |= {value.tag for value in Event.FromString(data[12 : 12 + size]).summary.value}
            data = data[16 + size :]
    return found


def test_one_command_on_a_fresh_clone_trains_the_tokenizer_and_the_dynamics(home):
    printed = home.errors.read_text()
    (announced,) = [line for line in printed.splitlines() if line.startswith("upstream")]
    assert "logs/tokenizer-smoke is missing; training it first (configs/tokenizer.py:smoke)" in announced
    assert printed.count("Preparing the data set") == 1
    for noise in ("Warning", "WARNING", "Traceback", "tensorflow"):
        assert noise not in printed
    assert sorted(path.name for path in home.chain.iterdir()) == ["logs"]
    for name, figures in FIGURES.items():
        run = home.chain / "logs" / name
        assert sorted(int(path.name) for path in (run / "checkpoints").iterdir()) == [10, 20]
        assert tuple(finished(run)) == (20, 20, True)
        lines = read_jsonl(run / "metrics.jsonl")
        assert [line["step"] for line in lines] == [5, 10, 15, 20, 20]
        for line in lines[:-1]:
            assert set(line) == {"step", "time", *(f"train/{key}" for key in figures["train"])}
        assert set(lines[-1]) == {"step", "time", *figures["eval"]}
        assert np.isfinite([value for line in lines for value in line.values()]).all()
        times = [line["time"] for line in lines]
        assert times == sorted(times)
        for stem, suffix in figures["media"].items():
            for path in (f"{stem.rstrip('.')}.{suffix}", f"{stem.rstrip('.')}_20.{suffix}"):
                with Image.open(run / "media" / path) as image:
                    assert min(image.size) >= 64
                    assert (getattr(image, "n_frames", 1) > 30) == (suffix == "gif")
        seen = tags(run)
        assert {f"train/{key}" for key in figures["train"]} | figures["eval"] <= seen
        assert {stem.rstrip(".") for stem in figures["media"]} <= seen


def test_a_run_says_what_it_was_built_on_and_with_which_config(home):
    tokenizer, dynamics = (json.loads((home.chain / "logs" / name / "config.json").read_text()) for name in FIGURES)
    assert (tokenizer["config"]["name"], dynamics["config"]["name"]) == tuple(FIGURES)
    assert tokenizer["upstream"] == {}
    built_on = dynamics["upstream"]["tokenizer"]
    assert (built_on["run"], built_on["step"]) == ("logs/tokenizer-smoke", 20)
    assert read_params(home.chain / "logs/dynamics-smoke").meta["provenance"]["tokenizer"] == built_on


def test_the_same_command_again_finds_nothing_to_do(home, workspace, main, contents):
    before = contents(workspace)
    code, printed = main(*COMMAND, cache=home.cache)
    assert code == 0, printed
    assert "upstream" not in printed
    assert contents(workspace) == before


def test_evaluation_gives_the_last_figures_again(home, workspace, main, contents, monkeypatch):
    results, run = [], experiment.run
    monkeypatch.setattr(experiment, "run", lambda *args, **kwargs: results.append(run(*args, **kwargs)))
    before = contents(workspace)
    code, printed = main("--config=logs/dynamics-smoke/config.json", "--mode=eval", cache=home.cache)
    assert code == 0, printed
    *_, last = read_jsonl(workspace / "logs/dynamics-smoke/metrics.jsonl")
    assert results == [{name: value for name, value in last.items() if name not in ("step", "time")}]
    assert f"rollout/psnr_k4 {last['rollout/psnr_k4']:.5g}" in printed
    assert contents(workspace) == before


def test_a_killed_run_continues_as_if_nothing_had_happened(home, tmp_path):
    run, whole = tmp_path / "logs/dynamics-smoke", home.chain / "logs/dynamics-smoke"
    shutil.copytree(home.chain / "logs/tokenizer-smoke", tmp_path / "logs/tokenizer-smoke")
    process = home.start(COMMAND, tmp_path, tmp_path / "killed.txt")
    try:
        deadline = time.monotonic() + 600
        while not ((run / "checkpoints/10").exists() and [line for line in metrics(run) if line["step"] == 15]):
            assert process.poll() is None, (tmp_path / "killed.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert finished(run).step == 10
    assert metrics(run)[:3] == metrics(whole)[:3]
    assert home.start(COMMAND, tmp_path, tmp_path / "again.txt").wait(600) == 0, (tmp_path / "again.txt").read_text()
    assert metrics(run) == metrics(whole)
    assert parameters(run) == parameters(whole)
    assert "upstream" not in (tmp_path / "again.txt").read_text()
