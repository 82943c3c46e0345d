"""`kill -9` at any moment: the run that is started again ends as if nothing had happened."""

import contextlib
import random
import time

import pytest
from fault_runs import CONFIG, FIRST, result, steps

LONG = (CONFIG, "--config.steps=45")
SEED = 20
# Four kills in each of five chains; `saving` is sure to fall into a save, `seen_saving` almost always does.
CHAINS = (
    ("running", "saving", "running", "seen_saving"),
    ("starting", "seen_saving", "running", "saving"),
    ("saving", "running", "starting", "running"),
    ("running", "running", "saving", "running"),
    ("seen_saving", "saving", "seen_saving", "running"),
)


@pytest.fixture(scope="session")
def long_run(once):
    """What the run comes to when nothing happens."""
    return result(once("long", lambda runs: runs.run(*LONG)) / FIRST)


def unfinished(run):
    """The checkpoints that are being written, or were when a process was killed."""
    found = set()
    for path in (run / "checkpoints").glob("tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ctime_ns))
    return found


def kill(runs, kind, random, leg):
    """Starts the run and kills it at a random moment of its `leg`-th ten steps; returns what happened."""
    run, moment = runs.folder / FIRST, ""
    before = unfinished(run)
    if kind == "saving":
        # A save brings some thirty files to the disk, one after the other; two of them fall into ten steps.
        number = random.randint(1, 50)
        process = runs.start(*LONG, at=f"save:{number}", pace=0.002).reached()
        moment = f"file {number}"
    elif kind == "seen_saving":
        process = runs.start(*LONG, at=f"step:{leg * 10 + 12}", pace=0.01)
        process.until(lambda: unfinished(run) - before, "a save")
        time.sleep(random.uniform(0, 0.15))
    elif kind == "running":
        after = f"step {random.randint(leg * 10, leg * 10 + 8) + 1}"
        process = runs.start(*LONG, at=f"step:{leg * 10 + 12}", pace=0.01)
        process.until(lambda: after in process.trace, after)
        time.sleep(random.uniform(0, 0.05))
        moment = after
    else:
        process = runs.start(*LONG, at=f"step:{leg * 10 + 1}")
        time.sleep(random.uniform(0, 3))  # imports, data, restoring, compilation
    process.kill()
    moment = moment or (process.trace[-1] if process.trace else "before the first step")
    return f"{kind}: {moment}; checkpoints {steps(run)}", bool(unfinished(run) - before)


@pytest.mark.parametrize("chain", range(len(CHAINS)))
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_as_the_undisturbed_one(runs, long_run, chain):
    dice = random.Random(f"{SEED}-{chain}")
    killed = [kill(runs, kind, dice, leg) for leg, kind in enumerate(CHAINS[chain])]
    story = f"seed {SEED}\n" + "\n".join(line for line, _ in killed)
    for kind, (line, saving) in zip(CHAINS[chain], killed, strict=True):
        assert saving or kind != "saving", f"not in a save: {line}\n{story}"
    assert "continues at step" in runs.run(*LONG).printed, story
    assert result(runs.folder / FIRST) == long_run, story
