"""The agent in `results/` can be loaded, and is as good as its figures say."""

import re
from pathlib import Path

import jax
import pytest
from chain_runs import ROOT

from trainer.upstream import load_upstream
from trainer.writers import read_jsonl

DEMO = Path("results") / "demo"
RUNS = ("tokenizer-cpu", "dynamics-cpu", "heads-cpu", "imagination_rl-cpu")


@pytest.fixture
def place(monkeypatch):
    """The folder that the runs' paths start from."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("run", RUNS)
def test_a_shipped_run_can_be_built_on(place, run):
    (*_, last) = read_jsonl(DEMO / run / "metrics.jsonl")
    assert load_upstream(DEMO / run).step == last["step"]


def test_what_is_shipped_is_small_and_knows_no_machine():
    files = [path for path in (ROOT / DEMO).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if "checkpoints" in path.parts) < 20e6
    for path in files:
        if path.suffix in (".json", ".jsonl", ".html"):
            assert not re.search(r"/(root|home|tmp|work)/", path.read_text()), path


def test_the_shipped_agent_acts_as_well_as_its_figures_say(place, contents):
    before, figure = contents(DEMO), "control/normalized_return"
    agent = load_upstream(DEMO / "imagination_rl-cpu")
    measured = agent.task.evaluators()["control"].evaluate(
        params=agent.params, frozen=agent.frozen, extra=None, rng=jax.random.key(1), batches=[], step=agent.step
    )
    (*_, claimed) = (line[figure] for line in read_jsonl(agent.run / "metrics.jsonl") if figure in line)
    assert measured.scalars[figure] == pytest.approx(claimed, abs=0.05)  # other episodes
    assert contents(DEMO) == before
