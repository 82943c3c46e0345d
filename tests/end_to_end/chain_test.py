"""The real configs through the real command line: a fresh start, a second one, a stop, a kill, evaluations."""

import json
import signal
import time

import jax
import numpy as np
import pytest
from chain_runs import COMMAND, RUNS
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from trainer import experiment
from trainer.checkpoints import finished, read_params
from trainer.writers import read_jsonl

TRAIN = {"loss", "grad_norm", "update_skipped", "learning_rate", "steps_per_s", "frames_per_s", "utilization"}
ROLLOUT = {
    "rollout/psnr_finest", "rollout/psnr_k4", "rollout/psnr_ceiling", "rollout/psnr_repeat_last", "rollout/psnr_k4_t1",
    "rollout/psnr_k4_t16", "rollout/psnr_k4_t32", "rollout/action_sensitivity", "rollout/clips",
}  # fmt: skip
HEADS = {"flow", "bootstrap", "policy", "reward", "continue", "cross_entropy_1"}
RL = {
    "policy", "prior", "value", "value_mae", "kl", "entropy", "positive", "imagined_reward",
}  # fmt: skip
FIGURES = {
    "tokenizer-smoke": {
        "train": TRAIN | {"mse", "latent_rms"},
        "eval": {"eval/loss", "eval/mse", "eval/latent_rms", "eval/psnr", "eval/psnr_masked"},
        "media": {"reconstruction.png"},
    },
    "dynamics-smoke": {
        "train": TRAIN | {"flow", "bootstrap"},
        "eval": {"eval/loss", "eval/flow", "eval/bootstrap"} | ROLLOUT,
        "media": {"rollout.png", "rollout.gif"},
    },
    "heads-smoke": {
        "train": TRAIN | HEADS,
        "eval": {"eval/loss", *(f"eval/{name}" for name in HEADS)} | ROLLOUT | {
            "heads/cross_entropy_1", "heads/cross_entropy_2", "heads/cross_entropy_8", "heads/cross_entropy_floor_1",
            "heads/cross_entropy_floor_2", "heads/cross_entropy_floor_8", "heads/cross_entropy_1_dreamed",
            "heads/reward_mae", "heads/reward_mae_dreamed", "heads/continue_accuracy",
        },
        "media": {"rollout.png", "rollout.gif", "heads_cross_entropy.png", "heads_reward.png"},
    },
    "imagination_rl-smoke": {
        "train": TRAIN | RL | {"imagined_return"},
        "eval": {"eval/loss", "eval/imagined_return", *(f"eval/{name}" for name in RL)} | {
            "control/return", "control/return_cloned", "control/return_random", "control/return_optimal",
            "control/return_greedy", "control/return_sd", "control/normalized_return",
            "control/normalized_return_cloned", "control/normalized_return_greedy", "control/imagined_return",
        },
        "media": {"control.png", "control.gif", "control_episodes.png"},
    },
}  # fmt: skip
STEPS = {name: (5, 10, 15, 20) for name in RUNS} | {"imagination_rl-smoke": (2, 4)}
TIMINGS = ("time", "train/steps_per_s", "train/frames_per_s", "train/utilization")
FIRST_TWO = ("--config=configs/dynamics.py:smoke",)


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


def test_one_command_on_a_fresh_clone_trains_all_four_phases(home):
    printed = home.errors.read_text()
    announced = [line for line in printed.splitlines() if line.startswith("upstream")]
    assert len(announced) == 3
    for line, phase in zip(announced, ("tokenizer", "dynamics", "heads"), strict=True):
        assert f"logs/{phase}-smoke is missing; training it first (configs/{phase}.py:smoke)" in line
    assert printed.count("Preparing the data set") == 1
    for noise in ("Warning", "WARNING", "Traceback", "tensorflow"):
        assert noise not in printed
    assert [path.name for path in home.chain.iterdir()] == ["logs"]
    assert sorted(path.name for path in (home.chain / "logs").iterdir()) == sorted(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_the_chain_is_complete_with_figures_pictures_and_report(home, name):
    run, figures, end = home.chain / "logs" / name, FIGURES[name], STEPS[name][-1]
    assert sorted(int(path.name) for path in (run / "checkpoints").iterdir()) == [end // 2, end]
    assert tuple(finished(run)) == (end, end, True)
    lines = read_jsonl(run / "metrics.jsonl")
    assert tuple(line["step"] for line in lines) == (*STEPS[name], end)
    for line in lines[:-1]:
        assert set(line) == {"step", "time", *(f"train/{key}" for key in figures["train"])}
    assert set(lines[-1]) == {"step", "time", *figures["eval"]}
    assert np.isfinite([value for line in lines for value in line.values()]).all()
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    stems = {path.partition(".")[::2] for path in figures["media"]}
    for stem, suffix in stems:
        for path in (f"{stem}.{suffix}", f"{stem}_{end}.{suffix}"):
            with Image.open(run / "media" / path) as image:
                assert min(image.size) >= 64
                assert (getattr(image, "n_frames", 1) > 1) == (suffix == "gif")
    seen = tags(run)
    assert {f"train/{key}" for key in figures["train"]} | figures["eval"] <= seen
    assert {stem for stem, _ in stems} <= seen


def test_a_run_says_what_it_was_built_on_and_with_which_config(home):
    below = {}
    for name in RUNS:
        run = home.chain / "logs" / name
        stored = json.loads((run / "config.json").read_text())
        assert stored["config"]["name"] == name
        assert {key: (on["run"], on["step"]) for key, on in stored["upstream"].items()} == below
        assert read_params(run).meta["provenance"] == stored["upstream"]
        report = (run / "report.html").read_text()
        assert "finished" in report
        assert [lower in report for lower in RUNS] == [RUNS.index(lower) <= RUNS.index(name) for lower in RUNS]
        below = {name.removesuffix("-smoke"): (f"logs/{name}", STEPS[name][-1])}


def test_the_same_command_again_finds_nothing_to_do(home, workspace, main, contents):
    def but_for_the_report():  # it names the time at which it was written
        return {path: data for path, data in contents(workspace).items() if path.stem != "report"}

    before = but_for_the_report()
    code, printed = main(*COMMAND, cache=home.cache)
    assert code == 0, printed
    assert "upstream" not in printed
    assert "imagination_rl-smoke: done, 4 steps" in printed
    assert but_for_the_report() == before


@pytest.mark.parametrize("name", RUNS)
def test_evaluation_gives_the_last_figures_again(home, workspace, main, contents, monkeypatch, name):
    results, run = [], experiment.run
    monkeypatch.setattr(experiment, "run", lambda *args, **kwargs: results.append(run(*args, **kwargs)))
    before = contents(workspace)
    code, printed = main(f"--config=logs/{name}/config.json", "--mode=eval", cache=home.cache)
    assert code == 0, printed
    *_, last = read_jsonl(workspace / "logs" / name / "metrics.jsonl")
    figures = {key: value for key, value in last.items() if key not in ("step", "time")}
    assert results == [figures]
    for key, value in figures.items():
        assert f"{key} {value:.5g}" in printed
    assert contents(workspace) == before


def test_a_chain_that_is_stopped_and_killed_continues_as_if_nothing_had_happened(home, tmp_path):
    runs = {name: (tmp_path / "logs" / name, home.chain / "logs" / name) for name in RUNS[:2]}
    (tokenizer, _), (dynamics, whole) = runs.values()
    printed = tmp_path / "printed.txt"

    def interrupt(number, ready):
        process = home.start(FIRST_TWO, tmp_path, printed)
        try:
            deadline = time.monotonic() + 600
            while not ready():
                assert process.poll() is None, printed.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            return process.wait(600)
        finally:
            process.kill()
            process.wait()

    assert interrupt(signal.SIGTERM, lambda: "tokenizer-smoke: starts" in printed.read_text()) == 75
    assert "start it again to continue" in printed.read_text()
    stopped = finished(tokenizer)
    assert not stopped.complete
    assert 0 < stopped.step < 20
    assert not dynamics.exists()

    def half_way():
        lines = metrics(dynamics) if (dynamics / "checkpoints/10").exists() else []
        return [line for line in lines if line["step"] == 15]

    interrupt(signal.SIGKILL, half_way)
    assert "logs/tokenizer-smoke is unfinished; continuing it first" in printed.read_text()
    assert f"tokenizer-smoke: continues at step {stopped.step}" in printed.read_text()
    assert finished(tokenizer).complete
    assert finished(dynamics).step == 10
    assert metrics(dynamics)[:3] == metrics(whole)[:3]

    assert home.start(FIRST_TWO, tmp_path, printed).wait(600) == 0, printed.read_text()
    assert "upstream" not in printed.read_text()
    assert "dynamics-smoke: continues at step 10" in printed.read_text()
    for run, uninterrupted in runs.values():
        assert metrics(run) == metrics(uninterrupted)
        assert parameters(run) == parameters(uninterrupted)
