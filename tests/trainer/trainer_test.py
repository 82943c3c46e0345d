"""The loop: stops and resumes, clocks and metrics, seeds, what evaluations see."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gone import python_path
from toy import Counter, Picture, Recorder, Regression, StopAt, bits, lines, make_trainer

from trainer.callbacks import Callback
from trainer.checkpoints import Checkpoints, finished
from trainer.errors import ConfigError, DataError
from trainer.stopping import EXIT_RESUMABLE, StopReason
from trainer.task import Evaluation, Evaluator, LossOutput
from trainer.trainer import Trainer
from trainer.writers import JsonlWriter

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    result = make_trainer(workdir).fit()
    return workdir, result


def final_state(workdir, **changes):
    return bits(Checkpoints(workdir).restore(make_trainer(workdir, **changes).program.state).state)


def test_a_stop_ends_the_step_first_and_then_saves(tmp_path):
    recorder = Recorder(order=1)
    callbacks = [recorder, StopAt(step=2)]
    result = make_trainer(tmp_path, log_every=2, eval_every=2, callbacks=callbacks).fit()
    assert recorder.events[-5:] == [("step_end", 2), ("log", 2), ("eval", 2), ("checkpoint", 2), ("fit_end", 2)]
    assert result.step == 2
    assert result.stopped == StopReason("test", True)
    assert finished(tmp_path) == (2, 25, False)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_checks_trace_what_is_then_run(tmp_path, devices):
    script = (
        "import sys, toy\n"
        "class Counted(toy.Regression):\n"
        "    traced = made = 0\n"
        "    def init_params(self, *args):\n"
        "        Counted.made += 1\n"
        "        return super().init_params(*args)\n"
        "    def loss(self, *args, train, **others):\n"
        "        Counted.traced += train\n"
        "        return super().loss(*args, train=train, **others)\n"
        "trainer = toy.make_trainer(sys.argv[1], task=Counted(), data=toy.Counter(), steps=2)\n"
        "trainer.check()\n"
        "assert Counted.traced == 1, Counted.traced\n"
        "trainer.fit()\n"
        "assert Counted.traced == 1, Counted.traced\n"
        "assert Counted.made == 1, Counted.made\n"
    )
    run_with_devices(script, tmp_path, devices)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_step_is_compiled_once_while_the_run_is_made_ready(tmp_path, devices):
    script = (
        "import logging, sys, jax, toy\n"
        "jax.config.update('jax_log_compiles', True)\n"
        "threads = []\n"
        "class Seen(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        if 'Compiling jit(step)' in record.getMessage():\n"
        "            threads.append(record.threadName)\n"
        "logging.getLogger('jax').addHandler(Seen())\n"
        "for steps in (2, 4):\n"  # new, and continued
        "    toy.make_trainer(sys.argv[1], data=toy.Counter(), steps=steps).fit()\n"
        "assert threads == ['compile', 'compile'], threads\n"
        "toy.make_trainer(sys.argv[1], data=toy.Counter(), steps=4).fit()\n"  # nothing left to do
        "assert len(threads) == 2, threads\n"
    )
    run_with_devices(script, tmp_path, devices)


def run_with_devices(script, folder, devices):
    environment = {
        **os.environ, "PYTHONPATH": python_path(HERE, HERE.parents[1]), "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", script, str(folder)], env=environment, check=True)


def test_callbacks_are_called_by_rising_order(tmp_path):
    events = []
    callbacks = [Recorder(name="late ", order=5, events=events), Recorder(name="early ", order=-5, events=events)]
    make_trainer(tmp_path, steps=1, callbacks=callbacks).fit()
    assert [name for name, _ in events[:2]] == ["early fit_start", "late fit_start"]


@pytest.mark.parametrize("stops", [(1,), (7,), (10,), (9, 13, 24)])
def test_stopped_and_continued_is_the_same_as_uninterrupted(tmp_path, uninterrupted, stops):
    for step in stops:
        assert make_trainer(tmp_path, callbacks=[StopAt(step=step)]).fit().step == step
    result = make_trainer(tmp_path).fit()
    assert final_state(tmp_path) == final_state(uninterrupted[0])
    assert lines(tmp_path) == lines(uninterrupted[0])
    timings = ("train/steps_per_s", "train/frames_per_s", "train/utilization")
    same = {name: value for name, value in uninterrupted[1].metrics.items() if name not in timings}
    assert {name: value for name, value in result.metrics.items() if name not in timings} == same
    times = [json.loads(line)["time"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert times == sorted(times)


def start_process(workdir, **environment):
    script = (
        "import sys, time, toy; from trainer.stopping import EXIT_RESUMABLE\n"
        "next_batch = toy.CounterIterator.__next__\n"
        "toy.CounterIterator.__next__ = lambda self: (time.sleep(0.05), next_batch(self))[1]\n"
        "result = toy.make_trainer(sys.argv[1]).fit()\n"
        "sys.exit(EXIT_RESUMABLE if result.stopped and result.stopped.resumable else 0)"
    )
    path = python_path(HERE, HERE.parents[1])
    return subprocess.Popen([sys.executable, "-c", script, str(workdir)], env={**os.environ, "PYTHONPATH": path})


def wait_until(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, "the process ended early"
        time.sleep(0.05)
    raise AssertionError("it took too long")


def logged(workdir, step):
    path = workdir / "metrics.jsonl"
    return path.exists() and f'"step": {step},' in path.read_text()


def test_sigterm_saves_and_says_start_me_again(tmp_path, uninterrupted):
    process = start_process(tmp_path)
    wait_until(lambda: logged(tmp_path, 7), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == EXIT_RESUMABLE
    assert 7 <= Checkpoints(tmp_path).steps()[-1] < 25
    make_trainer(tmp_path).fit()
    assert final_state(tmp_path) == final_state(uninterrupted[0])
    assert lines(tmp_path) == lines(uninterrupted[0])


def test_kill_9_loses_nothing_but_the_steps_since_the_checkpoint(tmp_path, uninterrupted):
    workdir = tmp_path / "Läufe mit Ø und 空白"
    process = start_process(workdir)
    wait_until(lambda: logged(workdir, 14) and (workdir / "checkpoints" / "10").exists(), process)
    process.kill()
    process.wait(60)
    assert Checkpoints(workdir).steps()[-1] == 10
    assert logged(workdir, 14)
    make_trainer(workdir).fit()
    assert final_state(workdir) == final_state(uninterrupted[0])
    assert lines(workdir) == lines(uninterrupted[0])


def test_eval_gives_exactly_the_last_figures_of_fit(uninterrupted):
    workdir, result = uninterrupted
    before = lines(workdir)
    figures = make_trainer(workdir).evaluate()
    assert figures == {k: v for k, v in result.metrics.items() if not k.startswith("train/")}
    assert {"eval/loss", "picture/mean"} <= figures.keys()
    assert lines(workdir) == before


def test_a_finished_run_does_nothing(uninterrupted):
    workdir, result = uninterrupted
    before = lines(workdir)
    assert make_trainer(workdir).fit() == result
    assert lines(workdir) == before
    assert finished(workdir) == (25, 25, True)


def test_a_run_that_is_cut_short_makes_up_for_its_last_evaluation(tmp_path):
    make_trainer(tmp_path, callbacks=[StopAt(step=10)]).fit()
    result = make_trainer(tmp_path, steps=10).fit()
    assert result.step == 10
    assert ("eval/loss", result.metrics["eval/loss"]) in lines(tmp_path)[-1]
    assert lines(tmp_path)[-1][0] == ("step", 10)
    count = len(lines(tmp_path))
    make_trainer(tmp_path, steps=10).fit()
    assert len(lines(tmp_path)) == count
    assert finished(tmp_path).complete


def test_evaluation_leaves_training_alone(tmp_path, uninterrupted):
    data = Counter(long_every=4)
    make_trainer(tmp_path, eval_every=0, evaluators={}, eval_data=None, data=data).fit()
    assert final_state(tmp_path) == final_state(uninterrupted[0])
    assert data.opened == 2  # one look at the shapes, one to train on


def test_evaluations_see_the_same_batches_and_key_every_time(tmp_path):
    seen = []

    class Spy(Evaluator):
        every = 2

        def evaluate(self, *, params, frozen, extra, rng, batches, step):
            first = [np.asarray(batch["x"]) for _, batch in zip(range(2), batches, strict=False)]
            seen.append((step, np.asarray(jax.random.key_data(rng)).tobytes(), np.stack(first).tobytes()))
            return Evaluation({"spy": 1.0})

    make_trainer(tmp_path, steps=5, evaluators={"spy": Spy()}).fit()
    assert [step for step, *_ in seen] == [2, 4, 5]
    assert len({(key, batches) for _, key, batches in seen}) == 1


def test_means_are_over_the_steps_of_the_window(tmp_path):
    make_trainer(tmp_path, steps=14, evaluators={}, eval_data=None).fit()
    # Batch n carries the number n: the mean over steps 1–7 is 4, over 8–14 it is 11.
    assert [dict(line)["train/n"] for line in lines(tmp_path)] == [4.0, 11.0]


def test_not_a_number_is_logged_skipped_and_counted(tmp_path):
    data = Counter(poison=[2])
    states = []

    @dataclasses.dataclass(kw_only=True)
    class Keep(Callback):
        def on_step_end(self, run, metrics):
            states.append((bits(run.state.params), bits(run.state.opt_state), int(run.state.skipped)))

    result = make_trainer(
        tmp_path, data=data, steps=3, log_every=1, eval_data=None, evaluators={}, callbacks=[Keep()]
    ).fit()
    assert states[0][:2] == states[1][:2] != states[2][:2]
    assert [s[2] for s in states] == [0, 1, 1]
    losses = [json.loads(line)["train/loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[1] == "NaN"
    assert isinstance(losses[2], float)
    assert result.metrics["train/update_skipped"] == 0.0


def test_the_state_is_donated(tmp_path):
    kept = []

    @dataclasses.dataclass(kw_only=True)
    class Keep(Callback):
        def on_step_start(self, run):
            kept.append(run.state)

    make_trainer(tmp_path, steps=2, callbacks=[Keep()]).fit()
    assert all(leaf.is_deleted() for state in kept for leaf in jax.tree.leaves(state))


def test_frozen_parameters_are_arguments_and_no_constants(tmp_path):
    class Frozen(Regression):
        def frozen(self):
            return {"teacher": {"big": np.ones((1000, 1000), np.float32)}}

        def loss(self, params, frozen, batch, **others):
            out = super().loss(params, frozen, batch, **others)
            return LossOutput(out.loss + frozen["teacher"]["big"].sum(), out.metrics, out.extra)

    program = make_trainer(tmp_path, task=Frozen()).program
    text = program.step.lower(program.state, program.frozen, program.example).as_text()
    assert "tensor<1000x1000xf32>" in text
    assert "constant dense" not in "".join(line for line in text.splitlines() if "1000x1000" in line)
    assert make_trainer(tmp_path, task=Frozen()).dry_run()["memory_bytes"]["argument"] > 4_000_000


def test_dry_run_tells_size_cost_and_memory(tmp_path):
    report = make_trainer(tmp_path).dry_run()
    assert report["parameters"] == 12
    assert report["flops_per_step"] > 100
    assert report["memory_bytes"]["argument"] >= report["state_bytes"]
    assert report["batch"] == {"n": "int32[8]", "x": "float32[8, 3]"}
    json.dumps(report)
    assert not (tmp_path / "checkpoints").exists()


def test_data_that_ends_ends_the_run_for_good(tmp_path):
    result = make_trainer(tmp_path, data=Counter(length=4)).fit()
    assert result.step == 4
    assert result.stopped == StopReason("the training data has ended", False)
    assert make_trainer(tmp_path, data=Counter(length=4)).fit().step == 4
    assert finished(tmp_path) == (4, 25, True)


def test_no_data_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="no batch"):
        make_trainer(tmp_path, data=Counter(length=0)).fit()
    with pytest.raises(DataError, match="held-out data has no batch"):
        make_trainer(tmp_path, steps=1, eval_data=Counter(length=0), evaluators={}).fit()


def test_a_metric_that_is_no_scalar_is_named(tmp_path):
    class Wrong(Regression):
        def loss(self, params, frozen, batch, **others):
            out = super().loss(params, frozen, batch, **others)
            return LossOutput(out.loss, {"rows": batch["x"]}, out.extra)

    with pytest.raises(ConfigError, match=r"Wrong\.loss: metrics must be scalars; 'rows' is float32\[8, 3\]"):
        make_trainer(tmp_path, task=Wrong()).fit()

    class Own(Regression):
        def train_step(self, state, frozen, batch, update):
            state, metrics = super().train_step(state, frozen, batch, update)
            return state, {**metrics, "rows": batch["x"]}

    with pytest.raises(ConfigError, match=r"'rows' has the shape \(8, 3\)"):
        make_trainer(tmp_path, task=Own()).fit()
    assert not list(tmp_path.iterdir())


def test_evaluators_of_the_same_name_are_refused(tmp_path):
    class Own(Regression):
        def evaluators(self):
            return {"picture": None}

    with pytest.raises(ConfigError, match="'picture'"):
        make_trainer(tmp_path, task=Own()).fit()


def test_an_exception_names_callback_and_hook_and_writers_are_closed(tmp_path):
    closed = []

    class Closing(JsonlWriter):
        def close(self):
            closed.append(True)
            super().close()

    @dataclasses.dataclass(kw_only=True)
    class Broken(Callback):
        def on_step_end(self, run, metrics):
            raise RuntimeError("boom")

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="boom") as caught:
        make_trainer(tmp_path, callbacks=[Broken(), recorder], writers=[Closing(tmp_path / "m.jsonl")]).fit()
    assert caught.value.__notes__ == ["raised in Broken.on_step_end"]
    assert recorder.events[-1] == ("exception", 1)
    assert closed


def test_a_stochastic_optimizer_with_named_tuples_is_restored(tmp_path):
    def optimizer():
        return optax.chain(optax.add_noise(0.1, 0.5, 1), optax.apply_if_finite(optax.adam(0.1), 3))

    make_trainer(tmp_path / "a", optimizer=optimizer(), steps=6).fit()
    make_trainer(tmp_path / "b", optimizer=optimizer(), steps=6, callbacks=[StopAt(step=3)]).fit()
    make_trainer(tmp_path / "b", optimizer=optimizer(), steps=6).fit()
    assert final_state(tmp_path / "a", optimizer=optimizer()) == final_state(tmp_path / "b", optimizer=optimizer())


def test_compilation_evaluation_and_saves_take_no_time(tmp_path):
    class Slow(Evaluator):
        def evaluate(self, **_):
            time.sleep(1.0)
            return Evaluation()

    make_trainer(tmp_path, steps=4, log_every=2, eval_every=2, eval_data=None, evaluators={"slow": Slow()}).fit()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [2, 4]
    assert written[-1]["time"] < 0.5
    assert all(line["train/steps_per_s"] > 10 for line in written)


def test_a_run_without_evaluation_metrics_or_params_is_fine(tmp_path):
    class Nothing(Regression):
        def train_step(self, state, frozen, batch, update):
            return state._replace(step=state.step + 1), {}

    result = Trainer(task=Nothing(), data=Counter(), workdir=tmp_path, steps=3, optimizer=optax.identity()).fit()
    assert result.step == 3
    assert jnp.isfinite(result.metrics["train/steps_per_s"])


class Draws(Regression):
    """Tells what it drew and what it was given."""

    def loss(self, params, frozen, batch, *, rng, **others):
        out = super().loss(params, frozen, batch, rng=rng, **others)
        return out._replace(metrics={"draw": jax.random.uniform(rng), "x": batch["x"].sum()})


def test_every_step_draws_anew(tmp_path):
    make_trainer(tmp_path, task=Draws(), steps=5, log_every=1, eval_data=None, evaluators={}).fit()
    assert len({dict(line)["train/draw"] for line in lines(tmp_path)}) == 5


def test_the_seed_decides_parameters_noise_and_batches(tmp_path):
    begun = {}

    @dataclasses.dataclass(kw_only=True)
    class Keep(Callback):
        seed: int

        def on_fit_start(self, run):
            begun[self.seed] = bits(run.state.params)[1], bits(run.state.rng)

    for seed in (3, 4):
        trainer = make_trainer(tmp_path / str(seed), task=Draws(), seed=seed, steps=1, callbacks=[Keep(seed=seed)])
        trainer.fit()
        wanted = float(next(Counter().iterator(seed=seed))["x"].sum())
        assert dict(lines(tmp_path / str(seed))[0])["train/x"] == pytest.approx(wanted, abs=1e-4)
    assert all(a != b for a, b in zip(*begun.values(), strict=True))


def test_updates_see_the_data_that_the_task_prepares(tmp_path):
    class Prepares(Regression):
        def prepare_data(self, data):
            return Counter(version=7, poison=[1])

    result = make_trainer(tmp_path, task=Prepares(), data=Counter(), steps=2, eval_data=None, evaluators={}).fit()
    assert result.metrics["train/update_skipped"] == 0.5  # of the prepared data's first batch


@pytest.mark.parametrize("ended", ["by its data", "by a callback"])
def test_a_run_that_ends_before_its_last_step_is_logged_and_evaluated_there(tmp_path, ended):
    changes = {
        "by its data": {"data": Counter(length=9)},
        "by a callback": {"data": Counter(), "callbacks": [StopAt(step=9, resumable=False)]},
    }[ended]
    recorder = Recorder(order=1)
    callbacks = [recorder, *changes.pop("callbacks", [])]
    result = make_trainer(tmp_path, log_every=7, eval_every=0, callbacks=callbacks, **changes).fit()
    assert (result.step, result.stopped.resumable) == (9, False)
    assert recorder.events[-4:] == [("log", 9), ("eval", 9), ("checkpoint", 9), ("fit_end", 9)]
    assert {"eval/loss", "picture/mean"} <= result.metrics.keys()
    written = lines(tmp_path)
    assert [dict(line)["step"] for line in written] == [7, 9, 9]
    make_trainer(tmp_path, log_every=7, eval_every=0, **changes).fit()  # it is done: nothing is added
    assert lines(tmp_path) == written
    assert finished(tmp_path).complete


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "labels.txt"), ConnectionError("no tracker")])
@pytest.mark.parametrize("where", ["evaluate", "on_eval", "on_log", "on_checkpoint"])
def test_an_error_that_no_disk_raises_is_told_as_it_is_and_ends_the_run(tmp_path, where, error):
    def fail(*args, **others):
        raise error

    evaluators = {"own": type("Own", (Picture,), {"evaluate": fail})() if where == "evaluate" else Picture()}
    callbacks = [type("Own", (Callback,), {} if where == "evaluate" else {where: fail})()]
    with pytest.raises(type(error)) as caught:
        make_trainer(tmp_path, evaluators=evaluators, callbacks=callbacks, on_save_error="continue").fit()
    assert caught.value is error
    assert "own" in " ".join(error.__notes__).lower()
