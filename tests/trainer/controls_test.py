"""What a run can be told beside its task: short tries, small data, limits, checks before the start."""

import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_parts
from toy import Counter, Picture, bits, lines, make_trainer

from trainer import cli, experiment, xla
from trainer.callbacks import Callback
from trainer.checkpoints import Best
from trainer.data import FirstBatches
from trainer.errors import CheckpointError, ConfigError
from trainer.task import Evaluation, Evaluator


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).with_name("toy_config.py"), tmp_path)
    return tmp_path


SETTINGS = {  # on the command line, and what has to arrive
    "steps": ("7", 7),
    "seed": ("5", 5),
    "ema_decay": ("0.9", 0.9),
    "accumulate": ("2", 2),
    "precision": ("bfloat16", "bfloat16"),
    "log_every": ("3", 3),
    "eval_every": ("5", 5),
    "checkpoint_every": ("6", 6),
    "eval_batches": ("1", 1),
    "limit_eval_batches": ("9", 9),
    "sanity_eval": ("1", 1),
    "keep_checkpoints": ("8", 8),
    "keep_every": ("12", 12),
    "on_save_error": ("continue", "continue"),
}


def test_every_setting_of_the_command_line_arrives(folder, monkeypatch):
    arrived = {}

    class Arrived(Exception):
        pass

    def made(**settings):
        arrived.update(settings)
        raise Arrived

    monkeypatch.setattr(experiment, "Trainer", made)
    best = {"best_metric": "eval/loss", "best_mode": "max", "keep_best": "4"}
    flags = [f"--config.{key}={text}" for key, (text, _) in SETTINGS.items()]
    flags += [f"--config.{key}={text}" for key, text in best.items()]
    with pytest.raises(Arrived):
        cli.main(["--config=toy_config.py", *flags])
    assert {key: arrived[key] for key in SETTINGS} == {key: value for key, (_, value) in SETTINGS.items()}
    assert arrived["best"] == Best("eval/loss", "max", 4)
    assert arrived["workdir"] == Path("logs/first")


def test_evaluations_see_the_moving_average(tmp_path):
    seen = []

    class Seeing(Evaluator):
        def evaluate(self, *, params, **others):
            seen.append(params)
            return Evaluation()

    def last(**changes):
        trainer = make_trainer(tmp_path / str(len(seen)), steps=3, evaluators={"seeing": Seeing()}, **changes)
        trainer.fit()
        return seen[-1]

    plain, average = last(ema_decay=None), last(ema_decay=0.9)
    again = last(ema_decay=None)
    assert bits(plain) == bits(again) != bits(average)


def numbers(source, count, seed=3, state=None):
    iterator = source.iterator(seed=seed)
    if state is not None:
        iterator.set_state(state)
    return [int(next(iterator)["n"][0]) for _ in range(count)], iterator.get_state()


def test_the_first_batches_come_again_and_their_position_can_be_saved():
    source = FirstBatches(Counter(), 3, repeat=True)
    seen, state = numbers(source, 5)
    assert seen == [1, 2, 3, 1, 2]
    assert numbers(source, 3, state=json.loads(json.dumps(state)))[0] == [3, 1, 2]
    assert source.fingerprint() == {**Counter().fingerprint(), "first_batches": 3}
    once = FirstBatches(Counter(), 2, repeat=False).iterator(seed=0)
    assert len(list(iter(lambda: next(once, None), None))) == 2
    assert numbers(FirstBatches(Counter(length=2), 5, repeat=True), 3)[0] == [1, 2, 1]  # as many as there are


@pytest.mark.parametrize("limit", ["overfit_batches", "limit_train_batches"])
def test_training_on_few_batches_sees_them_over_and_over(folder, limit):
    arguments = ["--config=toy_config.py:first", "--config.name=few", "--config.steps=9", "--config.log_every=9"]
    assert cli.main([*arguments, f"--config.{limit}=1"]) == 0
    logged = [json.loads(line) for line in (folder / "logs/few/metrics.jsonl").read_text().splitlines()]
    losses = {name: line[name] for line in logged for name in line if name.endswith("loss")}
    assert cli.main(["--config=toy_config.py:first", "--config.name=all", "--config.steps=9"]) == 0
    held_out = json.loads((folder / "logs/all/metrics.jsonl").read_text().splitlines()[-1])["eval/loss"]
    assert losses["eval/loss"] != held_out
    # Overfitting is evaluated on the very batch it trained on, so that the evaluation is below the mean before it.
    assert (losses["eval/loss"] < losses["train/loss"]) or limit == "limit_train_batches"
    with pytest.raises(ConfigError, match="say the same in two ways"):
        _ = cli.main([*arguments, "--config.overfit_batches=1", "--config.limit_train_batches=1", "--debug"])


def test_no_evaluation_sees_more_batches_than_its_limit(tmp_path):
    seen = []

    class Greedy(Evaluator):
        def evaluate(self, *, batches, **_):
            seen.append(sum(1 for _ in zip(batches, range(50), strict=False)))
            return Evaluation()

    make_trainer(tmp_path / "a", steps=1, evaluators={"greedy": Greedy()}, limit_eval_batches=3).fit()
    make_trainer(tmp_path / "b", steps=1, evaluators={"greedy": Greedy()}).fit()
    assert seen == [3, 50]


def test_evaluations_are_tried_before_the_first_step_and_leave_no_trace(tmp_path):
    steps = []

    class Watched(Picture):
        def evaluate(self, *, step, **given):
            steps.append(step)
            return super().evaluate(step=step, **given)

    class Broken(Evaluator):
        def evaluate(self, **_):
            raise RuntimeError("no")

    tried = make_trainer(tmp_path / "tried", sanity_eval=1, evaluators={"picture": Watched()})
    tried.fit()
    assert steps[0] == 0
    make_trainer(tmp_path / "plain").fit()
    assert lines(tmp_path / "tried") == lines(tmp_path / "plain")
    with pytest.raises(RuntimeError) as error:
        make_trainer(tmp_path / "broken", sanity_eval=1, evaluators={"broken": Broken()}).fit()
    assert error.value.__notes__ == ["raised in the evaluator 'broken' at step 0"]
    assert not (tmp_path / "broken" / "checkpoints").exists()


def test_a_fast_dev_run_tries_all_phases_and_keeps_nothing(folder, capsys):
    before = sorted(folder.iterdir())
    assert cli.main(["--config=toy_config.py:second", "--fast_dev_run"]) == 0
    said = capsys.readouterr().err
    assert "fast_dev_run: 1 step(s) of base, kept nowhere" in said
    assert "fast_dev_run: 1 step(s) of second, kept nowhere" in said
    assert said.count("[1] ") >= 2
    assert sorted(folder.iterdir()) == before
    assert cli.main(["--config=toy_config.py:second", "--fast_dev_run=2"]) == 0
    assert "[2] " in capsys.readouterr().err
    # What is trained already is used.
    assert cli.main(["--config=toy_config.py:second"]) == 0
    assert cli.main(["--config=toy_config.py:second", "--fast_dev_run", "--config.steps=9"]) == 0
    assert "of base" not in capsys.readouterr().err.split("second")[-1]
    for wrong in ("0", "-1", "x"):
        assert cli.main(["--config=toy_config.py:second", f"--fast_dev_run={wrong}"]) == 2


def test_a_fast_dev_run_prepares_nothing_that_would_be_kept(folder):
    prepares = [f"--config.task.prepares={folder / 'prepared'}"]
    assert cli.main(["--config=toy_config.py:second", "--fast_dev_run", *prepares]) == 0
    assert not (folder / "prepared").exists()
    assert cli.main(["--config=toy_config.py:second", *prepares]) == 0
    assert (folder / "prepared").exists()


def test_a_stop_while_data_is_prepared_ends_the_run_there(folder, monkeypatch, capsys):
    def prepare(task, data):
        signal.raise_signal(signal.SIGTERM)
        return data

    with monkeypatch.context() as patch:
        patch.setattr(toy_parts.Line, "prepare_data", prepare)
        assert cli.main(["--config=toy_config.py:first"]) == 75
    assert "first: stopped before its first step: received SIGTERM; start it again" in capsys.readouterr().err
    assert not (folder / "logs/first/checkpoints").exists()
    assert cli.main(["--config=toy_config.py:first"]) == 0


def test_a_profile_can_be_asked_for_without_any_setting(folder):
    text = (folder / "toy_config.py").read_text()
    (folder / "toy_config.py").write_text(text.replace("config.callbacks = {}", ""))
    asks = ["--config.callbacks.asks.target=toy_parts:AsksForProfile", "--config.writers.jsonl=none"]
    assert cli.main(["--config=toy_config.py:first", *asks]) == 0
    assert list((folder / "logs/first/profile").rglob("*.xplane.pb"))


def test_a_fast_dev_run_has_no_time_limit(folder):
    limit = ["--config.callbacks.limit.target=time_limit", "--config.callbacks.limit.seconds=0"]
    assert cli.main(["--config=toy_config.py:second", "--fast_dev_run=2", *limit]) == 0


class Failing:
    """Checkpoints that cannot be written, a few times."""

    def __init__(self, monkeypatch, failures):
        from trainer.checkpoints import Checkpoints

        self.left, write = failures, Checkpoints._write

        def fail(checkpoints, *args):
            if self.left:
                self.left -= 1
                raise OSError(28, "No space left on device")
            return write(checkpoints, *args)

        monkeypatch.setattr(Checkpoints, "_write", fail)


def test_a_save_that_fails_stops_the_run_or_not_as_it_is_told(tmp_path, monkeypatch, caplog):
    Failing(monkeypatch, 1)
    with pytest.raises(CheckpointError, match="No space left on device"):
        make_trainer(tmp_path / "stop", steps=25, checkpoint_every=5).fit()
    Failing(monkeypatch, 2)
    result = make_trainer(tmp_path / "go on", steps=25, checkpoint_every=5, on_save_error="continue").fit()
    assert result.step == 25
    assert caplog.text.count("No space left on device") == 2
    assert caplog.text.count("The run goes on") == 2
    Failing(monkeypatch, 99)
    with pytest.raises(CheckpointError):  # but what was trained has to be saved at the end
        make_trainer(tmp_path / "never", steps=25, checkpoint_every=5, on_save_error="continue").fit()


def test_a_failed_save_is_noticed_long_before_the_next(tmp_path, monkeypatch):
    Failing(monkeypatch, 1)
    steps = []

    class Steps(Callback):
        def on_step_end(self, run, metrics):
            np.asarray(metrics.values)
            steps.append(run.step)

    with pytest.raises(CheckpointError):
        make_trainer(
            tmp_path, steps=500, checkpoint_every=5, eval_every=0, log_every=10, callbacks=[Steps()],
        ).fit()  # fmt: skip
    assert steps[-1] <= 10


def test_unknown_choices_are_refused_with_the_known_ones(folder, capsys):
    for setting, said in (
        ("precision=half", "precision = 'half'. Choices: bfloat16, float32."),
        ("on_save_error=stopp", "Did you mean 'stop'"),
        ("best_mode=maxx", "Did you mean 'max'"),
        ("keep_best=1", "keep_best needs best_metric"),
        ("accumulate=0", "accumulate = 0: expected 1 or more"),
        ("sanity_eval=-1", "sanity_eval = -1: expected 0 (off) or more"),
    ):
        assert cli.main(["--config=toy_config.py:first", f"--config.{setting}"]) == 1
        assert said in capsys.readouterr().err


def test_the_switch_for_determinism_tells_xla(folder, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    assert cli.main(["--config=toy_config.py:first", "--config.deterministic=true"]) == 0
    assert os.environ["XLA_FLAGS"].endswith("_count=1 --xla_gpu_deterministic_ops=true")


def test_quick_compilation_lasts_as_long_as_the_command(folder, monkeypatch):
    def compiles_quickly():
        return jax.config.read("jax_disable_most_optimizations")

    before, seen, fit = compiles_quickly(), [], experiment._fit
    monkeypatch.setattr(experiment, "_fit", lambda *arguments: (seen.append(compiles_quickly()), fit(*arguments))[1])
    assert cli.main(["--config=toy_config.py:first", "--config.quick_compilation=true"]) == 0
    assert compiles_quickly() == before
    assert cli.main(["--config=toy_config.py:first", "--config.name=other"]) == 0
    assert seen == [True, before]
    with pytest.raises(ZeroDivisionError), xla.compiling(quickly=True):
        _ = 1 / 0
    assert compiles_quickly() == before
