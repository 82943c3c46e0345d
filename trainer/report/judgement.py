"""Where a figure lies between the references it is to be judged by."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from trainer.report.record import Record
from trainer.task import Comparison

# What is known of a kind of reference: that it is easily beaten, or that it can hardly be reached. `floor` and
# `ceiling` bound the figure from below and above, so that their role depends on which way is better.
_EASY = ("random", "ignored", "chance", "baseline", "repeat_last")
_HARD = ("oracle", "optimal", "ideal")


class Mark(NamedTuple):
    """A reference on a bar.

    Attributes:
      kind: such as `floor`.
      value: the reference.
      position: where on the bar: 0 at its left end, 1 at its right end.
    """

    kind: str
    value: float
    position: float


class Scale(NamedTuple):
    """A bar from an easy reference, at 0, to a hard one, at 1.

    Attributes:
      easy: the reference at its left end.
      hard: the reference at its right end.
      position: of the figure; below 0 and above 1 where it lies outside.
      between: the other references.
    """

    easy: Mark
    hard: Mark
    position: float
    between: list[Mark]

    @property
    def label(self) -> str:
        """The position in words, where both ends are named beside it."""
        if self.position <= 0:
            return f"no better than {self.easy.kind}"
        if self.position >= 1:
            return f"{'as good as' if self.position == 1 else 'better than'} {self.hard.kind}"
        return f"{percent(self.position)} of the way"


class Judgement(NamedTuple):
    """A row of the table.

    Attributes:
      comparison: what is compared.
      value: the newest value, or None where there is none.
      step: its step.
      references: values by kind; None where the scalar was never logged.
      scale: where the value lies, or None where there are no two ends to put it between.
      remark: the same in words.
      tone: `good`, `bad` or "".
    """

    comparison: Comparison
    value: float | None
    step: int | None
    references: Mapping[str, float | None]
    scale: Scale | None
    remark: str
    tone: str


def judge(record: Record, comparison: Comparison) -> Judgement:
    """Looks the figure and its references up and puts them on a scale."""
    value = record.last(comparison.metric)
    step = record.series[comparison.metric].steps[-1] if value is not None else None
    references = {k: record.last(r) if isinstance(r, str) else float(r) for k, r in comparison.references.items()}
    known = {kind: r for kind, r in references.items() if r is not None and math.isfinite(r)}
    if value is None:
        return Judgement(comparison, value, step, references, None, "not measured", "")
    if not math.isfinite(value):
        return Judgement(comparison, value, step, references, None, "not a finite number", "bad")
    sign = -1 if comparison.better == "lower" else 1
    easy = next((kind for kind in known if role(kind, comparison.better) == "easy"), None)
    hard = next((kind for kind in known if role(kind, comparison.better) == "hard"), None)
    if easy is None or hard is None or easy == hard:
        return Judgement(comparison, value, step, references, None, *_beside(value, known, comparison))
    low, high = known[easy], known[hard]
    if sign * (high - low) <= 0:
        remark = f"{hard} is no better than {easy}"
        return Judgement(comparison, value, step, references, None, remark, "bad")

    def place(x: float) -> float:
        return (x - low) / (high - low)

    between = [Mark(kind, r, place(r)) for kind, r in known.items() if kind not in (easy, hard)]
    scale = Scale(Mark(easy, low, 0.0), Mark(hard, high, 1.0), place(value), between)
    inside = 0 < scale.position < 1
    remark = f"{scale.label} from {easy} to {hard}" if inside else scale.label
    tone = "" if inside else "good" if scale.position >= 1 else "bad"
    return Judgement(comparison, value, step, references, scale, remark, tone)


def role(kind: str, better: str) -> str:
    """`easy` for a reference that a good run beats, `hard` for one that it can at best reach, or ""."""
    if kind in ("floor", "ceiling"):
        return "easy" if (kind == "floor") == (better == "higher") else "hard"
    return "easy" if kind in _EASY else "hard" if kind in _HARD else ""


def number(value: float | None) -> str:
    """A number as a table shows it, with four digits: `20.28`, `4,500`, `0.0042`, `NaN`."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if abs(value) >= 1e15:
        text = f"{value:.3e}"
    elif value == round(value) or abs(value) >= 10_000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−") if "e" not in text else text


def percent(share: float) -> str:
    """A share as `29 %`; never rounded to all or nothing."""
    return "over 99 %" if 0.995 <= share < 1 else "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _beside(value: float, known: Mapping[str, float], comparison: Comparison) -> tuple[str, str]:
    """Says how far the value is from each reference."""
    remarks, tones = [], set()
    for kind, reference in known.items():
        difference = value - reference
        unit = f" {comparison.unit}" if comparison.unit else ""
        where = "above" if difference > 0 else "below"
        remarks.append(f"{number(abs(difference))}{unit} {where} {kind}" if difference else f"equal to {kind}")
        if role(kind, comparison.better) == "easy":
            ahead = difference < 0 if comparison.better == "lower" else difference > 0
            tones.add("good" if ahead else "bad")
    return ", ".join(remarks), "bad" if "bad" in tones else "good" if tones else ""
