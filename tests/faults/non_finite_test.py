"""NaN in data, loss and gradients: single ones are left out and counted, lasting ones end the run."""

import re

import jax
import numpy as np
import pytest
from fault_runs import CONFIG, FIRST, error, lines, result, steps

from trainer.checkpoints import finished, read_params


def places(updates):
    """Where the numbers of bad updates, counted from 1, go: batches are counted from 1, steps from 0."""
    return {
        "data": f"--config.data.bad={tuple(updates)}",
        "loss": f"--config.task.bad_loss={tuple(n - 1 for n in updates)}",
        "gradient": f"--config.task.bad_gradient={tuple(n - 1 for n in updates)}",
    }


def skipped(run):
    return [line["step"] for line in map(dict, lines(run)) if line.get("train/update_skipped")]


@pytest.mark.parametrize("place", ["data", "loss", "gradient"])
def test_single_bad_updates_are_left_out_and_counted(runs, undisturbed, place):
    run = runs.folder / FIRST
    runs.run(CONFIG, places([4, 11, 12])[place], "--config.log_every=1")
    assert skipped(run) == [4, 11, 12]
    assert sum(dict(line).get("train/update_skipped", 0) for line in lines(run)) == 3
    assert steps(run) == [10, 15, 20]
    for leaf in jax.tree.leaves(read_params(run).params):
        assert np.isfinite(leaf).all()
    assert result(run)["state"].keys() == undisturbed["state"].keys()
    assert result(run)["parameters"] != undisturbed["parameters"]


@pytest.mark.parametrize("place", ["data", "loss", "gradient"])
def test_lasting_bad_updates_end_the_run_with_the_last_good_checkpoint_named(runs, place):
    run = runs.folder / FIRST
    bad = [CONFIG, places(range(8, 21))[place], "--config.log_every=1", "--config.callbacks.guard.windows=5"]
    message = error(runs.run(*bad, code=1))
    assert "At step 12, 100% of the updates" in message
    assert "step 5 in logs/first/checkpoints" in message  # 10 was saved in bad times
    assert skipped(run) == [8, 9, 10, 11, 12]
    for leaf in jax.tree.leaves(read_params(run, 5).params):
        assert np.isfinite(leaf).all()


def test_the_last_good_checkpoint_that_is_named_is_still_there(runs):
    words = [places(range(8, 21))["loss"], "--config.log_every=1", "--config.callbacks.guard.windows=5"]
    message = error(runs.run(CONFIG, *words, "--config.keep_checkpoints=1", code=1))
    named = re.search(r"step (\d+) in logs/first/checkpoints", message)
    assert named, message
    assert int(named[1]) in steps(runs.folder / FIRST), message


def test_a_run_in_which_no_update_was_applied_is_not_finished(runs):
    message = error(runs.run(CONFIG, places(range(1, 21))["data"], "--config.log_every=20", code=1))
    assert "At step 20, 100% of the updates" in message
    assert not finished(runs.folder / FIRST).complete
