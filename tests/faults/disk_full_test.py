"""A disk that is full while a checkpoint is saved: the run says so and keeps the last good one."""

import os
import subprocess

import pytest
from fault_runs import CONFIG, FIRST, error, result, steps

GOES_ON = "--config.on_save_error=continue"


def small_files(first, last=0):
    """A part for the command line: the system refuses larger files, EFBIG."""
    target = "--config.callbacks.fault.target=culprit_parts:SmallFiles"
    return [CONFIG, target, f"--config.callbacks.fault.first={first}", f"--config.callbacks.fault.last={last}"]


def full_disk(first, last=0):
    """A part for the command line: the disk is full, ENOSPC."""
    return [small.replace("SmallFiles", "FullDisk") for small in small_files(first, last)]


@pytest.fixture
def tmpfs(runs):
    """A disk of 4 MB where runs lie."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    disk = runs.folder / "logs"
    disk.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "faults", disk], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.decode().strip()}")
    yield disk
    runs.close()
    subprocess.run(["umount", disk], check=True)


@pytest.fixture(params=[small_files, full_disk], ids=["EFBIG", "ENOSPC"])
def fault(request):
    """Both ways in which a file cannot be written; the second needs a disk of its own."""
    if request.param is full_disk:
        request.getfixturevalue("tmpfs")
    return request.param


def test_a_full_disk_stops_the_run_with_the_last_good_checkpoint_named(runs, undisturbed, fault):
    run = runs.folder / FIRST
    message = error(runs.run(*fault(7), code=1))
    assert "checkpoint" in message
    assert "step 5" in message.lower() or "checkpoints/5" in message
    assert steps(run) == [5]
    (run.parent / "filler").unlink(missing_ok=True)
    assert "continues at step 5" in runs.run().printed
    assert result(run) == undisturbed


def test_a_run_that_may_go_on_tries_again_at_the_next_checkpoint(runs, undisturbed, fault):
    run = runs.folder / FIRST
    process = runs.run(*fault(7, 13), GOES_ON)
    said = [line for line in process.printed.splitlines() if "on_save_error" in line]
    assert len(said) == 1, process.printed
    assert "step 5" in said[0].lower() or "checkpoints/5" in said[0], said[0]
    assert steps(run) == [5, 15, 20]
    assert result(run) == undisturbed


def test_a_failed_save_that_is_noticed_late_does_not_cost_the_next_one(runs, undisturbed):
    run = runs.folder / FIRST
    runs.run(*small_files(7, 13), GOES_ON, "--config.log_every=50")
    assert steps(run) == [5, 15, 20]
    assert result(run)["state"] == undisturbed["state"]


def test_a_run_that_may_go_on_fails_where_its_last_checkpoint_cannot_be_saved(runs, undisturbed):
    run = runs.folder / FIRST
    message = error(runs.run(*small_files(7), GOES_ON, code=1))
    assert "step 5" in message.lower() or "checkpoints/5" in message
    assert steps(run) == [5]
    assert "continues at step 5" in runs.run().printed
    assert result(run) == undisturbed


def test_metrics_that_cannot_be_written_end_the_run_with_a_message(runs, undisturbed):
    message = error(runs.run(*small_files(7), "--config.callbacks.fault.size=600", code=1))
    assert "metrics.jsonl" in message or "JsonlWriter.write_scalars" in message
    assert "continues at step 5" in runs.run().printed
    assert result(runs.folder / FIRST) == undisturbed
