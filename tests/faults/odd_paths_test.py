"""Paths with spaces and letters of other alphabets, for everything that has a path."""

import shlex
import shutil

import pytest
from fault_runs import Runs, error, result

ODD = "Läufe & Träume 模型 'x'"


@pytest.fixture
def odd(tmp_path, shared):
    """Starts processes in a folder with such a name, in which the config has one too."""
    runs = Runs(tmp_path / ODD, shared / "cache")
    (runs.folder / "fault_config.py").rename(runs.folder / f"{ODD}.py")
    yield runs
    runs.close()


@pytest.mark.parametrize("place", ["root", "workdir", "name"])
def test_a_run_in_an_odd_place_is_trained_and_continued(odd, undisturbed, place):
    word = {"root": f"--config.root={ODD}", "workdir": f"--workdir={ODD}/first", "name": f"--config.name={ODD}"}[place]
    run = odd.folder / {"root": f"{ODD}/first", "workdir": f"{ODD}/first", "name": f"logs/{ODD}"}[place]
    process = odd.start(f"--config={ODD}.py:first", word, at="step:8").reached()
    process.until((run / "checkpoints/5").exists, "the checkpoint")
    process.kill()
    stored = run.relative_to(odd.folder) / "config.json"
    assert "continues at step 5" in odd.run(f"--config={stored}").printed
    assert result(run) == undisturbed


def test_a_run_in_an_odd_place_is_evaluated_and_protected(odd, killed):
    shutil.copytree(killed / "logs", odd.folder / ODD)
    words = [f"--config={ODD}/first/config.json", "--mode=eval", "--config.writers.console.target=console"]
    assert "level/mean" in odd.run(*words).printed
    refused = error(odd.run(f"--config={ODD}.py:first", f"--config.root={ODD}", "--config.seed=1", code=1), lines=5)
    assert "seed: 0 → 1" in refused
    assert shlex.quote(f"--config={ODD}/first/config.json") in refused


def test_an_odd_place_needs_no_locale(odd, undisturbed):
    odd.run(f"--config={ODD}.py:first", f"--config.root={ODD}", LC_ALL="C")
    assert "continues at step 20" in odd.run(f"--config={ODD}/first/config.json", LC_ALL="C").printed
    assert result(odd.folder / ODD / "first") == undisturbed
