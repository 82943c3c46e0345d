"""The README's table says what `results/` holds."""

import json
import re

import pytest

from benchmarks import readme
from trainer.writers import read_jsonl


def test_the_table_is_the_one_that_the_results_give():
    text = readme.README.read_text()
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    assert text.split(readme.BEGIN)[1].split(readme.END)[0] == readme.table()


@pytest.mark.parametrize(
    ("phase", "figure", "shown"),
    [
        ("tokenizer", "eval/psnr", "{:.1f} dB"), ("dynamics", "rollout/psnr_k4", "{:.1f} dB"),
        ("heads", "heads/cross_entropy_1", "{:.3f} nats"), ("imagination_rl", "control/normalized_return", "{:.2f}"),
    ],
)  # fmt: skip
def test_a_row_shows_the_last_figure_of_its_phase(phase, figure, shown):
    *_, last = (line[figure] for line in read_jsonl(readme.RESULTS / f"{phase}.jsonl") if figure in line)
    (row,) = re.findall(rf"^\| [^|]*`{figure}`[^|]*\| ([^|]*) \|", readme.table(), re.MULTILINE)
    assert row == shown.format(last)


def test_a_demo_is_taken_with_its_pictures(tmp_path, monkeypatch):
    for name in ("RESULTS", "IMAGES"):
        monkeypatch.setattr(readme, name, tmp_path / name.lower())
    (tmp_path / "images").mkdir()
    for phase in readme.PHASES:
        (tmp_path / "logs" / f"{phase}-cpu" / "media").mkdir(parents=True)
        (tmp_path / "logs" / f"{phase}-cpu" / "metrics.jsonl").write_text('{"step": 1}\n')
    for phase, picture in readme.PICTURES.values():
        (tmp_path / "logs" / f"{phase}-cpu" / "media" / f"{picture}.png").write_bytes(picture.encode())
    readme.take(tmp_path / "logs", {"minutes": 60})
    assert (tmp_path / "images" / "control.png").read_text() == "control_episodes"
    assert json.loads((tmp_path / "results" / "about.json").read_text()) == {"minutes": 60}
