"""A callback, writer or evaluator that raises is named, and the run goes on without it."""

import pytest
from fault_runs import CONFIG, FIRST, contents, error, result, steps

GOES_ON = "--config.on_save_error=continue"
CALLBACK, WRITER = "callbacks.fault", "writers.fault"


def broken(group, method):
    """Words of the command line that add a part which raises in `method`."""
    kind = {CALLBACK: ("Broken", "hook"), WRITER: ("BrokenWriter", "method")}[group]
    return [CONFIG, f"--config.{group}.target=culprit_parts:{kind[0]}", f"--config.{group}.{kind[1]}={method}"]


@pytest.mark.parametrize(
    ("group", "method", "saved"),
    [
        (CALLBACK, "on_step_end", [5]),
        (CALLBACK, "on_eval", [5]),
        (CALLBACK, "on_checkpoint", [5, 10]),
        (CALLBACK, "state", [5]),
        (CALLBACK, "on_fit_end", [10, 15, 20]),
        (WRITER, "write_scalars", [5]),
        (WRITER, "flush", [5]),
        (WRITER, "close", [10, 15, 20]),
    ],
)
def test_a_callback_or_writer_that_raises_is_named_and_the_run_continues_without_it(
    runs, undisturbed, group, method, saved
):
    process = runs.run(*broken(group, method), code=1)
    last = process.printed[process.printed.index("is broken") :]  # after all that led there
    assert f"raised in {'Broken' if group == CALLBACK else 'BrokenWriter'}.{method}" in last, process.printed
    run = runs.folder / FIRST
    assert steps(run) == saved
    assert f"continues at step {saved[-1]}" in runs.run().printed
    assert result(run) == undisturbed


def test_a_callback_that_raises_while_the_run_may_do_without_a_save_is_named_too(runs):
    process = runs.start(*broken(CALLBACK, "on_checkpoint"), "--config.callbacks.fault.system=true", GOES_ON)
    process.end()
    last = process.printed[process.printed.index("is broken") :]
    assert "raised in Broken.on_checkpoint" in last, process.printed


def test_an_evaluator_that_raises_is_named_and_the_run_continues_when_it_is_repaired(runs, undisturbed):
    (runs.folder / "broken").touch()
    process = runs.run(code=1)
    last = process.printed[process.printed.index("the evaluator is broken") :]
    assert "raised in the evaluator 'level' at step 4" in last, process.printed
    assert "in evaluate" in process.printed
    (runs.folder / "broken").unlink()
    runs.run()
    assert result(runs.folder / FIRST) == undisturbed


def test_an_evaluator_belongs_to_a_run_and_cannot_be_left_out_later(runs, half):
    before = contents(runs.folder)
    process = runs.run(CONFIG, "--config.evaluators.level=none", code=1)
    message = error(process, lines=5)
    assert 'evaluators.level.target: "fault_parts:Level" → (absent)' in message
    assert contents(runs.folder) == before
