"""`kill -9` at any moment: the run that is started again ends as if nothing had happened."""

import contextlib
import random
import shutil
import time

import pytest
from fault_runs import CONFIG, FIRST, Runs, result, steps

LONG = (CONFIG, "--config.steps=45")
SEED = 20
# Four kills in each of five chains; `saving` is sure to fall into a save, `seen_saving` almost always does.
CHAINS = (
    ("running", "saving", "evaluating", "seen_saving"),
    ("starting", "seen_saving", "running", "saving"),
    ("saving", "evaluating", "starting", "running"),
    ("running", "running", "saving", "evaluating"),
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
    elif kind == "evaluating":
        moment = f"eval:{random.choice([n for n in range(leg * 10 + 1, leg * 10 + 11) if n % 4 == 0])}"
        process = runs.start(*LONG, at=moment).reached()
    else:
        process = runs.start(*LONG, at=f"step:{leg * 10 + 1}")
        time.sleep(random.uniform(0, 3))  # imports, data, restoring, compilation
    process.kill()
    moment = moment or (process.trace[-1] if process.trace else "before the first step")
    return f"{kind}: {moment}; checkpoints {steps(run)}", bool(unfinished(run) - before)


def finish_a_copy(runs, name):
    """Runs a copy of what a kill has left to its end; returns that, and whether it was continued as it should be."""
    copy = Runs(runs.folder.parent / name, runs.cache)
    try:
        if (runs.folder / "logs").exists():
            shutil.copytree(runs.folder / "logs", copy.folder / "logs")
        saved = steps(copy.folder / FIRST)
        printed = copy.run(*LONG).printed
    finally:
        copy.close()
    return result(copy.folder / FIRST), ("continues at step" in printed) == bool(saved)


@pytest.mark.parametrize("chain", range(len(CHAINS)))
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_as_the_undisturbed_one(runs, long_run, chain):
    """Each process goes on from what the kill before left; beside it, a copy of that is run to its end."""
    dice, story = random.Random(f"{SEED}-{chain}"), f"seed {SEED}"
    for leg, kind in enumerate(CHAINS[chain]):
        line, saving = kill(runs, kind, dice, leg)
        story += f"\n{line}"
        assert saving or kind != "saving", f"not in a save: {story}"
        end, continued = finish_a_copy(runs, f"after-{leg}")
        assert continued, story
        assert end == long_run, story
