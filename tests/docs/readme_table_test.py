"""The README's table says what `results/` holds."""

import json
import re

import pytest

from benchmarks import readme
from trainer.config import base_config
from trainer.writers import read_jsonl


def test_the_table_is_the_one_that_the_results_give():
    text = readme.README.read_text()
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    assert text.split(readme.BEGIN)[1].split(readme.END)[0] == readme.table()


@pytest.mark.parametrize(
    ("phase", "figure", "shown"),
    [
        ("tokenizer", "eval/psnr", "{:.1f} dB"), ("tokenizer", "eval/psnr_masked", "{:.1f} dB"),
        ("dynamics", "rollout/psnr_finest", "{:.1f} dB"), ("dynamics", "rollout/psnr_k4", "{:.1f} dB"),
        ("heads", "heads/cross_entropy_1", "{:.3f} nats"), ("imagination_rl", "control/normalized_return", "{:.2f}"),
    ],
)  # fmt: skip
def test_a_row_shows_the_last_figure_of_its_phase(phase, figure, shown):
    *_, last = (
        line[figure] for line in read_jsonl(readme.RESULTS / f"{phase}-cpu" / "metrics.jsonl") if figure in line
    )
    (row,) = re.findall(rf"^\| [^|]*`{figure}`[^|]*\| ([^|]*) \|", readme.table(), re.MULTILINE)
    assert row.split(" (worst of")[0] == shown.format(last)


def test_the_limit_of_hidden_patches_is_that_of_the_runs_own_patches():
    about = json.loads((readme.RESULTS / "about.json").read_text())
    assert about["masked_limit"] == pytest.approx(readme.limit_of_hidden(readme.RESULTS / "tokenizer-cpu"), abs=1e-3)


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name, folder in (("ROOT", "."), ("RESULTS", "results/demo"), ("IMAGES", "images")):
        monkeypatch.setattr(readme, name, tmp_path / folder)
    (tmp_path / "images").mkdir()
    return tmp_path


def test_a_demo_is_taken_with_its_pictures(place, monkeypatch):
    packed = []

    def pack(config, folder, target):
        packed.append((config["name"], str(folder), str(target)))
        for phase in readme.PHASES:
            (target / f"{phase}-cpu").mkdir(parents=True)
            (target / f"{phase}-cpu" / "metrics.jsonl").write_text('{"step": 2}\n')
        return [target / f"{phase}-cpu" for phase in readme.PHASES]

    monkeypatch.setattr(readme, "pack", pack)
    (place / "results" / "demo" / "heads-cpu").mkdir(parents=True)
    (place / "results" / "demo" / "heads-cpu" / "old").touch()
    for phase in readme.PHASES:
        (place / "logs" / f"{phase}-cpu" / "media").mkdir(parents=True)
    config = base_config()
    config.name = "imagination_rl-cpu"
    stored = {"version": "0", "config": config.to_dict()}
    (place / "logs" / "imagination_rl-cpu" / "config.json").write_text(json.dumps(stored))
    for phase, picture in readme.PICTURES.values():
        (place / "logs" / f"{phase}-cpu" / "media" / f"{picture}.png").write_bytes(picture.encode())
    readme.take(place / "logs", {"minutes": 60})
    assert packed == [("imagination_rl-cpu", "logs/imagination_rl-cpu", "results/demo")]  # no path of this machine
    assert [path.name for path in sorted((place / "results" / "demo" / "heads-cpu").iterdir())] == ["metrics.jsonl"]
    assert (place / "images" / "control.png").read_text() == "control_episodes"
    assert json.loads((place / "results" / "demo" / "about.json").read_text()) == {"minutes": 60}
