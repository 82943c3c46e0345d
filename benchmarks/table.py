"""The figures of several benchmarks as a table for people."""

from collections.abc import Callable, Mapping
from typing import Any

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def bytes_text(count: float) -> str:
    """As in "1.5 GiB"."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def seconds_text(seconds: float) -> str:
    """As in "1.5 s", "20 ms" or "77 µs"."""
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * scale:.3g} {unit}"


def _share_text(share: float) -> str:
    return f"{100 * share:.1f} %"


# The heading of a column, where its figure lies, and how it is written.
_COLUMNS: tuple[tuple[str, tuple[str, ...], Callable[[Any], str]], ...] = (
    ("batch", ("batch",), lambda batch: " × ".join(map(str, batch))),
    ("frames/s", ("frames_per_s",), lambda value: f"{value:,.0f}"),
    ("step", ("step_s",), seconds_text),
    ("first step", ("first_step_s",), seconds_text),
    ("utilisation", ("utilization",), _share_text),
    ("peak memory", ("peak_memory",), bytes_text),
    ("roofline", ("roofline", "roofline_step_s"), seconds_text),
    ("reached", ("roofline", "reached"), _share_text),
)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each benchmark; "-" where it has no such figure, its message where it failed."""
    rows = [["benchmark", *(heading for heading, _, _ in _COLUMNS)]]
    for name, figures in results.items():
        rows.append([name, *(_cell(figures, path, text) for _, path, text in _COLUMNS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    errors = [f"{name}: {figures['error']}" for name, figures in results.items() if "error" in figures]
    return "\n".join([*lines, *errors])


def _cell(figures: Any, path: tuple[str, ...], text: Callable[[Any], str]) -> str:
    for key in path:
        figures = (figures or {}).get(key)
    return "-" if figures is None else text(figures)
