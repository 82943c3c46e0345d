"""Two processes that one command line each joins, on this machine: they train as one, and stop and go on together."""

import json
import signal

import numpy as np
import pytest
from fault_runs import FIRST, Runs, contents, error, free_port, lines, steps

SECOND = "--config=fault_config.py:second"


def both(runs: Runs, *arguments, at=""):
    """Starts the two processes of a run; the second one waits at the moment `at`."""
    address = f"localhost:{free_port()}"
    return [runs.start(*arguments, f"--distributed={address},2,{index}", at=at if index else "") for index in range(2)]


def ended(processes, code=0):
    """Waits for both."""
    codes = [process.end() for process in processes]
    assert codes == [code] * 2, "\n".join(process.printed for process in processes)
    return processes


def assert_close(run, other):
    """Asserts that two runs gave the same figures up to the order in which rows were added up."""
    for some, others in zip(lines(run), lines(other), strict=True):
        assert [name for name, _ in some] == [name for name, _ in others]
        np.testing.assert_allclose([v for _, v in some], [v for _, v in others], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="session")
def chain(once):
    """Both phases, trained by one process."""
    return once("chain", lambda runs: runs.run(SECOND)) / "logs"


def test_two_commands_train_all_phases_as_one_process_does(runs, chain):
    first, second = ended(both(runs, SECOND))
    assert "second: done, 20 steps" in first.printed
    assert "second: done" not in second.printed
    for name in ("first", "second"):
        assert_close(runs.folder / "logs" / name, chain / name)
    report = json.loads((runs.folder / "logs/second/config.json").read_text())
    assert report["upstream"]["base"]["step"] == 20


def test_a_signal_to_one_command_stops_both_in_an_upstream_phase_and_both_continue(runs, chain):
    processes = both(runs, SECOND, at="step:8")
    processes[1].reached().signal(signal.SIGTERM)
    processes[1].go()
    for process in ended(processes, 75):
        assert "Traceback" not in process.printed
    assert "first: stopped at step" in processes[0].printed
    saved = steps(runs.folder / FIRST)[-1]
    assert 8 <= saved < 20
    assert not (runs.folder / "logs/second").exists()
    first, _ = ended(both(runs, SECOND))
    assert f"first: continues at step {saved}" in first.printed
    for name in ("first", "second"):
        assert_close(runs.folder / "logs" / name, chain / name)


def test_what_is_wrong_is_said_by_both_and_leaves_nothing(runs):
    before = contents(runs.folder)
    for process in ended(both(runs, SECOND, "--config.task.target=fault_parts:Absent"), 1):
        assert "has no 'Absent'" in error(process)
    assert contents(runs.folder) == before
