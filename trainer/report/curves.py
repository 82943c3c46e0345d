"""Curves of a run: which go together, and each panel as an SVG picture that follows the page's colours."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.report.record import Series
from trainer.task import Comparison

POINTS = 400  # more are averaged in groups
COLORS = 5  # of full lines; the style sheet has as many
# Stand for the page's colours until the picture is drawn: a style sheet cannot be asked for them.
_INK, _GRID, _REFERENCE, _LINES = "#010101", "#020202", "#030303", [f"#04040{n}" for n in range(COLORS)]
_LOG_RATIO = 20.0


class Line(NamedTuple):
    """A line of a panel.

    Attributes:
      name: for the legend.
      series: the numbers; a single one without steps is drawn over the whole width.
      reference: whether it is a reference, drawn dashed.
    """

    name: str
    series: Series
    reference: bool = False


class Panel(NamedTuple):
    """Lines over the same steps and of the same unit."""

    title: str
    lines: list[Line]
    unit: str = ""


class Group(NamedTuple):
    """Panels under one heading; `constant` are the metrics that never changed and need no panel."""

    title: str
    panels: list[Panel]
    constant: Mapping[str, float]


_SPEED = ("_per_s", "/utilization")


def arrange(series: Mapping[str, Series], comparisons: Sequence[Comparison]) -> list[Group]:
    """Puts every scalar into one panel, those of `comparisons` beside their references.

    Training: every `train/NAME` beside `eval/NAME`, the loss first. Evaluation: the figures of `comparisons`, with
    the same references together; then all others, such as differ in a last number together. Throughput: `…_per_s` and
    `…/utilization`.
    """
    train = sorted((n for n in series if n.startswith("train/") and not n.endswith(_SPEED)), key=_loss_first)
    held_out = {f"eval/{name.removeprefix('train/')}" for name in train} & series.keys()
    training = [
        Panel(name.removeprefix("train/"), _lines(series, name, f"eval/{name.removeprefix('train/')}"))
        for name in train
    ]
    judged = _judged(series, comparisons)
    shown = {line.name for panel in judged for line in panel.lines} | held_out | set(train)
    rest = [name for name in series if name not in shown and not name.endswith(_SPEED)]
    families: dict[str, list[str]] = {}
    for name in rest:
        families.setdefault(re.sub(r"\d+$", "", name), []).append(name)
    others = [
        Panel(names[0] if len(names) == 1 else f"{stem}…", _lines(series, *names)) for stem, names in families.items()
    ]
    speed = [Panel(name, _lines(series, name)) for name in sorted(series, reverse=True) if name.endswith(_SPEED)]
    groups = [_group("Training", training), _group("Evaluation", [*judged, *others]), _group("Throughput", speed)]
    return [group for group in groups if group.panels or group.constant]


def _loss_first(name: str) -> tuple[bool, str]:
    return name != "train/loss", name


def _lines(series: Mapping[str, Series], *names: str) -> list[Line]:
    return [Line(name, series[name]) for name in names if name in series]


def _judged(series: Mapping[str, Series], comparisons: Sequence[Comparison]) -> list[Panel]:
    together: dict[Any, Panel] = {}
    for comparison in comparisons:
        if comparison.metric not in series:
            continue
        references = []
        for kind, reference in comparison.references.items():
            if not isinstance(reference, str):
                references.append(Line(kind, Series([], [float(reference)]), reference=True))
            elif reference in series:
                references.append(Line(reference, series[reference], reference=True))
        shared = tuple(sorted((kind, str(reference)) for kind, reference in comparison.references.items()))
        key = (comparison.unit, shared) if shared else comparison.metric
        panel = together.setdefault(key, Panel(comparison.metric, [], comparison.unit))
        panel.lines[:] = [line for line in panel.lines if not line.reference]
        panel.lines.extend([Line(comparison.metric, series[comparison.metric]), *references])
    return list(together.values())


def _group(title: str, panels: list[Panel]) -> Group:
    constant = {}
    changing = []
    for panel in panels:
        values = panel.lines[0].series.values
        if len(panel.lines) == 1 and len(values) > 1 and len(set(values)) == 1:
            constant[panel.lines[0].name] = values[0]
        else:
            changing.append(panel)
    return Group(title, changing, constant)


def swatches(panel: Panel) -> list[str]:
    """The style class of each line, for the legend: `line-0` …, `dash-0` …."""
    full = dashed = 0
    classes = []
    for line in panel.lines:
        classes.append(f"dash-{dashed % len(_DASHES)}" if line.reference else f"line-{full % COLORS}")
        full, dashed = full + (not line.reference), dashed + line.reference
    return classes


_DASHES = ((5, 2.5), (1.5, 2), (8, 2, 1.5, 2))


def draw(panel: Panel, end: int, salt: str) -> str:
    """The panel as an SVG element; it holds no text from outside.

    Args:
      panel: what to draw.
      end: the last step of the axis, the same for all panels of a page.
      salt: makes the names inside differ from those of other pictures on the page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    # Numbers stay text, in the page's font; names inside the picture do not change from one report to the next.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "axes.unicode_minus": True}):
        figure = Figure(figsize=(4.4, 2.4), facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.105, 0.1, 0.89, 0.87), facecolor="none")
        for line, style in zip(panel.lines, swatches(panel), strict=True):
            kind, number = style.split("-")
            look: dict[str, Any] = {"color": _REFERENCE, "linestyle": (0, _DASHES[int(number)]), "linewidth": 1.1}
            if kind == "line":
                look = {"color": _LINES[int(number)], "linewidth": 1.5, "zorder": 3}
            if not line.series.steps:
                axes.axhline(line.series.values[0], **look)
                continue
            x, y = thinned(line.series)
            if kind == "line" and len(x) <= 40:
                look |= {"marker": "o", "markersize": 3}
            axes.plot(x, y, solid_joinstyle="round", **look)
        if _wide_range(panel):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: short(y)))
        axes.margins(y=0.08)
        axes.set_xlim(0, 1.015 * max(end, 1))
        axes.grid(axis="y", color=_GRID, linewidth=0.7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.tick_params(colors=_INK, labelcolor=_INK, length=0, labelsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _clean(buffer.getvalue())


def _clean(svg: str) -> str:
    """Only the element, as large as its place, and in the page's colours."""
    svg = svg[svg.index("<svg") :].rstrip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace("xlink:href", "href")
    for color, variable in ((_INK, "muted"), (_GRID, "rule"), (_REFERENCE, "reference")):
        svg = svg.replace(color, f"var(--{variable})")
    for n, color in enumerate(_LINES):
        svg = svg.replace(color, f"var(--line-{n})")
    return re.sub(r"\n\s*", "\n", svg)


def thinned(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values [n], n ≤ POINTS: means of groups of neighbours; what is not finite is left out or a gap."""
    x, y = np.asarray(series.steps, float), np.asarray(series.values, float)
    finite = np.isfinite(y)
    if len(x) <= POINTS:
        return x, np.where(finite, y, math.nan)
    groups = np.linspace(0, len(x), POINTS + 1).astype(int)[:-1]
    count = np.add.reduceat(finite.astype(float), groups)
    total = np.add.reduceat(np.where(finite, y, 0.0), groups)
    mean = np.divide(total, count, out=np.full(POINTS, math.nan), where=count > 0)
    return np.add.reduceat(x, groups) / np.diff([*groups, len(x)]), mean


def not_finite(panel: Panel) -> int:
    """How many values of the panel cannot be drawn."""
    return sum(not math.isfinite(value) for line in panel.lines for value in line.series.values)


def _wide_range(panel: Panel) -> bool:
    """Whether the values ask for a logarithmic axis."""
    values = np.concatenate(
        [thinned(line.series)[1] if line.series.steps else line.series.values for line in panel.lines]
    )
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() / values.min() > _LOG_RATIO)


def short(value: float) -> str:
    """A number as an axis shows it: `1.5k`, `2M`, `0.03`, `1e-5`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}".replace("-", "−")
    if value and abs(value) < 1e-3:
        return re.sub(r"e-0*(\d+)", r"e−\1", f"{value:.3g}")
    return f"{value:.4g}".replace("-", "−")
