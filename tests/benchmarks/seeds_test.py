import json

import pytest

from benchmarks import readme, runs, seeds


@pytest.fixture
def chains(tmp_path, monkeypatch):
    """Chains whose runs end at once; the figures of a seed are its number, and what every phase was told is kept."""
    monkeypatch.setattr(seeds, "RESULTS", tmp_path / "seeds.json")
    told = []

    def train(phase, root, name, changes, *, preset):
        told.append((name, dict(changes)))
        run = root / name
        run.mkdir(parents=True, exist_ok=True)
        line = {"step": 1, seeds.PREFIX[phase] + "figure": changes["seed"], "train/loss": 1.0}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")

    monkeypatch.setattr(seeds, "train", train)
    return tmp_path, told


def test_every_phase_has_the_seed_and_builds_on_the_one_before(chains):
    folder, told = chains
    assert seeds.main([f"--logs={folder}", "--seeds=1", "--seeds=2"]) == 0
    root = folder / "seed-1"
    assert told[:4] == [
        ("tokenizer-cpu", {"seed": 1}),
        ("dynamics-cpu", {"seed": 1, "upstream.tokenizer.run": str(root / "tokenizer-cpu")}),
        ("heads-cpu", {"seed": 1, "upstream.dynamics.run": str(root / "dynamics-cpu")}),
        ("imagination_rl-cpu", {"seed": 1, "upstream.heads.run": str(root / "heads-cpu")}),
    ]
    results = json.loads((folder / "seeds.json").read_text())
    assert results["2"]["figures"] == dict.fromkeys(
        ["eval/figure", "rollout/figure", "heads/figure", "control/figure"], 2
    )
    assert results["2"]["minutes"] == 0
    assert seeds.measure(2, folder)["minutes"] is None  # it was there before


def test_the_readme_quotes_the_worst_seed(tmp_path, monkeypatch):
    demo = seeds.of_chain(readme.RESULTS)
    better, worse = ({name: value + shift for name, value in demo.items()} for shift in (1, -1))
    monkeypatch.setattr(readme, "SEEDS", tmp_path / "seeds.json")
    assert "worst" not in readme.table()
    (tmp_path / "seeds.json").write_text(json.dumps({"1": {"figures": better}, "2": {"figures": worse}}))
    table = readme.table()
    assert f"dB (worst of 3 seeds: {worse['rollout/psnr_k4']:.1f})" in table
    assert f"nats (worst of 3 seeds: {better['heads/cross_entropy_1']:.3f})" in table  # the higher, the worse


def test_the_curves_are_those_of_the_runs_and_are_drawn(tmp_path, monkeypatch):
    curves = seeds.curves_of_chain(readme.RESULTS)
    last = seeds.of_chain(readme.RESULTS)
    for figures in curves.values():
        trained, measured = figures.items()
        assert len(trained[1]) > len(measured[1]) > 1
        assert measured[1][-1] == (trained[1][-1][0], pytest.approx(last[measured[0]], rel=1e-3))
    monkeypatch.setattr(readme, "SEEDS", tmp_path / "seeds.json")
    monkeypatch.setattr(readme, "IMAGES", tmp_path)
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    readme.README.write_text(readme.BEGIN + readme.END)
    pictures = []
    for others in (
        {},
        {
            "1": {
                "figures": last,
                "curves": {**curves, "heads": curves["heads"] | {"train/cross_entropy_1": [(0, 1.0), (9, 2.0)]}},
            }
        },
    ):
        readme.SEEDS.write_text(json.dumps(others))
        readme.rewrite()
        pictures.append((tmp_path / "learning.png").read_bytes())
    assert pictures[0] != pictures[1]  # the other seed's curve is there


def test_values_are_written_as_the_command_line_reads_them(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        runs.subprocess, "run", lambda command, **_: calls.append(command) or type("", (), {"returncode": 0})
    )
    assert runs.train("dynamics", tmp_path, "run", {"task.model.residual": False, "steps": 3}) == tmp_path / "run"
    assert calls[0][2:] == [
        "trainer", "--config=configs/dynamics.py:cpu", f"--config.root={tmp_path}", "--config.name=run",
        "--config.task.model.residual=false", "--config.steps=3",
    ]  # fmt: skip
