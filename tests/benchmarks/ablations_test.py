import json
import re
from pathlib import Path

import pytest

from benchmarks import ablations, runs
from benchmarks.ablations import ABLATIONS, FIGURES
from models.dynamics import DynamicsConfig
from models.shortcut import ShortcutConfig
from trainer.config import load_config
from trainer.overrides import override_all
from trainer.plugins import build


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_its_baseline_with_something_changed(name):
    ablation = ABLATIONS[name]
    config = load_config(f"configs/{ablation.phase}.py:cpu")
    before = config.to_json()
    override_all(config, [(field, runs._text(value)) for field, value in ablation.changes.items()])
    build(config.task, "tasks")
    if ablation.phase == "dynamics":  # settings that exclude each other
        model = DynamicsConfig.from_dict(config.task.model.to_dict())
        objective = ShortcutConfig(**config.task.objective.to_dict(), prediction=model.prediction)
        assert objective.forcing == "teacher" or not model.residual
    assert (config.to_json() == before) == (not ablation.against)
    if ablation.against:
        assert ABLATIONS[ablation.against].phase == ablation.phase
        assert set(ABLATIONS[ablation.against].changes) <= set(ablation.changes)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Runs that end at once with figures of their own, and a recipe to write into."""
    (tmp_path / "recipe.md").write_text(f"before\n{ablations.BEGIN}old\n{ablations.END}after\n")
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "ablations.json")
    monkeypatch.setattr(ablations, "RECIPE", tmp_path / "recipe.md")
    started = []

    def train(phase, root, name, changes, *, preset):
        started.append((phase, name, dict(changes)))
        run = root / name
        run.mkdir(parents=True)
        lines = [{"step": n, figure: n + changes["seed"] / 4} for n in (1, 2) for figure in FIGURES[phase]]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    monkeypatch.setattr(ablations, "train", train)
    monkeypatch.setattr(ablations, "commit_of", lambda folder: f"abc{len(started)}")
    return tmp_path, started


def test_rows_are_trained_on_the_demo_and_land_in_the_recipe(fakes):
    folder, started = fakes
    about = ["--machine=two cores", f"--logs={folder}"]
    assert ablations.main(["--only=dynamics", "--only=ramp", *about]) == 0
    assert [name for _, name, _ in started] == ["dynamics-0", "dynamics-1", "ramp-0", "ramp-1"]
    fields = started[-1][2]
    assert fields["upstream.tokenizer.run"] == str(folder / "tokenizer-cpu")
    assert (fields["seed"], fields["task.objective.ramp"]) == (1, 0.9)
    assert ablations.main(["--only=tokenizer", *about]) == 0
    text = (folder / "recipe.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| ramp 0.9 | 2.000, 2.250 | 2.000, 2.250 |" in text  # the last value of each seed
    for row, commit in (("ramp 0.9", "abc2"), ("the preset", "abc4")):  # each keeps the commit that it was measured at
        assert re.search(rf"^\| {row} \|.*\| {commit} \|$", text, re.MULTILINE)
    assert text.index("| tokenizer, 300 steps |") < text.index("| dynamics, 800 steps |")


def test_a_run_that_fails_says_where_its_output_is(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "ablations.json")
    arguments = ["--only=ramp", f"--logs={tmp_path}", "--machine=two cores"]
    monkeypatch.setattr("sys.executable", "false")
    assert ablations.main(arguments) == 1
    assert str(Path("ablations") / "ramp-0.log") in capfd.readouterr().err
    assert not (tmp_path / "ablations.json").exists()
