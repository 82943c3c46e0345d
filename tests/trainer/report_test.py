import dataclasses
import errno
import json
import logging
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from toy import Counter, Picture, StopAt, make_trainer

from trainer import plugins, run_folder
from trainer.callbacks import Callback, Report
from trainer.config import base_config
from trainer.report import write_report
from trainer.report.curves import POINTS, arrange, thinned
from trainer.report.judgement import judge, number, percent, role
from trainer.report.record import Series, read_chain, read_record
from trainer.task import Comparison
from trainer.writers import JsonlWriter, MediaWriter

EVIL = '<script>alert("&\'")</script>'
VOID = ("img", "meta")


class Page(HTMLParser):
    """A page as elements: (name, attributes, text inside), and what is not well-formed."""

    def __init__(self, path):
        super().__init__()
        self.elements, self._open, self.text = [], [], path.read_text(encoding="utf-8")
        self.feed(self.text)
        assert not self._open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes), []))
        if name not in VOID:
            self._open.append((name, self.elements[-1][2]))

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes), []))

    def handle_endtag(self, name):
        assert self._open.pop()[0] == name

    def handle_data(self, data):
        for _, texts in self._open:
            texts.append(data)

    def find(self, name, class_=None):
        found = [e for e in self.elements if e[0] == name]
        return [e for e in found if class_ is None or class_ in e[1].get("class", "").split()]

    def texts(self, name, class_=None):
        return ["".join(texts) for _, _, texts in self.find(name, class_)]

    @property
    def body(self):
        return self.texts("body")[0]


def make_run(folder, *, lines=(), about=None, upstream=None, provenance=None, **config):
    folder.mkdir(parents=True)
    config = {"name": folder.name, "steps": 10, "upstream": upstream or {}, **config}
    run_folder.write_json(folder / "config.json", {"config": config, "upstream": provenance or {}})
    writer = JsonlWriter(folder / "metrics.jsonl")
    for step, seconds, scalars in lines:
        writer.write_scalars(step, {"time": seconds, **scalars})
    writer.close()
    if about is not None:
        run_folder.write_json(folder / "report.json", about)
    return folder


def compared(folder, value, references, better="higher", unit="", metric="m"):
    scalars = {f"r/{kind}": r for kind, r in references.items()}
    make_run(folder, lines=[(1, 0.5, {metric: value, **scalars})])
    comparison = Comparison(metric, "a figure", unit, better, {kind: f"r/{kind}" for kind in references})
    return judge(read_record(folder), comparison)


@pytest.mark.parametrize(
    ("value", "better", "references", "position", "remark", "tone"),
    [
        (20.0, "higher", {"floor": 16.0, "ceiling": 32.0}, 0.25, "25 % of the way from floor to ceiling", ""),
        (15.0, "higher", {"floor": 16.0, "ceiling": 32.0}, -1 / 16, "no better than floor", "bad"),
        (40.0, "higher", {"ceiling": 32.0, "floor": 16.0}, 1.5, "better than ceiling", "good"),
        # Where lower is better, the floor is what can be reached at best.
        (1.0, "lower", {"floor": 0.5, "random": 2.5}, 0.75, "75 % of the way from random to floor", ""),
        (3.0, "lower", {"oracle": 0.5, "random": 2.5}, -0.25, "no better than random", "bad"),
        (4.0, "higher", {"random": 0.0, "real": 3.0, "oracle": 8.0}, 0.5, "50 % of the way from random to oracle", ""),
        # A floor above the ceiling bounds nothing.
        (5.0, "higher", {"floor": 9.0, "ceiling": 8.0}, None, "ceiling is no better than floor", "bad"),
        (2.5, "higher", {"ignored": 1.0}, None, "1.5 above ignored", "good"),
        (0.5, "higher", {"ignored": 1.0}, None, "0.5 below ignored", "bad"),
        (0.75, "lower", {"floor": 0.5}, None, "0.25 above floor", ""),
        (4.0, "higher", {"real": 4.0}, None, "equal to real", ""),
        (4.0, "higher", {}, None, "", ""),
        (math.nan, "higher", {"floor": 1.0, "ceiling": 2.0}, None, "not a finite number", "bad"),
        (1.5, "higher", {"floor": math.nan, "ceiling": 2.0}, None, "0.5 below ceiling", ""),
    ],
)
def test_a_figure_lies_between_its_references(tmp_path, value, better, references, position, remark, tone):
    row = compared(tmp_path / "run", value, references, better)
    assert (row.remark, row.tone) == (remark, tone)
    assert (row.scale and row.scale.position) == (position if position is None else pytest.approx(position))
    assert row.references.keys() == references.keys()


def test_the_references_between_the_ends_are_marked(tmp_path):
    row = compared(tmp_path / "run", 5.0, {"random": 0.0, "cloned": 4.0, "oracle": 10.0})
    assert (row.scale.easy.kind, row.scale.hard.kind) == ("random", "oracle")
    assert [(mark.kind, mark.position) for mark in row.scale.between] == [("cloned", 0.4)]


def test_roles_of_references():
    assert [role("floor", better) for better in ("higher", "lower")] == ["easy", "hard"]
    assert [role("ceiling", better) for better in ("higher", "lower")] == ["hard", "easy"]
    assert [role(kind, "higher") for kind in ("random", "oracle", "cloned")] == ["easy", "hard", ""]


def test_numbers_are_short_and_never_lie():
    values = (20.2831, 4500.0, 0.00420001, -1.5, 1234567.8, math.nan, math.inf, -math.inf, None, 0.0, 1e20)
    shown = ["20.28", "4,500", "0.0042", "−1.5", "1,234,568", "NaN", "∞", "−∞", "–", "0", "1.000e+20"]
    assert [number(value) for value in values] == shown
    assert [percent(share) for share in (0.29, 0.999, 0.001)] == ["29 %", "over 99 %", "under 1 %"]


def test_the_page_shows_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = {
        "state": "stopped", "reason": "the time limit is over", "resumable": True, "step": 6, "steps": 10,
        "started": "2026-01-02T03:04:05+00:00", "written": "2026-01-02T04:04:05+00:00", "device": "8 × toy",
        "parameters": 1234567, "frozen": {"base": 89}, "versions": {"reverie": "1.2.3", "jax": "0.10"},
        "comparisons": [
            {"metric": "q/a", "meaning": "how good", "unit": "dB", "better": "higher",
             "references": {"floor": "q/low", "ceiling": 4.0}},
            {"metric": "q/never", "meaning": "measured never", "references": {"oracle": "q/gone"}},
        ],
    }  # fmt: skip
    lines = [(step, 10.0 * step, {"train/loss": 1.0 / step, "train/steps_per_s": 2.0}) for step in (2, 4, 6)]
    lines.append((6, 3723.0, {"eval/loss": 0.2, "q/a": 2.0, "q/low": 1.0}))
    folder = make_run(Path("logs/one"), lines=lines, about=about, task={"target": "a.b:Task"}, seed=5)
    page = Page(write_report(folder))
    for text in (
        "one", "Stopped", "step 6 of 10: the time limit is over; it can be continued", "1 h 02 min",
        "2026-01-02 04:04 UTC",
        "8 × toy", "1,234,567", "89 frozen (base)", "reverie 1.2.3", "a.b:Task", "33 % of the way", "not measured",
        "Measured at step 6.",
    ):  # fmt: skip
        assert text in page.body, text
    assert "python -m trainer --config=logs/one/config.json" in page.texts("code")
    assert page.texts("th")[:5] == ["Figure", "Value", "floor", "ceiling", "oracle"]
    assert [" ".join(text.split()) for text in page.texts("td", "number")[:4]] == ["2 dB", "1", "4", ""]
    # (2 - 1) ÷ (4 - 1)
    assert page.find("span", "here")[0][1]["style"] == "left: 33.3%"
    assert page.find("span", "fill")[0][1]["style"] == "width: 33.3%"
    assert page.texts("h3") == ["Training", "Evaluation", "Throughput"]
    assert "The same all the time: train/steps_per_s 2" in page.body
    assert len(page.find("svg")) == 2
    assert page.texts("figcaption") == ["loss", "q/a dB"]
    assert page.texts("div", "legend") == ["train/loss0.1667eval/loss0.2", "q/a2q/low1ceiling4"]
    assert '"seed": 5' in page.texts("pre")[0]


def test_the_page_needs_nothing_else(tmp_path):
    folder = make_run(tmp_path / "one", lines=[(s, s, {"train/loss": 1 / s, "a/b": s}) for s in range(1, 50)])
    MediaWriter(folder / "media").write_images(3, {"picture": np.zeros((1, 4, 4, 3), np.uint8)})
    page = Page(write_report(folder))
    names = {name for name, *_ in page.elements}
    assert {"svg", "img", "style"} <= names
    assert not names & {"script", "link", "iframe", "object", "a", "base"}
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in page.elements:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(key, "data:").startswith(("data:image/", "data:", "#"))
        assert not [key for key in attributes if key.startswith("on")]
    assert set(re.findall(r"url\((.)", page.text)) <= {"#"}
    assert "@import" not in page.text
    assert page.find("meta")[1][1]["content"].startswith("default-src 'none'; ")


def test_everything_from_outside_is_escaped(tmp_path):
    about = {
        "state": "failed", "reason": EVIL, "step": EVIL, "device": EVIL, "written": EVIL, "started": EVIL,
        "versions": {EVIL: EVIL}, "parameters": 1, "frozen": {EVIL: 2},
        "comparisons": [
            {"metric": f"m{EVIL}", "meaning": EVIL, "unit": EVIL, "references": {"floor": 0, "ceiling": 9, EVIL: 5}},
            {"metric": f"n{EVIL}", "meaning": EVIL, "unit": EVIL, "references": {EVIL: f"m{EVIL}"}},
        ],
    }  # fmt: skip
    lines = [(s, s, {f"m{EVIL}": s, f"n{EVIL}": s, f"c{EVIL}": 1, f"train/{EVIL}": s}) for s in range(1, 4)]
    lower = make_run(tmp_path / "lower", lines=lines, about=about, name=EVIL, steps=3)
    provenance = {EVIL: {"run": str(lower), "step": EVIL, "config": EVIL}}
    folder = make_run(
        tmp_path / "one", lines=lines, about=about, name=EVIL, task={"target": EVIL},
        data={"target": EVIL, "name": EVIL}, upstream={EVIL: {"run": str(lower)}}, provenance=provenance, seed=EVIL,
        **{EVIL: EVIL},
    )  # fmt: skip
    for run in (folder, lower):
        (run / "media").mkdir()
        (run / "media" / '"onload=alert(1) <b>.png').write_bytes(b"x")
    page = Page(write_report(folder))
    assert not page.find("script")
    assert page.texts("h1") == [EVIL]
    assert page.texts("title") == [EVIL]
    assert page.body.count(EVIL) > 30
    assert [e[1]["alt"] for e in page.find("img")] == ['"onload=alert(1) <b>'] * 2
    assert all(set(attributes) == {"src", "alt"} for _, attributes, _ in page.find("img"))


def test_upstream_runs_are_shown_each_once(tmp_path):
    def about(metric):
        return {"state": "finished", "comparisons": [{"metric": metric, "meaning": f"meaning of {metric}"}]}

    base = make_run(tmp_path / "base", lines=[(9, 1.0, {"base/x": 7.25})], about=about("base/x"))
    MediaWriter(base / "media").write_videos(9, {"dream": np.zeros((1, 2, 4, 4, 3), np.uint8)})
    to_base = {"base": {"run": str(base)}}
    # Made by code that wrote neither `report.json` nor provenance.
    middle = make_run(tmp_path / "middle", lines=[(10, 1.0, {"z": 3.0})], upstream=to_base)
    top = make_run(
        tmp_path / "top", about=about("top/x"), upstream={"middle": {"run": str(middle)}, **to_base},
        provenance={"base": {"run": str(base), "step": 1200, "config": "abcdef123456"}},
    )  # fmt: skip
    record, below = read_chain(top)
    assert [(name, lower.name, lower.state) for name, _, lower in below] == [
        ("middle", "middle", "finished"), ("base", "base", "finished"),
    ]  # fmt: skip
    assert record.media == []
    page = Page(write_report(top))
    headings = page.texts("h3")
    assert headings.count("Built on middle: middle") == 1
    assert headings.count("Built on base: base") == 2  # its figures, its pictures
    assert f"{base} · parameters of step 1,200 · config abcdef123456" in page.body
    assert "meaning of base/x" in page.body
    assert "7.25" in page.texts("td", "value")
    assert "It has left no figures" in page.body
    assert "dream · video · step 9" in page.texts("figcaption")


def test_runs_in_a_circle_end(tmp_path):
    names = ("a", "b")
    for name, other in zip(names, reversed(names), strict=True):
        make_run(tmp_path / name, upstream={"other": {"run": str(tmp_path / other)}})
    assert [lower.name for *_, lower in read_chain(tmp_path / "a")[1]] == ["b"]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"config": 3}', '{"config": {"upstream": [1]}}'])
def test_missing_and_damaged_parts_are_tolerated(tmp_path, text):
    for name in ("config.json", "report.json", "metrics.jsonl"):
        (tmp_path / name).write_text(text)
    (tmp_path / "media").write_text("no folder")
    page = Page(write_report(tmp_path))
    assert tmp_path.name in page.texts("h1")[0]
    assert ("config.json cannot be read" in page.body) == (text in ("", "nonsense"))
    for path in tmp_path.iterdir():
        path.unlink()
    assert "nothing logged yet" in Page(write_report(tmp_path)).body


def test_an_upstream_run_that_is_gone_is_named(tmp_path):
    folder = make_run(tmp_path / "one", upstream={"base": {"run": str(tmp_path / "gone")}})
    page = Page(write_report(folder))
    assert "Built on base: gone" in page.texts("h3")
    assert f"{tmp_path / 'gone' / 'config.json'} cannot be read: No such file or directory." in page.body


def test_values_that_are_not_finite_are_shown(tmp_path):
    values = {1: 1.0, 2: math.nan, 3: math.inf, 4: 2.0, 5: math.nan}
    folder = make_run(tmp_path / "one", lines=[(s, s, {"train/loss": v, "x": math.nan}) for s, v in values.items()])
    (folder / "metrics.jsonl").open("a").write('{"step": 6, "train/lo')  # a kill tore it
    page = Page(write_report(folder))
    assert page.texts("span", "bad") == ["3 values are not finite", "5 values are not finite"]
    assert page.texts("tr")[-2:] == ["train/lossNaN5", "xNaN5"]


def test_the_newest_media_are_chosen(tmp_path):
    folder = make_run(tmp_path / "one")
    writer = MediaWriter(folder / "media")

    def write(step, name, value):
        writer.write_images(step, {name: np.full((1, 2, 2, 3), value, np.uint8)})

    for step, value in ((5, 1), (50, 2), (500, 3)):
        write(step, "a/b", value)
        write(step, "sample_2", 10 + value)  # a name that ends like a step
    write(50, "a/b", 4)  # the run was set back
    write(7, "gone", 5)
    write(11, "gone", 6)
    (folder / "media" / "gone.png").unlink()
    (folder / "media" / "notes.txt").write_text("no picture")
    media = {medium.name: (medium.path.name, medium.step) for medium in read_record(folder).media}
    assert media == {
        "a_b": ("a_b.png", 50), "sample_2": ("sample_2.png", 500), "gone": ("gone_11.png", 11),
    }  # fmt: skip
    assert len(Page(write_report(folder)).find("img")) == 3


def test_media_that_are_too_large_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.report.page.MAX_MEDIA_BYTES", 1500)
    folder = make_run(tmp_path / "one")
    (folder / "media").mkdir()
    for name in ("a", "b"):
        (folder / "media" / f"{name}.png").write_bytes(bytes(1000))
    page = Page(write_report(folder))
    assert len(page.find("img")) == 1
    assert f"it lies in {folder / 'media' / 'b.png'}" in page.body


def test_scalars_are_arranged_by_what_belongs_together():
    names = [
        "train/zebra", "train/loss", "train/steps_per_s", "train/frames_per_s", "train/off", "eval/loss", "eval/psnr",
        "q/a", "q/b", "q/low", "q/t1", "q/t16", "q/other",
    ]  # fmt: skip
    series = {name: Series([1, 2], [0.0, 0.0 if name == "train/off" else 1.0]) for name in names}
    low = {"floor": "q/low", "oracle": 3.0}
    comparisons = [Comparison("q/a", "", references=low), Comparison("q/b", "", references=low)]
    training, evaluation, speed = arrange(series, comparisons)
    assert [panel.title for panel in training.panels] == ["loss", "zebra"]
    assert [line.name for line in training.panels[0].lines] == ["train/loss", "eval/loss"]
    assert training.constant == {"train/off": 0.0}
    lines = [[(line.name, line.reference) for line in panel.lines] for panel in evaluation.panels]
    assert lines[0] == [("q/a", False), ("q/b", False), ("q/low", True), ("oracle", True)]
    assert [[name for name, _ in panel] for panel in lines[1:]] == [["eval/psnr"], ["q/t1", "q/t16"], ["q/other"]]
    assert [panel.title for panel in speed.panels] == ["train/steps_per_s", "train/frames_per_s"]


def test_long_curves_are_averaged_in_groups():
    n = 10 * POINTS
    steps, values = thinned(Series(list(range(n)), [1.0, 3.0] * (n // 2)))
    assert len(steps) == len(values) == POINTS
    assert set(values) == {2.0}
    np.testing.assert_allclose(steps[:2], [4.5, 14.5])
    broken = [math.nan] * 10 + [5.0, math.inf] * (n // 2 - 5)
    assert [*thinned(Series(list(range(n)), broken))[1][:2]] == [pytest.approx(math.nan, nan_ok=True), 5.0]


class Judged(Picture):
    comparisons = (Comparison("picture/mean", "mean of a picture", references={"floor": -9.0, "oracle": 9.0}),)


def fit(folder, *callbacks, **changes):
    writers = [JsonlWriter(folder / "metrics.jsonl"), MediaWriter(folder / "media")]
    config = {"name": EVIL, "steps": 25, "upstream": {}}
    run_folder.write_json(folder / "config.json", {"config": config, "upstream": {}})
    values = dict(writers=writers, callbacks=[Report(), *callbacks], evaluators={"picture": Judged()}, config=config)
    return make_trainer(folder, **{**values, **changes}).fit()


def test_a_finished_run_leaves_a_whole_report(tmp_path):
    fit(tmp_path)
    page = Page(tmp_path / "report.html")
    assert page.texts("span", "badge") == ["Finished"]
    for text in ("step 25 of 25", "mean of a picture", "Measured at step 25.", "Evaluate it again", "12", "started"):
        assert text in page.body
    assert page.find("span", "here")
    assert page.texts("figcaption")[-1] == "picture_image · picture · step 25"
    about = json.loads((tmp_path / "report.json").read_text())
    assert (about["state"], about["step"], about["parameters"]) == ("finished", 25, 12)
    (tmp_path / "report.html").write_text("untouched")
    make_trainer(tmp_path, callbacks=[Report()], evaluators={"picture": Judged()}).evaluate()
    assert (tmp_path / "report.html").read_text() == "untouched"


def test_a_stopped_run_says_why_and_remembers_its_start(tmp_path):
    fit(tmp_path, StopAt(step=8))
    page = Page(tmp_path / "report.html")
    assert "step 8 of 25: test; it can be continued" in page.body
    assert "Continue it" in page.body
    about = json.loads((tmp_path / "report.json").read_text())
    callback = Report()
    fit(tmp_path, callbacks=[callback])
    again = json.loads((tmp_path / "report.json").read_text())
    assert (again["state"], again["started"]) == ("finished", about["started"])
    assert callback.state() == {"started": about["started"]}


def test_a_run_stopped_for_good_says_so(tmp_path):
    fit(tmp_path, StopAt(step=8, resumable=False))
    page = Page(tmp_path / "report.html")
    assert "step 8 of 25: test; for good" in page.body
    assert "Evaluate it again" in page.body


def test_reports_come_after_checkpoints_but_not_too_often(tmp_path, monkeypatch):
    written = []

    def write(folder):
        about = json.loads((folder / "report.json").read_text())
        last = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
        written.append((about["state"], about["step"], last))

    monkeypatch.setattr("trainer.report.write_report", write)
    fit(tmp_path / "a", eval_every=5, checkpoint_every=5)
    assert written == [("running", 5, 5), ("finished", 25, 25)]
    written.clear()
    monkeypatch.setattr("trainer.callbacks.report._SHARE", 1e9)
    fit(tmp_path / "b", eval_every=5, checkpoint_every=10, callbacks=[Report(interval=0.0)])
    assert written == [("running", 10, 10), ("running", 20, 20), ("finished", 25, 25)]


@dataclasses.dataclass(kw_only=True)
class Breaks(Callback):
    step: int

    def on_step_end(self, run, metrics):
        if run.step == self.step:
            raise RuntimeError("the moon is <b>full</b>")


def test_a_failed_run_names_the_error(tmp_path):
    with pytest.raises(RuntimeError, match="the moon"):
        fit(tmp_path, Breaks(step=9))
    page = Page(tmp_path / "report.html")
    assert page.texts("span", "badge") == ["Failed"]
    assert page.texts("div", "error") == ["RuntimeError: the moon is <b>full</b>"]


def test_a_run_that_fails_at_once_leaves_no_report(tmp_path):
    with pytest.raises(RuntimeError, match="the moon"):
        fit(tmp_path, Breaks(step=1))
    assert not run_folder.has_results(tmp_path)


@pytest.mark.parametrize("place", ["trainer.report.write_report", "trainer.run_folder.write_json"])
def test_a_failing_report_never_ends_a_run(tmp_path, monkeypatch, caplog, place):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space\nleft on device")

    config_written = tmp_path / "config.json"
    config_written.write_text("{}")
    monkeypatch.setattr("report_test.run_folder.write_json", lambda *_: None)
    monkeypatch.setattr(place, full)
    caplog.set_level(logging.WARNING)
    writers = [JsonlWriter(tmp_path / "metrics.jsonl")]
    result = make_trainer(tmp_path, callbacks=[Report()], writers=writers).fit()
    assert result.step == 25
    lines = [r.getMessage() for r in caplog.records if "report" in r.getMessage()]
    assert lines == [f"The report in {tmp_path} could not be written: OSError: [Errno 28] No space left on device"] * 2
    with pytest.raises(RuntimeError, match="the moon"):  # and not the report's error
        make_trainer(tmp_path, callbacks=[Report(), Breaks(step=27)], writers=writers, steps=30).fit()
    assert [path.name for path in tmp_path.glob(".report*")] == []


def test_it_is_built_in_and_on_by_default():
    entry = base_config().callbacks.report
    assert isinstance(plugins.build(entry, "callbacks", "report"), Report)


def test_nothing_to_draw_with_is_loaded_before_there_is_something_to_draw():
    code = "import sys, trainer.cli, trainer.callbacks, trainer.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_data_that_ends_early_finishes_the_run(tmp_path):
    fit(tmp_path, data=Counter(length=9))
    assert "step 9 of 25: the training data has ended; for good" in Page(tmp_path / "report.html").body
