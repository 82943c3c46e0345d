"""Writes the report's page: from what run folders hold to one HTML file."""

import base64
import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import run_folder
from trainer.callbacks.progress import duration
from trainer.report.curves import Group, Panel, arrange, draw, not_finite, short, swatches
from trainer.report.judgement import Judgement, Scale, judge, number
from trainer.report.markup import Markup, markup, tag
from trainer.report.record import Medium, Record, read_chain
from trainer.report.style import CSS

MAX_MEDIA_BYTES = 10_000_000  # of all pictures and videos together; text makes a third more of them
# Whatever slips through, a browser loads nothing from anywhere and runs no script.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STATES = {"finished": "Finished", "stopped": "Stopped", "failed": "Failed", "running": "Training", "": "Unknown"}


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` into a run folder: a page that needs nothing else, neither files nor network nor scripts.

    What it shows comes from the run folder (`config.json`, `metrics.jsonl`, `media/`, `report.json`) and from those of
    the runs it builds on; a part that is missing or damaged is left out or named. Text from there is escaped.

    Args:
      folder: the run folder.

    Returns:
      The file, written whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    folder = Path(folder)
    path = folder / "report.html"
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_text(_page(folder), encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _page(folder: Path) -> str:
    record, below = read_chain(folder)
    media = _Media()
    main = tag(
        "main",
        _header(record, below),
        tag("h2", "Is it good?"),
        _judgements(record) or tag("p", "None of this run's evaluators names figures to judge it by.", class_="muted"),
        *(_upstream(name, entry, lower) for name, entry, lower in below),
        *_curves(record),
        *_pictures(record, below, media),
        tag("h2", "Details"),
        _config(record),
        _last_values(record),
        _footer(record),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", record.name),
        tag("style", Markup(CSS)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', main), lang='en')}\n"


def _header(record: Record, below: Sequence[tuple[str, Mapping[str, Any], Record]]) -> Markup:
    reason = str(record.about.get("reason") or "")
    failed = record.state == "failed"
    return tag(
        "header",
        tag("h1", record.name),
        tag("div", _badge(record), tag("span", _progress(record)), class_="line"),
        tag("div", reason, class_="error") if failed and reason else None,
        *(tag("p", problem, class_="problem") for one in (record, *(r for *_, r in below)) for problem in one.problems),
        _facts(record),
        _command(record),
    )


def _badge(record: Record) -> Markup:
    return tag("span", _STATES[record.state], class_=f"badge {record.state or 'unknown'}")


def _progress(record: Record) -> str:
    """How far the run is, and why it is no further."""
    if record.step is None:
        return "nothing logged yet"
    steps = f" of {record.steps:,}" if record.steps else ""
    text = f"step {record.step:,}{steps}"
    reason = str(record.about.get("reason") or "")
    if record.state == "stopped":
        text += f": {reason}" if reason else ""
        text += "; it can be continued" if record.about.get("resumable") else "; for good"
    elif record.state == "running":
        text += ", when this was written"
    return text


def _command(record: Record) -> Markup:
    source = str(record.folder / run_folder.CONFIG)
    done = record.state == "finished" or (record.state == "stopped" and not record.about.get("resumable"))
    what = "Evaluate it again" if done else "Continue it"
    line = run_folder.command(source, mode="eval" if done else "fit")
    return tag("div", tag("span", what, class_="muted"), tag("code", line), class_="command")


def _facts(record: Record) -> Markup:
    about, config = record.about, record.config
    versions = about.get("versions")
    facts: dict[str, tuple[str, str]] = {}
    if record.seconds is not None:
        speed = record.last("train/steps_per_s")
        facts["Training time"] = duration(record.seconds), f"{number(speed)} steps/s at the end" if speed else ""
    if about.get("written"):
        facts["Written"] = _when(about["written"]), f"started {_when(about['started'])}" if about.get("started") else ""
    if about.get("device"):
        facts["Device"] = str(about["device"]), ""
    if isinstance(about.get("parameters"), int):
        frozen = about.get("frozen") if isinstance(about.get("frozen"), dict) else {}
        sizes = [f"{size:,} frozen ({name})" for name, size in (frozen or {}).items() if isinstance(size, int)]
        facts["Parameters"] = f"{about['parameters']:,}", ", ".join(sizes)
    for group, title in (("task", "Task"), ("data", "Data")):
        entry = config.get(group)
        if isinstance(entry, dict) and entry.get("target"):
            name = entry.get("name")
            target = str(entry["target"])
            facts[title] = (name, target) if isinstance(name, str) else (target.rpartition(":")[2], target)
    facts["Folder"] = str(record.folder), f"seed {config['seed']}" if "seed" in config else ""
    if isinstance(versions, dict):
        names = [f"{name} {version}" for name, version in versions.items()]
        facts["Versions"] = ", ".join(names[:1]), ", ".join(names[1:])
    return tag("dl", *(
        tag("div", tag("dt", title), tag("dd", text, tag("small", more) if more else None))
        for title, (text, more) in facts.items()
    ))  # fmt: skip


def _when(text: Any) -> str:
    try:
        when = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return when.strftime("%Y-%m-%d %H:%M ") + (when.tzname() or "")


def _judgements(record: Record) -> Markup | None:
    """The table of figures and what they are to be judged by."""
    rows = [judge(record, comparison) for comparison in record.comparisons]
    if not rows:
        return None
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.references))
    header = tag(
        "tr", tag("th", "Figure"), tag("th", "Value", class_="number"),
        *(tag("th", kind, class_="number") for kind in kinds), tag("th", "Where it lies" if kinds else ""),
    )  # fmt: skip
    steps = sorted({row.step for row in rows if row.step is not None})
    when = " to ".join(f"{step:,}" for step in dict.fromkeys((steps[0], steps[-1]))) if steps else ""
    table = tag("table", tag("thead", header), tag("tbody", *(_row(row, kinds) for row in rows)), class_="judged")
    return markup(
        tag("div", table, class_="scroll"),
        tag("p", f"Measured at step {when}.", class_="note") if when else None,
    )


def _row(row: Judgement, kinds: Sequence[str]) -> Markup:
    measured = row.comparison.unit and row.value is not None
    unit = tag("span", f" {row.comparison.unit}", class_="unit") if measured else None
    bad = row.value is not None and row.tone == "bad" and not row.scale and row.remark == "not a finite number"
    references = []
    for kind in kinds:
        source = row.comparison.references.get(kind)
        attributes = {"title": source if isinstance(source, str) else None, "data_label": kind}
        shown = number(row.references[kind]) if kind in row.references else ""
        references.append(tag("td", shown, class_="number" if shown else "number none", **attributes))
    name = tag("span", row.comparison.metric, class_="name")
    return tag(
        "tr",
        tag("td", row.comparison.meaning, name),
        tag("td", number(row.value), unit, class_="number value bad" if bad else "number value"),
        *references,
        tag("td", _bar(row.scale, row) if row.scale else tag("span", row.remark, class_=row.tone or "muted")),
    )


def _bar(scale: Scale, row: Judgement) -> Markup:
    """The bar from the easy reference to the hard one, with the value and the references in between."""
    here = f"{100 * min(max(scale.position, 0.0), 1.0):.1f}%"
    ticks = [
        tag("span", class_="tick", style=f"left: {100 * mark.position:.1f}%", title=f"{mark.kind} {number(mark.value)}")
        for mark in scale.between
        if 0 <= mark.position <= 1
    ]
    tone = f" {row.tone}" if row.tone else ""
    between = ", ".join(f"{mark.kind} {number(mark.value)}" for mark in scale.between)
    return markup(
        tag(
            "div",
            tag("span", class_=f"fill{tone}", style=f"width: {here}"),
            *ticks,
            tag("span", class_=f"here{tone}", style=f"left: {here}"),
            class_="bar", role="img", aria_label=row.remark,
        ),
        tag(
            "div", tag("span", scale.easy.kind), tag("b", scale.label, class_=row.tone or None),
            tag("span", scale.hard.kind), class_="ends",
        ),
        tag("div", f"also {between}", class_="between") if between else None,
    )  # fmt: skip


def _upstream(name: str, entry: Mapping[str, Any], record: Record) -> Markup:
    facts = [str(record.folder)]
    if "step" in entry:
        facts.append(f"parameters of step {entry['step']:,}" if isinstance(entry["step"], int) else str(entry["step"]))
    if entry.get("config"):
        facts.append(f"config {entry['config']}")
    if record.state not in ("finished", ""):
        facts.append(f"{_STATES[record.state].lower()} at {_progress(record)}")
    return markup(
        tag("h3", f"Built on {name}: {record.name}"),
        tag("p", " · ".join(facts), class_="muted"),
        _judgements(record) or tag("p", "It has left no figures to judge it by.", class_="muted"),
    )


def _curves(record: Record) -> Iterable[Markup]:
    groups = arrange(record.series, record.comparisons)
    end = max((series.steps[-1] for series in record.series.values()), default=0)
    if groups:
        yield tag("h2", "Curves over steps")
    for g, group in enumerate(groups):
        yield tag("h3", group.title)
        if group.panels:
            yield tag("div", *(_panel(panel, end, f"{g}-{p}") for p, panel in enumerate(group.panels)), class_="panels")
        if group.constant:
            yield _constant(group)


def _panel(panel: Panel, end: int, salt: str) -> Markup:
    """A picture, under it what its lines are and their last values."""
    entries = []
    for style, line in zip(swatches(panel), panel.lines, strict=True):
        last = tag("b", number(line.series.values[-1]))
        entries.append(tag("span", tag("i", class_=style), line.name, last))
    gaps = not_finite(panel)
    if gaps:
        entries.append(tag("span", f"{gaps:,} value{'s are' if gaps > 1 else ' is'} not finite", class_="bad"))
    caption = tag("figcaption", tag("b", panel.title), f" {panel.unit}" if panel.unit else None)
    return tag("figure", caption, Markup(draw(panel, end, salt)), tag("div", *entries, class_="legend"))


def _constant(group: Group) -> Markup:
    names = ", ".join(f"{name} {short(value)}" for name, value in group.constant.items())
    return tag("p", f"The same all the time: {names}", class_="note")


class _Media:
    """Puts files into the page until there is no room left."""

    def __init__(self) -> None:
        self.room = MAX_MEDIA_BYTES

    def figure(self, medium: Medium) -> Markup:
        step = f" · step {medium.step:,}" if medium.step is not None else ""
        kind = "video" if medium.kind == "image/gif" else "picture"
        caption = tag("figcaption", tag("b", medium.name), tag("span", f" · {kind}{step}", class_="muted"))
        try:
            size = medium.path.stat().st_size
            data = medium.path.read_bytes() if size <= self.room else None
        except OSError as error:
            return tag("figure", caption, tag("p", f"cannot be read: {error.strerror}", class_="problem"))
        if data is None:
            text = f"{size / 1e6:.1f} MB are too much for this page; it lies in {medium.path}"
            return tag("figure", caption, tag("p", text, class_="muted"))
        self.room -= size
        source = f"data:{medium.kind};base64,{base64.b64encode(data).decode()}"
        return tag("figure", caption, tag("img", src=source, alt=f"{medium.name}{step}"))


def _pictures(
    record: Record, below: Sequence[tuple[str, Mapping[str, Any], Record]], media: _Media
) -> Iterable[Markup]:
    if record.media or any(lower.media for *_, lower in below):
        yield tag("h2", "Latest pictures and videos")
    if record.media:
        yield tag("div", *map(media.figure, record.media), class_="media")
    for name, _, lower in below:
        if lower.media:
            yield tag("h3", f"Built on {name}: {lower.name}")
            yield tag("div", *map(media.figure, lower.media), class_="media")


def _config(record: Record) -> Markup:
    text = json.dumps(record.config, indent=2, ensure_ascii=False)
    return tag("details", tag("summary", "Config"), tag("pre", text))


def _last_values(record: Record) -> Markup:
    rows = [
        tag(
            "tr",
            tag("td", name, class_="name"),
            tag("td", number(series.values[-1]), class_="number"),
            tag("td", f"{series.steps[-1]:,}", class_="number"),
        )
        for name, series in sorted(record.series.items())
    ]
    header = tag(
        "tr", tag("th", "metric"), tag("th", "last value", class_="number"), tag("th", "step", class_="number")
    )
    table = tag("table", tag("thead", header), tag("tbody", *rows))
    return tag("details", tag("summary", f"Last values of all {len(rows)} metrics"), table)


def _footer(record: Record) -> Markup:
    names = "config.json, metrics.jsonl, media/ and TensorBoard events"
    return tag("footer", f"Made from what lies in {record.folder}: {names} hold all of it.")
