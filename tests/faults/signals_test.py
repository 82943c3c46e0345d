"""SIGTERM at any time: what was done is saved, exit code 75, and the same command continues bit for bit."""

import shutil
import signal
import time

import pytest
from fault_runs import CONFIG, FIRST, free_port, result, steps

SECOND = "--config=fault_config.py:second"


def stopped(process, number=signal.SIGTERM):
    """Sends the signal at the moment that the process waits at, and expects exit code 75."""
    process.reached().signal(number)
    process.go()
    assert process.end() == 75, process.printed
    assert f"received {number.name}; start it again to continue" in process.printed
    return process


@pytest.mark.parametrize(
    ("moment", "saved", "number"),
    [
        ("step:8", [5, 8], signal.SIGTERM),
        ("step:10", [5, 10], signal.SIGUSR1),  # the step of a checkpoint
        ("eval:8", [5, 8], signal.SIGTERM),
        ("eval:20", [10, 15, 20], signal.SIGTERM),  # after the last step
        ("trace", [1], signal.SIGTERM),  # while the first step is compiled
        ("save:3", None, signal.SIGINT),  # how far the steps are by then depends on the machine
    ],
)
def test_a_stopped_run_saves_where_it_is_and_continues_bit_for_bit(runs, undisturbed, moment, saved, number):
    process = stopped(runs.start(at=moment), number)
    run = runs.folder / FIRST
    done = steps(run)
    assert done == (saved or [5, done[-1]])
    assert f"stopped at step {done[-1]}" in process.printed
    assert f"continues at step {done[-1]}" in runs.run().printed
    assert result(run) == undisturbed


def test_a_signal_in_the_middle_of_a_compilation_is_heeded_after_the_first_step(runs, tmp_path):
    settings = ("--config.task.target=fault_parts:Slow", f"--config.compilation_cache={tmp_path}/new")
    process = runs.start(CONFIG, *settings)
    process.until((process.place / "compiling").exists, "the compilation of the step")
    time.sleep(0.1)
    process.signal(signal.SIGTERM)
    time.sleep(0.1)
    assert "step 1" not in process.trace
    assert process.end() == 75, process.printed
    assert steps(runs.folder / FIRST) == [1]
    assert "continues at step 1" in runs.run(CONFIG, *settings).printed
    ended = result(runs.folder / FIRST)
    shutil.rmtree(runs.folder / "logs")
    runs.run(CONFIG, *settings)
    assert result(runs.folder / FIRST) == ended


@pytest.fixture(scope="session")
def chain(once):
    """What both phases come to when nothing happens."""
    folder = once("chain", lambda runs: runs.run(SECOND))
    return [result(folder / "logs" / name) for name in ("first", "second")]


def test_a_stop_in_an_upstream_phase_ends_the_chain_and_the_same_command_continues_it(runs, chain, undisturbed):
    process = stopped(runs.start(SECOND, at="step:8"))
    assert "the run in logs/first is missing; training it first" in process.printed
    assert steps(runs.folder / FIRST) == [5, 8]
    assert not (runs.folder / "logs/second").exists()
    again = runs.run(SECOND)
    assert "the run in logs/first is unfinished; continuing it first" in again.printed
    assert "first: continues at step 8" in again.printed
    assert [result(runs.folder / "logs" / name) for name in ("first", "second")] == chain
    assert chain[0] == undisturbed


@pytest.mark.parametrize("moment", ["config", "import", "prepare"])
def test_a_stop_before_the_first_step_leaves_a_folder_that_starts_cleanly(runs, undisturbed, moment):
    stopped(runs.start(at=moment))
    assert not (runs.folder / FIRST).exists()
    runs.run()
    assert result(runs.folder / FIRST) == undisturbed


def test_a_stop_before_a_run_continues_leaves_it_as_it_was(runs, half, undisturbed):
    stopped(runs.start(at="prepare"))
    assert steps(half) == [5, 10]
    assert "continues at step 10" in runs.run().printed
    assert result(half) == undisturbed


def test_a_stop_while_other_processes_are_waited_for_leaves_nothing(runs):
    process = runs.start(CONFIG, f"--distributed=localhost:{free_port()},2,0")
    process.until(lambda: "waiting for 2 processes" in process.printed, "the wait")
    process.signal(signal.SIGTERM)
    assert process.end() == 75, process.printed
    assert "received SIGTERM; start it again" in process.printed
    assert not (runs.folder / "logs").exists()


def test_a_stop_while_a_chain_is_checked_leaves_nothing(runs):
    stopped(runs.start(SECOND, at="prepare"))
    assert not (runs.folder / "logs").exists()


@pytest.mark.parametrize(("moment", "number"), [("step:8", signal.SIGTERM), ("prepare", signal.SIGINT)])
def test_a_stop_ends_a_try_out_of_all_phases_and_nothing_is_kept(runs, moment, number):
    process = runs.start(SECOND, "--fast_dev_run=20", at=moment).reached()
    process.signal(number)
    process.go()
    assert process.end() == 130, process.printed
    assert f"fast_dev_run: stopped in base: received {number.name}; nothing was kept" in process.printed
    assert "of second" not in process.printed
    assert "continue" not in process.printed
    assert "saving" not in process.printed
    assert "step 9" not in process.trace
    assert [path.name for path in runs.folder.iterdir()] == ["fault_config.py"]
