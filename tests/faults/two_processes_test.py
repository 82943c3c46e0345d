"""Two processes in one run folder: the second is refused, the first does not notice."""

from fault_runs import FIRST, contents, error, result


def test_the_second_process_is_refused_at_once_and_the_first_is_not_disturbed(runs, undisturbed):
    process = runs.start(at="step:8").reached()
    process.until((runs.folder / FIRST / "checkpoints/5").exists, "the checkpoint")
    before = contents(runs.folder)
    message = error(runs.run(code=1))
    assert f"Another process (pid {process.pid}) is using the run folder logs/first" in message
    assert contents(runs.folder) == before
    process.go()
    assert process.end() == 0, process.printed
    assert result(runs.folder / FIRST) == undisturbed


def test_a_run_that_another_process_has_finished_meanwhile_is_not_trained_twice(runs, undisturbed):
    process = runs.start(at="prepare").reached()
    runs.run()
    process.go()
    assert process.end() == 0, process.printed
    assert process.trace == ["start 20"]
    assert result(runs.folder / FIRST) == undisturbed
