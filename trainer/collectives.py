"""What a compiled program sends between devices, read from its text."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ([\w\-]+)\(")
_CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def count_collectives(hlo: str) -> dict[str, dict[str, float]]:
    """Collectives of a compiled program for one device, as `compiled.as_text()` gives it.

    Returns:
      By kind, `count` and `bytes` (of the results, on one device), as often as loops of known length run them.
    """
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)  # by computation
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    entry, current = "", ""
    for line in hlo.splitlines():
        if start := _COMPUTATION.match(line):
            current = start[2]
            entry = current if start[1] else entry
        elif operation := _OPERATION.match(line):
            kind = operation[2].removesuffix("-start")
            if kind in KINDS:
                found[current].append((kind, _bytes(operation[1])))
            trips = _TRIPS.search(line) if kind == "while" else None
            calls[current] += [(name, int(trips[1]) if trips else 1) for name in _CALLED.findall(line)]
    totals: dict[str, Any] = {kind: Counter() for kind in KINDS}
    for computation, times in _runs(entry, calls, 1):
        for kind, size in found[computation]:
            totals[kind].update({"count": times, "bytes": times * size})
    return {kind: dict(total) for kind, total in totals.items() if total}


def _runs(name: str, calls: dict[str, list[tuple[str, int]]], times: int) -> Iterator[tuple[str, int]]:
    """Every computation that is reached from `name`, and how often it runs."""
    yield name, times
    for called, trips in calls[name]:
        yield from _runs(called, calls, times * trips)


def _bytes(shape: str) -> float:
    """Bytes of an array, or of a tuple of them, such as `(f32[2,3]{1,0}, bf16[4])`."""
    return sum(
        _BYTES.get(kind, 4) * math.prod(map(int, filter(None, sizes.split(","))))
        for kind, sizes in _ARRAY.findall(shape)
    )
