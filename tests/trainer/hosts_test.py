"""Two processes on this machine that train together, with one CPU device each."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gone import python_path
from jax.sharding import NamedSharding, PartitionSpec
from toy import Counter, CounterIterator, Recorder, Regression, StopAt, bits, lines, make_trainer

from trainer import experiment, hosts
from trainer.callbacks import Callback
from trainer.checkpoints import Best, Checkpoints
from trainer.checkpoints.manifest import write_manifest
from trainer.config import load_config
from trainer.errors import CheckpointError, DataError, UserError
from trainer.lock import lock_folder
from trainer.sharding import make_mesh, put_tree
from trainer.stopping import EXIT_RESUMABLE, StopFlag, StopReason
from trainer.writers import JsonlWriter

HERE = Path(__file__).parent
PATIENCE = 120  # seconds for whatever two processes do
RULES = (("layer/w$", PartitionSpec(None, "fsdp")), ("layer/b", PartitionSpec("fsdp")))


class Shared(Counter):
    """Deals the rows of every batch out to the processes."""

    def iterator(self, *, seed, process_index=0, process_count=1):
        return SharedIterator(self, seed, process_index, process_count)


class SharedIterator(CounterIterator):
    def __init__(self, source, seed, index, count):
        super().__init__(source, seed)
        self.index, self.count = index, count

    def __next__(self):
        return {name: np.split(rows, self.count)[self.index] for name, rows in super().__next__().items()}


class Teacher(Regression):
    """Adds frozen parameters, which lie on a device of each process."""

    def frozen(self):
        return {"teacher": jax.device_put({"zero": np.zeros(1, np.float32)}, jax.local_devices()[0])}

    def loss(self, params, frozen, batch, **others):
        out = super().loss(params, frozen, batch, **others)
        return out._replace(loss=out.loss + frozen["teacher"]["zero"][0])


@dataclasses.dataclass(kw_only=True)
class Slow(Callback):
    """Leaves time to send a signal."""

    def on_step_end(self, run, metrics):
        time.sleep(0.1)


@dataclasses.dataclass(kw_only=True)
class Alone(Callback):
    """Writes which process called it."""

    everywhere = False

    def on_fit_start(self, run):
        run.workdir.mkdir(exist_ok=True)
        (run.workdir / f"called-{jax.process_index()}").touch()


def trainer_of(workdir, **changes):
    data = {"data": Shared(long_every=4), "eval_data": Shared(version=2)}
    return make_trainer(workdir, **{"task": Teacher(width=4), **data, **changes})


def fit(workdir, **changes):
    """Trains; what of it is the same in all processes."""
    result = trainer_of(Path(workdir), **changes).fit()
    return {"step": result.step, "stopped": result.stopped}


# What the processes do; each says what it found as JSON.


def train(folder):
    return fit(folder / "run", callbacks=[Alone()])


def train_slowly(folder):
    return fit(folder / "run", callbacks=[Slow()])


def train_on(folder):
    return fit(folder / "run"), fit(folder / "begun-by-one")


def train_with_parameters_in_parts(folder):
    parts = {"mesh_shape": (1, 2), "sharding_rules": RULES, "best": Best("eval/loss", "max", 1), "keep_checkpoints": 1}
    stopped = fit(folder / "parts", callbacks=[StopAt(step=11)], **parts)
    state = Checkpoints(folder / "parts").restore(trainer_of(folder / "parts", **parts).program.state).state
    shards = [[shard.data.shape for shard in x.addressable_shards] for x in jax.tree.leaves(state.params)]
    return stopped, shards, fit(folder / "parts", **parts)


def exchange(folder):
    """Everything in `trainer.hosts`."""
    me = jax.process_index()
    found = {"first": hosts.is_first(), "gathered": hosts.gather_json({"é": [me, None]})}
    found["long"] = [len(text) for text in hosts.gather_json("x" * (252 + 1000 * me))]
    found["agreed"] = [
        hosts.agree(None),
        hosts.agree(StopReason("second", True) if me else None),
        hosts.agree(StopReason(f"process {me}", bool(me))),
    ]
    flag = StopFlag()
    agreed = hosts.AgreedFlag(flag)
    if me:
        agreed.request("please", False)
    before = agreed.value
    agreed.agree()
    found["flag"] = before, agreed.value
    for error in (DataError("no data"), FileNotFoundError("no file"), ZeroDivisionError("no number")):
        try:
            with hosts.together():
                if me:
                    raise error
        except Exception as raised:
            found.setdefault("raised", []).append([type(raised).__name__, str(raised)])
    mesh = make_mesh((1, 2))
    split, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("fsdp"), PartitionSpec()))
    values = {"split": np.arange(4.0), "same": np.ones(2), "key": jax.random.key(3)}
    tree = put_tree(values, {"split": split, "same": everywhere, "key": everywhere})
    found["addressable"] = tree["split"].is_fully_addressable
    found["whole"] = jax.tree.map(np.ndarray.tolist, hosts.whole(tree))
    found["in the first"] = [x is None for x in hosts.whole(tree, everywhere=False).values()]
    found["computed"] = hosts.whole(jax.jit(lambda x: 2 * x[:, None])(tree["split"])).tolist()
    found["moved"] = hosts.whole(put_tree(put_tree(values["split"], split), everywhere)).tolist()
    hosts.barrier("the end")
    return found


def fail_to_save(folder):
    """A file is where the folder of checkpoints should be."""
    found = []
    for policy in ("stop", "continue"):
        workdir, recorder = folder / policy, Recorder()
        if hosts.is_first():
            workdir.mkdir()
            (workdir / "checkpoints").touch()
        hosts.barrier(policy)
        try:
            fit(workdir, steps=9, checkpoint_every=2, on_save_error=policy, callbacks=[recorder])
        except CheckpointError as error:
            found.append([recorder.events[-1], str(error)])
    return found


def fail_to_log(folder):
    """The first process cannot write a line, the other one has nothing to write."""

    class Full(JsonlWriter):
        def write_scalars(self, step, scalars):
            raise OSError("no space left")

    try:
        fit(folder / "full", steps=9, writers=[Full(folder / "full.jsonl")])
    except UserError as error:
        return str(error)


def run_configs(folder):
    """One run whose folder is taken, and one whose is free."""
    config = load_config("toy_config.py:first")
    found = []
    for name in ("taken", "free"):
        try:
            result = experiment.run(config, workdir=folder / name)
            found.append(result.step)
        except UserError as error:
            found.append(str(error))
    return found


def worker(index, port, folder, names):
    """What runs in each process."""
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).parent / "compiled"))  # of all processes together
    hosts.initialize(f"localhost:{port}", 2, int(index))
    found = {name: globals()[name](Path(folder)) for name in names}
    print(json.dumps(found), flush=True)
    result = found.get("train_slowly") or {}
    sys.exit(EXIT_RESUMABLE if result.get("stopped") and StopReason(*result["stopped"]).resumable else 0)


@contextlib.contextmanager
def two(folder, *names):
    """Starts two processes; none outlives the context."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("XLA_")},
        "PYTHONPATH": python_path(HERE, HERE.parents[1]),
        "JAX_PLATFORMS": "cpu",
    }
    code = "import sys, hosts_test; hosts_test.worker(*sys.argv[1:4], sys.argv[4:])"
    processes = []
    try:
        for index in range(2):
            with open(folder / f"out-{index}", "w") as out, open(folder / f"err-{index}", "w") as err:
                arguments = [sys.executable, "-c", code, str(index), str(port), str(folder), *names]
                processes.append(subprocess.Popen(arguments, env=environment, cwd=HERE, stdout=out, stderr=err))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def finish(folder, processes, code=0):
    """Waits for both, and returns what they found."""
    end = time.monotonic() + PATIENCE
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    assert codes == [code] * 2, "\n".join((folder / f"err-{index}").read_text() for index in range(2))
    return [json.loads((folder / f"out-{index}").read_text().splitlines()[-1]) for index in range(2)]


def both(folder, *names):
    with two(folder, *names) as processes:
        return finish(folder, processes)


def state_of(workdir):
    return Checkpoints(workdir).restore(trainer_of(workdir).program.state).state


def figures(workdir):
    return [[(k, v) for k, v in line if k != "train/utilization"] for line in lines(workdir)]


def assert_close(workdir, other):
    for some, others in zip(figures(workdir), figures(other), strict=True):
        assert [name for name, _ in some] == [name for name, _ in others]
        np.testing.assert_allclose([v for _, v in some], [v for _, v in others], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run of one process."""
    folder = tmp_path_factory.mktemp("one")
    trainer_of(folder).fit()
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of two processes, and what they do besides."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with lock_folder(folder / "taken"):
        names = ("train", "exchange", "train_with_parameters_in_parts", "fail_to_save", "fail_to_log",
                 "run_configs")  # fmt: skip
        return folder, both(folder, *names)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of two processes of which the second one got a SIGTERM."""
    folder = tmp_path_factory.mktemp("stopped")
    with two(folder, "train_slowly") as processes:
        path, end = folder / "run" / "metrics.jsonl", time.monotonic() + PATIENCE
        while not (path.exists() and '"step": 7,' in path.read_text()):
            assert all(process.poll() is None for process in processes), (folder / "err-0").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGTERM)
        return folder, finish(folder, processes, EXIT_RESUMABLE)


@pytest.fixture(scope="module")
def continued(stopped, tmp_path_factory):
    """That run and one that a single process began, continued by two."""
    folder = tmp_path_factory.mktemp("continued")
    shutil.copytree(stopped[0] / "run", folder / "run")
    trainer_of(folder / "begun-by-one", callbacks=[StopAt(step=13)]).fit()
    return folder, both(folder, "train_on")


def test_two_processes_train_as_one(one, undisturbed):
    folder, found = undisturbed
    assert [process["train"] for process in found] == [{"step": 25, "stopped": None}] * 2
    assert_close(folder / "run", one)
    params, params_of_one = state_of(folder / "run").params, state_of(one).params
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), params, params_of_one)


def test_the_first_process_writes_and_calls_what_is_not_for_everywhere(undisturbed):
    run = undisturbed[0] / "run"
    assert sorted(path.name for path in run.iterdir()) == ["called-0", "checkpoints", "metrics.jsonl"]
    saved = sorted(path.name for path in (run / "checkpoints" / "25").iterdir())
    assert saved == ["data-0.json", "data-1.json", "ema", "manifest.json", "meta.json", "params", "state"]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [6, 7, 12, 14, 18, 21, 24, 25, 25]


def test_parameters_may_be_split_over_processes(one, undisturbed):
    folder, found = undisturbed
    for process in found:
        stopped, shards, result = process["train_with_parameters_in_parts"]
        assert stopped == {"step": 12, "stopped": ["test", True]}
        assert shards == [[[2]], [[3, 2]]]
        assert result == {"step": 25, "stopped": None}
    assert_close(folder / "parts", one)
    assert Checkpoints(folder / "parts").steps() == [6, 25]  # the best, here the worst, and the last


def test_processes_exchange_values_requests_and_errors(undisturbed):
    for me, process in enumerate(undisturbed[1]):
        found = process["exchange"]
        assert found["first"] == (me == 0)
        assert found["gathered"] == [{"é": [0, None]}, {"é": [1, None]}]
        assert found["long"] == [252, 1252]
        assert found["agreed"] == [None, ["second", True], ["process 0", False]]
        assert found["flag"] == [None, ["please", False]]
        there = ("", "process 1: ")[me == 0]
        assert found["raised"][0] == ["DataError", f"{there}no data"]
        assert found["raised"][1] == [("OSError", "FileNotFoundError")[me], f"{there}no file"]
        assert found["raised"][2] == [
            ["UserError", "process 1 failed: ZeroDivisionError: no number"], ["ZeroDivisionError", "no number"],
        ][me]  # fmt: skip
        assert not found["addressable"]
        key = np.asarray(jax.random.key_data(jax.random.key(3))).tolist()
        assert found["whole"] == {"split": [0, 1, 2, 3], "same": [1, 1], "key": key}
        assert found["in the first"] == [me == 1] * 3
        assert found["computed"] == [[0], [2], [4], [6]]
        assert found["moved"] == [0, 1, 2, 3]


def test_a_save_that_fails_in_the_first_process_ends_both_at_the_same_step(undisturbed):
    first, second = (process["fail_to_save"] for process in undisturbed[1])
    for (event, message), (other_event, other_message), step in zip(first, second, (4, 9), strict=True):
        assert event == other_event == ["exception", step]
        assert "could not be saved" in message
        assert other_message == f"process 0: {message}"


def test_a_line_that_the_first_process_cannot_write_ends_both(undisturbed):
    first, second = (process["fail_to_log"] for process in undisturbed[1])
    assert "cannot be written: no space left (raised in Full.write_scalars)" in first
    assert second == f"process 0: {first}"


def test_a_folder_that_is_taken_is_refused_in_both(undisturbed):
    folder, found = undisturbed
    assert found[0]["run_configs"][0].startswith(f"Another process (pid {os.getpid()}) is using the run folder")
    assert found[1]["run_configs"][0] == "process 0: " + found[0]["run_configs"][0]
    assert [process["run_configs"][1] for process in found] == [4, 4]
    assert json.loads((folder / "free" / "config.json").read_text())["config"]["name"] == "first"
    assert Checkpoints(folder / "free").steps() == [2, 4]


def test_sigterm_to_one_process_stops_both_at_the_same_step(stopped):
    folder, (first, second) = stopped
    assert first == second
    assert first["train_slowly"]["stopped"] == ["received SIGTERM", True]
    step = first["train_slowly"]["step"]
    assert 7 <= step < 25
    assert any(step % every == 0 for every in (6, 7, 10))
    assert Checkpoints(folder / "run").steps()[-1] == step


def test_two_processes_continue_bit_for_bit(undisturbed, continued):
    assert bits(state_of(continued[0] / "run")) == bits(state_of(undisturbed[0] / "run"))
    assert figures(continued[0] / "run") == figures(undisturbed[0] / "run")


def test_two_processes_continue_what_one_began(one, continued):
    assert [process["train_on"][1] for process in continued[1]] == [{"step": 25, "stopped": None}] * 2
    assert_close(continued[0] / "begun-by-one", one)


def test_one_process_continues_what_two_began(undisturbed, stopped, tmp_path):
    shutil.copytree(stopped[0] / "run", tmp_path / "run")
    assert trainer_of(tmp_path / "run").fit().step == 25
    assert_close(tmp_path / "run", undisturbed[0] / "run")


def test_positions_that_differ_cannot_be_divided_among_other_processes(stopped, tmp_path):
    shutil.copytree(stopped[0] / "run", tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        (checkpoint / "data-1.json").write_text('{"n": 1}')
        (checkpoint / "manifest.json").unlink()
        write_manifest(checkpoint)
    with pytest.raises(DataError, match=r"saved by 2 processes at different positions .* divided among 1"):
        trainer_of(tmp_path / "run").fit()
    assert "eval/loss" in trainer_of(tmp_path / "run").evaluate()


def test_one_process_is_asked_nothing():
    value = object()
    assert hosts.gather_json(value) == [value]
    assert hosts.agree(StopReason("mine", True)) == StopReason("mine", True)
    assert hosts.is_first()
    hosts.barrier("alone")
    with pytest.raises(ZeroDivisionError), hosts.together():
        raise ZeroDivisionError
    flag = StopFlag()
    agreed = hosts.AgreedFlag(flag)
    agreed.request("now", False)
    assert agreed.value == StopReason("now", False)
    assert flag.value is None  # the command may go on with another fit
    flag.request("all of it", True)
    assert agreed.value == StopReason("now", False)
    assert hosts.AgreedFlag(flag).value == StopReason("all of it", True)
    copies = hosts.whole({"key": jax.random.key(0), "x": jnp.ones(2)}, everywhere=False)
    assert [type(x) for x in copies.values()] == [np.ndarray] * 2
    assert copies["key"].tolist() == [0, 0]


def test_some_of_the_arguments_are_not_enough():
    with pytest.raises(UserError, match="belong together"):
        hosts.initialize("localhost:1", 2)


@pytest.mark.parametrize(("error", "raised"), [(RuntimeError("late"), UserError), (OSError("odd"), OSError)])
def test_what_goes_wrong_while_joining_is_raised_where_it_was_asked_for(monkeypatch, error, raised):
    def join(*arguments):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", join)
    with pytest.raises(raised, match=str(error)):
        hosts.initialize("localhost:1", 2, 0)
