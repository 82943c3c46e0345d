"""The contracts of docs/design.md, by number; what belongs to one is tested in more depth in the other files."""

import ast
import dataclasses
import importlib
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Counter, Picture, Recorder, Regression, StopAt, bits, lines, make_trainer

from trainer import metrics, plugins, sharding
from trainer.callbacks import Callback
from trainer.checkpoints import Checkpoints
from trainer.errors import CheckpointError, ConfigError, DataError, TrainingError
from trainer.metrics import RUN_AHEAD
from trainer.task import Evaluation, Evaluator
from trainer.writers import JsonlWriter, MultiWriter, Writer

TRAINER = Path(metrics.__file__).parent


def test_contract_1_one_clock(tmp_path, monkeypatch):
    fetched, ahead, done = [], [], []
    fetch = metrics.Window._fetch
    monkeypatch.setattr(metrics.Window, "_fetch", lambda self: (fetched.append(self.steps), fetch(self))[1])

    class Slow(Regression):
        def loss(self, params, frozen, batch, **others):
            out = super().loss(params, frozen, batch, **others)
            jax.debug.callback(lambda n: done.append(int(n)), batch["n"][0])
            return out

    @dataclasses.dataclass(kw_only=True)
    class Ahead(Callback):
        def on_step_start(self, run):
            ahead.append(run.step - len(done))

    recorder = Recorder()
    result = make_trainer(
        tmp_path, task=Slow(), steps=12, log_every=5, eval_every=4, checkpoint_every=6, eval_data=None, evaluators={},
        callbacks=[recorder, Ahead()],
    ).fit()  # fmt: skip
    jax.effects_barrier()
    state = Checkpoints(tmp_path).restore(make_trainer(tmp_path, task=Slow()).program.state).state
    assert int(state.step) == int(state.extra["seen"]) == result.step == 12  # n updates
    assert done == list(range(1, 13))  # n batches
    at = {name: [step for event, step in recorder.events if event == name] for name in ("log", "checkpoint")}
    assert at == {"log": [5, 10, 12], "checkpoint": [6, 12]}
    assert [line[0][1] for line in lines(tmp_path)] == [5, 10, 12]
    assert len(fetched) == 5  # once per line, and once per checkpoint for the half-filled window
    assert max(ahead) <= RUN_AHEAD + 1


def test_contract_2_one_order(tmp_path):
    recorder = Recorder()
    make_trainer(tmp_path, steps=3, log_every=2, eval_every=2, checkpoint_every=2, callbacks=[recorder]).fit()
    assert recorder.events == [
        ("fit_start", 0),
        ("step_start", 0), ("step_end", 1),
        ("step_start", 1), ("step_end", 2), ("log", 2), ("eval", 2), ("checkpoint", 2),
        ("step_start", 2), ("step_end", 3), ("log", 3), ("eval", 3), ("checkpoint", 3),
        ("fit_end", 3),
    ]  # fmt: skip


def test_contract_3_callbacks(tmp_path):
    seen = []

    @dataclasses.dataclass(kw_only=True)
    class Counts(Callback):
        name: str
        count: int = 0

        def on_step_end(self, run, metrics):
            seen.append(self.name)
            self.count += 1

        def state(self):
            return {"count": self.count}

        def load_state(self, state):
            self.count = state["count"]

    first = [Counts(name="late", order=2), Counts(name="early", order=1), StopAt(step=3)]
    make_trainer(tmp_path, steps=5, callbacks=first).fit()
    assert seen[:2] == ["early", "late"]
    again = [Counts(name="late", order=2), Counts(name="early", order=1)]
    make_trainer(tmp_path, steps=5, callbacks=again).fit()
    assert [callback.count for callback in again] == [5, 5]  # the state came back as JSON
    assert json.loads((tmp_path / "checkpoints" / "5" / "meta.json").read_text())["callbacks"]

    class Broken(Callback):
        def on_log(self, run, scalars):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError) as error:
        make_trainer(tmp_path / "broken", callbacks=[Broken()]).fit()
    assert error.value.__notes__ == ["raised in Broken.on_log"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_contract_4_stopping_is_a_value(tmp_path, name):
    @dataclasses.dataclass(kw_only=True)
    class Signal(Callback):
        def on_step_start(self, run):
            if run.step == 1:
                os.kill(os.getpid(), getattr(signal, name))

    recorder = Recorder(order=1)
    result = make_trainer(tmp_path, callbacks=[Signal(), recorder]).fit()
    assert result.stopped == (f"received {name}", True)
    assert recorder.events[-3:] == [("step_end", 2), ("checkpoint", 2), ("fit_end", 2)]  # the step ends, all is saved


def test_contract_5_a_checkpoint_is_complete(tmp_path):
    whole = tmp_path / "whole"
    make_trainer(whole, provenance={"tokenizer": {"step": 3}}, config={"a": 1}).fit()
    meta = json.loads((whole / "checkpoints" / "25" / "meta.json").read_text())
    assert (meta["config"], meta["provenance"]) == ({"a": 1}, {"tokenizer": {"step": 3}})
    assert meta["fingerprint"] == {"name": "counter", "version": 1, "shape": [8, 3]}
    parted = tmp_path / "parted"
    make_trainer(parted, callbacks=[StopAt(step=13)]).fit()
    make_trainer(parted).fit()
    states = [Checkpoints(f).restore(make_trainer(f).program.state).state for f in (whole, parted)]
    assert bits(states[0]) == bits(states[1])
    assert lines(whole) == lines(parted)
    before = {path: path.read_bytes() for path in parted.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"layer/w: stored float32\[3, 3\], wanted float32\[3, 4\]"):
        make_trainer(parted, task=Regression(4)).fit()
    with pytest.raises(DataError, match="version: stored 1, wanted 5"):
        make_trainer(parted, data=Counter(version=5)).fit()
    assert before == {path: path.read_bytes() for path in parted.rglob("*") if path.is_file()}


def test_contract_6_updates_that_are_not_finite(tmp_path):
    result = make_trainer(tmp_path / "some", data=Counter(poison=[2, 5]), steps=8, log_every=8).fit()
    assert result.metrics["train/update_skipped"] == 2 / 8
    state = Checkpoints(tmp_path / "some").restore(make_trainer(tmp_path).program.state).state
    assert int(state.skipped) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.ema)))
    guard = plugins.build({"target": "non_finite_guard"}, "callbacks", "guard")
    with pytest.raises(TrainingError, match=r"step 4 in .*checkpoints"):
        make_trainer(
            tmp_path / "all", data=Counter(poison=range(5, 99)), log_every=2, checkpoint_every=4, callbacks=[guard]
        ).fit()


def test_contract_7_evaluators(tmp_path):
    seen = []

    class Spy(Evaluator):
        def evaluate(self, **given):
            seen.append(given.keys())
            first = next(iter(given["batches"]))
            return Evaluation(
                {"spy/mean": float(first["x"].mean())}, {"spy": np.zeros((4, 4, 3), np.uint8)},
                {"spy_video": np.zeros((2, 4, 4, 3), np.uint8)},
            )  # fmt: skip

    recorder = Recorder()
    changes = {"evaluators": {"spy": Spy(), "picture": Picture()}, "steps": 4, "eval_every": 2, "checkpoint_every": 2}
    result = make_trainer(tmp_path, callbacks=[recorder], **changes).fit()
    assert seen[0] == {"params", "frozen", "extra", "rng", "batches", "step"}
    assert recorder.events.index(("eval", 2)) < recorder.events.index(("checkpoint", 2))
    figures = make_trainer(tmp_path, **changes).evaluate()
    assert figures == {name: value for name, value in result.metrics.items() if not name.startswith("train/")}


def test_contract_8_writers(tmp_path, caplog):
    source = ast.parse((TRAINER / "writers" / "base.py").read_text())
    ours = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Writer")
    methods = {node.name for node in ours.body if isinstance(node, ast.FunctionDef)}
    # clu.metric_writers.MetricWriter, which cannot be imported without TensorFlow.
    interface = (Path(importlib.util.find_spec("clu").origin).parent / "metric_writers" / "interface.py").read_text()
    clu = next(node for node in ast.walk(ast.parse(interface)) if isinstance(node, ast.ClassDef))
    theirs = {node.name for node in clu.body if isinstance(node, ast.FunctionDef) and node.name != "__init__"}
    assert methods - {"resume"} <= theirs

    class Numbers(Writer):
        def write_scalars(self, step, scalars):
            pass

    both = MultiWriter([Numbers()])
    for _ in range(2):
        both.write_images(0, {"picture": np.zeros((1, 2, 2, 3), np.uint8)})
    assert caplog.text.count("images (picture …) are not written: none of Numbers takes them.") == 1  # nothing silently

    log = JsonlWriter(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.write_scalars(step, {"a": step})
    log.resume(2)
    assert [line[0] for line in lines(tmp_path)] == [("step", 1), ("step", 2)]


def test_contract_9_plugins():
    with pytest.raises(ConfigError, match="Did you mean 'time_limit'"):
        plugins.build({"target": "time_limt"}, "callbacks", "x")
    with pytest.raises(ConfigError, match=r"takes no argument 'second'.*Did you mean 'seconds'"):
        plugins.build({"target": "time_limit", "second": 3}, "callbacks", "x")
    assert isinstance(plugins.build({"target": "toy:Regression", "width": 2}, "tasks"), Regression)
    with pytest.raises(ConfigError, match="inherit"):
        plugins.build({"target": "toy:Counter"}, "tasks")


def test_contract_10_devices():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == ("data", "fsdp")
    state = {"params": {"mlp": {"w": jnp.zeros((4, 2)), "b": jnp.zeros(4)}, "b": jnp.zeros(3)}}
    rules = [("mlp/w", jax.sharding.PartitionSpec("fsdp", None)), ("mlp", jax.sharding.PartitionSpec("data"))]
    placed = sharding.state_sharding(mesh, rules, state)
    assert placed["params"]["mlp"]["w"].spec == jax.sharding.PartitionSpec("fsdp", None)  # the first rule decides
    assert placed["params"]["mlp"]["b"].spec == jax.sharding.PartitionSpec("data")
    assert placed["params"]["b"].spec == jax.sharding.PartitionSpec()
    # Several devices and several processes: devices_test.py, hosts_test.py.
