"""The agent in `results/` can be loaded, and is as good as its figures say."""

import re
import shutil
from pathlib import Path

import pytest
from chain_runs import ROOT

from trainer.upstream import load_upstream
from trainer.writers import read_jsonl

DEMO = Path("results") / "demo"
RUNS = ("tokenizer-cpu", "dynamics-cpu", "heads-cpu", "imagination_rl-cpu")


@pytest.fixture
def shipped(home, tmp_path, monkeypatch):
    """A copy of the results, in the current folder, and small data."""
    shutil.copytree(ROOT / DEMO, tmp_path / DEMO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(home.data))
    return tmp_path / DEMO


@pytest.mark.parametrize("run", RUNS)
def test_a_shipped_run_can_be_built_on(shipped, run):
    loaded = load_upstream(DEMO / run)
    (*_, last) = read_jsonl(shipped / run / "metrics.jsonl")
    assert loaded.step == last["step"]


def test_what_is_shipped_is_small_and_knows_no_machine():
    files = [path for path in (ROOT / DEMO).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if "checkpoints" in path.parts) < 20e6
    for path in files:
        if path.suffix in (".json", ".jsonl", ".html"):
            assert not re.search(r"/(root|home|tmp|work)/", path.read_text()), path


def test_the_shipped_agent_acts_as_well_as_its_figures_say(shipped, main, contents):
    before = contents(shipped)
    small = ("--config.data.name=bouncing_square/tiny", "--config.task.evaluation.episodes=64")
    code, printed = main(f"--config={DEMO}/imagination_rl-cpu/config.json", "--mode=eval", *small)
    assert code == 0, printed
    (measured,) = re.findall(r"control/normalized_return (\S+)", printed)
    (*_, claimed) = (
        line["control/normalized_return"]
        for line in read_jsonl(shipped / "imagination_rl-cpu" / "metrics.jsonl")
        if "control/normalized_return" in line
    )
    assert float(measured) == pytest.approx(claimed, abs=0.1)  # 64 episodes instead of 256
    assert contents(shipped) == before
