"""Eight devices, made of one processor in another process, against one device in this."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from gone import python_path
from jax.sharding import PartitionSpec
from toy import Counter, CounterIterator, Regression, Sized, StopAt, bits, lines, make_trainer

from trainer.checkpoints import Checkpoints
from trainer.errors import ConfigError
from trainer.trainer import Trainer

HERE = Path(__file__).parent
RULES = (("layer/w$", PartitionSpec(None, "fsdp")), ("layer/b", PartitionSpec("fsdp")))
PARTED = {"mesh_shape": (2, 4), "sharding_rules": RULES}
LAYOUTS = {"data": {}, "fsdp": PARTED}


def trainer_of(workdir, **changes):
    return make_trainer(workdir, task=Regression(width=8), **changes)


def restored(workdir, **layout):
    return Checkpoints(workdir).restore(trainer_of(workdir, **layout).program.state)


def digest(state):
    return hashlib.sha256(b"".join(bits(state))).hexdigest()


def on_eight_devices(folder):
    """What the other process does; `stopped` in the folder is a run that one device began."""
    assert jax.device_count() == 8
    found = {}
    for name, layout in LAYOUTS.items():
        trainer = trainer_of(folder / name, **layout)
        batch = trainer.put(next(trainer.data.iterator(seed=0)))
        trainer.fit()
        state = restored(folder / name, **layout).state
        adam = state.opt_state[0]
        parts = {"params": state.params, "mu": adam.mu, "nu": adam.nu, "ema": state.ema}
        found[name] = {part: [shards_of(x) for x in jax.tree.leaves(tree)] for part, tree in parts.items()}
        found[name]["batch"] = shards_of(batch["x"])
        begun = restored(folder / "stopped", **layout)
        found[name]["restored"] = digest(begun.state)
        checkpoints = Checkpoints(folder / f"{name}-saved")
        checkpoints.save(10, begun.state, {}, {})
        checkpoints.close()
        shutil.copytree(folder / "stopped", folder / f"{name}-continued")
        trainer_of(folder / f"{name}-continued", **layout).fit()
        trainer_of(folder / f"{name}-stopped", callbacks=[StopAt(step=10)], **layout).fit()
    try:
        trainer.put({"x": np.zeros((6, 3))})
    except ConfigError as error:
        found["refused"] = str(error)
    found["checked"] = []
    refused = ({"data": Counter(batch=12)}, {"data": Sized(8, 12)}, {"eval_data": Sized(4)}, {"data": Ragged()})
    for sources in refused:
        for action in (Trainer.dry_run, Trainer.fit, Trainer.evaluate):
            workdir = folder / "stopped" if action is Trainer.evaluate else folder / "refused"
            try:
                action(trainer_of(workdir, **sources))
            except ConfigError as error:
                found["checked"].append(str(error))
    print(json.dumps(found))


class Ragged(Counter):
    """Has an array without rows."""

    def iterator(self, *, seed, **_):
        return RaggedIterator(self, seed)


class RaggedIterator(CounterIterator):
    def __next__(self):
        return {**super().__next__(), "table": np.zeros(3)}


def shards_of(array):
    return [list(shard.data.shape) for shard in array.addressable_shards]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def one(folder):
    """A run on one device."""
    trainer_of(folder / "one").fit()
    return folder / "one"


@pytest.fixture(scope="module")
def eight(folder):
    """What `on_eight_devices` found, by layout."""
    trainer_of(folder / "stopped", callbacks=[StopAt(step=10)]).fit()
    script = "import pathlib, sys, devices_test; devices_test.on_eight_devices(pathlib.Path(sys.argv[1]))"
    path = python_path(HERE, HERE.parents[1])
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env={**os.environ, **flags}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_figures(workdir, other):
    for some, others in zip(lines(workdir), lines(other), strict=True):
        some, others = ([(k, v) for k, v in line if k != "train/utilization"] for line in (some, others))
        assert [name for name, _ in some] == [name for name, _ in others]
        np.testing.assert_allclose([v for _, v in some], [v for _, v in others], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_devices_give_the_losses_of_one(folder, one, eight, layout):
    assert eight[layout]["batch"] == [[1, 3]] * 8
    assert_same_figures(folder / layout, one)


def test_a_batch_that_cannot_be_split_is_refused(eight):
    assert eight["refused"].endswith("cannot be split over 8 devices: make the batch size a multiple of 8.")


def test_batches_that_cannot_be_split_are_refused_before_anything_is_written(folder, eight):
    told = "cannot be split over 8 devices: make the batch size (of long and of short batches) a multiple of 8."
    training, held_out = (
        "The training data has batches of 12 rows, which",
        "The held-out data has batches of 4 rows, which",
    )
    assert eight["checked"] == [
        *[f"{training} {told}"] * 4,
        *[f"{held_out} {told}"] * 3,
        *["The batch's table[3] cannot be split over 8 devices: make the batch size a multiple of 8."] * 2,
    ]
    assert not (folder / "refused").exists()


def test_parameters_and_moments_are_where_the_rules_say(eight):
    for part in ("params", "mu", "nu", "ema"):
        assert eight["data"][part] == [[[8]] * 8, [[3, 8]] * 8]
        assert eight["fsdp"][part] == [[[2]] * 8, [[3, 2]] * 8]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_the_same_on_one_device_and_on_eight(folder, eight, layout):
    state = restored(folder / "stopped").state
    assert eight[layout]["restored"] == digest(state)
    assert bits(restored(folder / f"{layout}-saved").state) == bits(state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_devices_continue_what_one_began_and_the_other_way_round(folder, one, eight, layout):
    assert_same_figures(folder / f"{layout}-continued", one)
    trainer_of(folder / f"{layout}-stopped").fit()
    assert_same_figures(folder / f"{layout}-stopped", one)
