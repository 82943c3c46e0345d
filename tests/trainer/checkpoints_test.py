import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gone import python_path
from toy import Counter, Regression, StopAt, bits, lines, make_trainer

from trainer.callbacks import Callback
from trainer.checkpoints import Best, Checkpoints, best_step, find_step, finished, read_params
from trainer.checkpoints.reading import read_position
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.sharding import make_mesh, replicated
from trainer.state import TrainState
from trainer.task import Evaluation, Evaluator


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    make_trainer(workdir, steps=6, checkpoint_every=2).fit()
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A run with checkpoints at 2, 4 and 6 that a test may damage."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def a_state(params, extra=None, ema=None, dtype=None):
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optax.adam(0.1).init(params), ema, extra or {}, jax.random.key(5), zero + 1)


def target_of(state):
    whole = replicated(make_mesh())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)


def save(folder, state, step=1, **meta):
    checkpoints = Checkpoints(folder)
    checkpoints.save(step, state, {"n": step}, {"steps": 10, "complete": False, **meta})
    checkpoints.close()


def files_of(run, step):
    return sorted(path for path in (run / "checkpoints" / str(step)).rglob("*") if path.is_file())


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    params = {
        "a.b": jnp.asarray([1.5, np.nan, -0.0], jnp.bfloat16),
        "a": {"b": jnp.asarray(3, jnp.int8), "c/d é": jnp.asarray([True, False])},
        "list": [jnp.ones(2), (jnp.zeros((0, 3)), jnp.full((2,), 7, jnp.uint32))],
    }
    extra = {"key": jax.random.key(1), "keys": jax.random.split(jax.random.key(2, impl="rbg"), 3)}
    state = a_state(params, extra)
    save(tmp_path, state)
    restored = Checkpoints(tmp_path).restore(target_of(state))
    assert bits(restored.state) == bits(state)
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert [x.dtype for x in jax.tree.leaves(restored.state)] == [x.dtype for x in jax.tree.leaves(state)]
    assert restored.meta["data_position"] == {"n": 1}


def test_what_is_saved_is_the_state_at_that_moment(tmp_path):
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    state = a_state({"w": jnp.ones((2000, 1000))})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {}, {})
    for _ in range(3):
        state = state._replace(params={"w": overwrite(state.params["w"])})
    checkpoints.close()
    assert (read_params(tmp_path).params["w"] == 1).all()


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "flip"])
def test_any_damaged_file_means_a_warning_and_the_checkpoint_before(run, caplog, damage):
    target = make_trainer(run).program.state
    for path in files_of(run, 6):
        data = path.read_bytes()
        if damage == "truncate":
            path.write_bytes(data[:-1])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "flip":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        else:
            path.unlink()
        caplog.clear()
        restored = Checkpoints(run).restore(target)
        assert restored.meta["step"] == 4, path
        assert len(caplog.records) == 1
        assert str(run / "checkpoints" / "6") in caplog.text
        assert read_params(run).step == 4
        path.write_bytes(data)
    assert Checkpoints(run).restore(target).meta["step"] == 6


def test_a_run_goes_on_from_before_the_damage_and_replaces_it(run, trained, caplog):
    files_of(run, 6)[0].unlink()
    result = make_trainer(run, steps=6, checkpoint_every=2, keep_checkpoints=1).fit()
    assert result.step == 6
    assert "damaged" in caplog.text
    assert Checkpoints(run).steps() == [6]
    target = make_trainer(run).program.state
    assert bits(Checkpoints(run).restore(target).state) == bits(Checkpoints(trained).restore(target).state)


def test_a_damaged_newer_one_never_pushes_out_the_good_one(run):
    files_of(run, 6)[0].unlink()
    make_trainer(run, steps=6, checkpoint_every=0, keep_checkpoints=1, callbacks=[StopAt(step=5)]).fit()
    assert Checkpoints(run).steps() == [5]


def test_nothing_usable_is_an_error_and_no_fresh_start(run):
    for step in (2, 4, 6):
        (run / "checkpoints" / str(step) / "meta.json").write_text("")
    with pytest.raises(CheckpointError, match="None of the checkpoints"):
        make_trainer(run).fit()
    with pytest.raises(CheckpointError, match="None of the checkpoints"):
        read_params(run)
    assert finished(run) is None


def test_another_shape_is_refused_with_path_stored_and_wanted(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as caught:
        make_trainer(run, task=Regression(width=5)).fit()
    assert "params/layer/w: stored float32[3, 3], wanted float32[3, 5]" in str(caught.value)
    assert "opt_state/0/mu/layer/b/0: stored float32[3], wanted float32[5]" in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_another_dtype_missing_and_extra_parameters_are_refused(tmp_path):
    save(tmp_path, a_state({"same": jnp.ones(2), "kind": jnp.ones(2), "old": jnp.ones(1)}))
    target = target_of(a_state({"same": jnp.ones(2), "kind": jnp.ones(2, jnp.bfloat16), "new": jnp.ones(3)}))
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(tmp_path).restore(target)
    message = str(caught.value)
    assert "params/kind: stored float32[2], wanted bfloat16[2]" in message
    assert "params/new: stored (absent), wanted float32[3]" in message
    assert "params/old: stored float32[1], wanted (absent)" in message
    assert "same" not in message


def test_switching_the_moving_average_on_or_off_is_refused(run):
    with pytest.raises(CheckpointError, match=r"ema/layer/w: stored float32\[3, 3\], wanted \(absent\)"):
        make_trainer(run, ema_decay=None).fit()


def test_other_data_are_refused_with_the_difference(run):
    with pytest.raises(DataError) as caught:
        make_trainer(run, data=Counter(batch=16)).fit()
    assert "shape: stored [8, 3], wanted [16, 3]" in str(caught.value)
    assert "name" not in str(caught.value)
    # Evaluation does not depend on where training stands in its data.
    assert "eval/loss" in make_trainer(run, data=Counter(batch=16)).evaluate()


def test_read_params_gives_the_moving_average_and_needs_nothing_else(run):
    target = make_trainer(run).program.state
    state = Checkpoints(run).restore(target).state
    read = read_params(run)
    assert read.step == 6
    assert bits(read.params) == bits(state.ema) != bits(state.params)
    assert jax.tree.structure(read.params) == jax.tree.structure(state.params)
    assert read.meta["complete"] is True
    assert read_params(run, step=4).step == 4
    assert bits(read_params(run, target=target.params).params) == bits(state.ema)


def test_read_params_refuses_what_does_not_fit_or_is_not_there(run, tmp_path):
    with pytest.raises(CheckpointError, match="ema/other: stored"):
        read_params(run, target={"other": jnp.ones(1)})
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5.*\[2, 4, 6\]"):
        read_params(run, step=5)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_params(tmp_path / "nowhere")


def test_keys_of_dicts_keep_their_type(tmp_path):
    params = {"layers": {0: {"w": jnp.zeros(1)}, 10: {"w": jnp.ones(1)}, 2: {"w": jnp.full(1, 2.0)}}}
    save(tmp_path, a_state(params))
    read = read_params(tmp_path).params
    assert {key: float(layer["w"][0]) for key, layer in read["layers"].items()} == {0: 0.0, 2: 2.0, 10: 1.0}


def test_only_the_newest_are_kept(trained, tmp_path):
    make_trainer(tmp_path, steps=6, checkpoint_every=1, keep_checkpoints=2).fit()
    assert Checkpoints(tmp_path).steps() == [5, 6]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5", "6"]


def test_multiples_of_keep_every_are_kept_besides_the_newest(tmp_path):
    make_trainer(tmp_path, steps=9, checkpoint_every=1, keep_checkpoints=2, keep_every=3).fit()
    assert Checkpoints(tmp_path).steps() == [3, 6, 8, 9]


def save_all(folder, figures, **settings):
    """Saves a checkpoint for each (step, figure), as a new process each time, and returns those left."""
    for step, figure in figures:
        checkpoints = Checkpoints(folder, **settings)
        measured = {} if figure is None else {"eval/loss": figure}
        checkpoints.save(step, a_state({"w": jnp.ones(1)}), {}, {"measured": measured})
        checkpoints.close()
    return Checkpoints(folder).steps()


def test_the_best_are_kept_whoever_saved_them(tmp_path):
    figures = [(1, 5.0), (2, 1.0), (3, 3.0), (4, float("nan")), (5, 2.0), (6, None), (7, 4.0)]
    low, high = Best("eval/loss", "min", 2), Best("eval/loss", "max", 1)
    assert save_all(tmp_path / "low", figures, keep=1, best=low) == [2, 5, 7]
    assert best_step(tmp_path / "low", low) == 2
    assert save_all(tmp_path / "high", figures, keep=1, best=high) == [1, 7]
    assert best_step(tmp_path / "high", high) == 1
    assert save_all(tmp_path / "both", figures, keep=2, keep_every=3, best=low) == [2, 3, 5, 6, 7]
    assert save_all(tmp_path / "none", figures, keep=1, best=Best("eval/loss", "min", 0)) == [7]
    assert best_step(tmp_path / "none", Best("eval/other", "min", 1)) is None


def test_what_is_among_the_best_is_known_before_it_is_saved(tmp_path):
    best, figures = Best("loss", "min", 2), np.random.default_rng(0).permutation(12).tolist()
    checkpoints = Checkpoints(tmp_path, keep=1, best=best)
    for step, figure in enumerate(figures):
        among_the_best = figure < sorted([*figures[:step], 99, 99])[1]
        assert checkpoints.is_best({"loss": figure}) == among_the_best
        checkpoints.save(step, a_state({"w": jnp.ones(1)}), {}, {"measured": {"loss": figure}})
    checkpoints.close()
    assert checkpoints.steps() == sorted({figures.index(0), figures.index(1), 11})
    for same in (checkpoints, Checkpoints(tmp_path, best=best)):
        assert not same.is_best({"loss": 1})  # no better than one that is kept
        assert same.is_best({"loss": 0.5})
        assert not same.is_best({"loss": float("nan")})
        assert not same.is_best({"other": 0.0})
    assert not Checkpoints(tmp_path).is_best({"loss": -1})


def test_a_run_saves_at_once_what_is_best_and_finds_it_later(tmp_path):
    best = Best("eval/loss", "min", 1)
    settings = dict(eval_every=3, checkpoint_every=100, keep_checkpoints=1, best=best, optimizer=optax.adam(3.0))
    make_trainer(tmp_path, **settings).fit()
    losses = {
        step: dict(line)["eval/loss"] for line in lines(tmp_path) for _, step in line[:1] if "eval/loss" in dict(line)
    }
    step = min(losses, key=losses.get)
    assert step < 25
    assert Checkpoints(tmp_path).steps() == [step, 25]
    assert best_step(tmp_path, best) == find_step(tmp_path, "best", best) == step
    assert make_trainer(tmp_path, **settings).evaluate(step)["eval/loss"] == losses[step]


def test_a_given_step_is_restored_and_no_other(run):
    target = make_trainer(run).program.state
    assert Checkpoints(run).restore(target, step=4).meta["step"] == 4
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5.*\[2, 4, 6\]"):
        Checkpoints(run).restore(target, step=5)
    files_of(run, 4)[0].unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints/4 cannot be read"):
        Checkpoints(run).restore(target, step=4)


def test_a_position_is_that_of_the_process_or_the_one_that_all_have(tmp_path):
    for process, position in enumerate(({"n": 4}, {"n": 5})):
        (tmp_path / f"data-{process}.json").write_text(json.dumps(position))
    assert [read_position(tmp_path, process, 2) for process in range(2)] == [{"n": 4}, {"n": 5}]
    assert read_position(tmp_path, 0, 1) is None
    assert read_position(tmp_path, 0, 3) is None
    (tmp_path / "data-1.json").write_text(json.dumps({"n": 4}))
    assert [read_position(tmp_path, process, 3) for process in range(3)] == [{"n": 4}] * 3


LIMITED = """
import json, resource, sys
import jax, jax.numpy as jnp
from pathlib import Path
from checkpoints_test import a_state, target_of
from toy import bits
from trainer.checkpoints import Checkpoints
from trainer.errors import CheckpointError

folder = Path(sys.argv[1])
checkpoints = Checkpoints(folder, keep=1)
state = a_state({"small": jnp.ones(3), "w": jax.random.normal(jax.random.key(0), (400, 400))})
checkpoints.save(1, state, {}, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
messages = []
for step in (2, 3):
    try:
        checkpoints.save(step, state, {}, {})
        checkpoints.wait()
    except CheckpointError as error:
        messages.append(str(error))
left = sorted(path.name for path in (folder / "checkpoints").iterdir())
assert bits(Checkpoints(folder).restore(target_of(state)).state) == bits(state)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoints.save(4, state, {}, {})
checkpoints.close()
print(json.dumps([messages, left, checkpoints.steps()]))
"""


def test_a_save_for_which_there_is_no_room_leaves_all_as_it_was(tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": python_path(here, here.parents[1])}
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "orbax" not in done.stderr
    messages, left, steps = json.loads(done.stdout.splitlines()[-1])
    assert [message.partition(" in /")[0] for message in messages] == [
        "The checkpoint of step 2 could not be saved",
        "The checkpoint of step 3 could not be saved",
    ]
    assert all("File too large" in message for message in messages)
    assert all(message.endswith(". The newest good one: that of step 1.") for message in messages)
    assert [name for name in left if not name.startswith("tmp-")] == ["1"]
    assert steps == [4]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_a_save_that_fails_frees_the_space_that_it_took(tmp_path, monkeypatch):
    def full(folder):
        assert files_of(tmp_path, "tmp-1")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.checkpoints.saving.write_manifest", full)
    with pytest.raises(CheckpointError, match=r"step 1 could not be saved.*No space left.*good one: none"):
        save(tmp_path, a_state({"w": jnp.ones(1)}))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_kill_while_a_checkpoint_is_replaced_loses_none(run, trained):
    folder = run / "checkpoints"
    shutil.copytree(folder / "6", folder / "tmp-6")
    (folder / "6").rename(folder / "old-6")
    target = make_trainer(run).program.state
    assert Checkpoints(run).steps() == [2, 4, 6]
    assert finished(run).step == read_params(run).step == Checkpoints(run).restore(target).meta["step"] == 6
    make_trainer(run, steps=7, keep_checkpoints=2).fit()
    assert sorted(path.name for path in folder.iterdir()) == ["6", "7"]
    assert read_params(run, step=6).step == 6


def test_what_a_killed_save_left_is_no_checkpoint_and_goes_away(run):
    shutil.copytree(run / "checkpoints" / "6", run / "checkpoints" / "tmp-8")
    assert Checkpoints(run).steps() == [2, 4, 6]
    make_trainer(run, steps=7).fit()
    assert not list((run / "checkpoints").glob("tmp-*"))


def test_a_save_that_fails_is_reported_at_the_next(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    checkpoints.save(1, a_state({"w": jnp.ones(1)}), {}, {})
    with pytest.raises(CheckpointError, match="could not be saved"):
        checkpoints.wait()
    with pytest.raises(CheckpointError, match="JSON-able"):
        checkpoints.save(1, a_state({"w": jnp.ones(1)}), {"position": object()}, {})
    checkpoints.close()


def test_orbax_is_quiet(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("absl").setLevel(logging.INFO)
    save(tmp_path, a_state({"w": jnp.ones(1)}))
    read_params(tmp_path)
    assert [record.message for record in caplog.records if "orbax" in record.pathname] == []


class Figure(Evaluator):
    """Gives `name` every so many steps."""

    def __init__(self, name, every):
        self.name, self.every = name, every

    def evaluate(self, *, step, **_):
        return Evaluation({self.name: float(step)})


def test_a_figure_that_no_evaluation_gives_ends_the_run_once_that_is_certain_and_loses_nothing(tmp_path):
    settings = dict(steps=12, checkpoint_every=100, eval_data=None)
    settings["evaluators"] = {"often": Figure("often", 2), "seldom": Figure("seldom", 6)}
    with pytest.raises(
        ConfigError, match=r"best_metric = 'seldm', .* Did you mean 'seldom'\?.* Step 6 is saved"
    ) as error:
        make_trainer(tmp_path, best=Best("seldm", "max", 1), **settings).fit()
    assert "\n" not in str(error.value)
    assert Checkpoints(tmp_path).steps() == [6]
    assert make_trainer(tmp_path, best=Best("seldom", "max", 1), **settings).fit().step == 12
    assert best_step(tmp_path, Best("seldom", "max", 1)) == 12
    make_trainer(tmp_path / "plain", **settings).fit()
    assert lines(tmp_path) == lines(tmp_path / "plain")


def test_after_the_last_step_a_figure_that_no_evaluation_gives_is_a_warning(tmp_path, caplog):
    settings = dict(steps=3, eval_every=0, best=Best("eval/los", "min", 1))
    assert make_trainer(tmp_path, **settings).fit().step == 3
    assert "best_metric = 'eval/los', but no evaluation gives it. Did you mean 'eval/loss'" in caplog.text
    assert finished(tmp_path).complete


def test_what_a_callback_adds_is_a_figure_too_and_no_evaluation_is_refused(tmp_path):
    class Adds(Callback):
        def on_eval(self, run, scalars):
            scalars["mine"] = 1.0

    best = Best("mine", "min", 1)
    assert make_trainer(tmp_path, steps=7, best=best, callbacks=[Adds()]).fit().step == 7
    with pytest.raises(ConfigError, match="best_metric = 'mine', but the run has no evaluation"):
        make_trainer(tmp_path / "none", best=best, eval_data=None, evaluators={}).fit()
    assert not (tmp_path / "none").exists()
