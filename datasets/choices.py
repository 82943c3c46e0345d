"""Whether the numbers of an action are choices: some are hardly meant as such, others probably are."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from datasets import tables

MOST = 4096  # Choices: more are hardly meant.
WIDEST_GAP = 16  # So many choices in a row that are never taken may be chance.
MOSTLY_WHOLE = 0.9  # Share of whole numbers from which on choices may have been meant.


class Values(NamedTuple):
    """What a file has of an action component that may be choices.

    Attributes:
      first: where each whole number stands first.
      broken: where a number stands first that is not whole, and this number; None: nowhere.
      count: how many numbers there are.
      whole: how many of them are whole.
      table: where they come from; "" for arrays.
    """

    first: Mapping[int, int]
    broken: tuple[int, float] | None
    count: int
    whole: int
    table: str


def values(numbers: np.ndarray, used: np.ndarray, table: str) -> Values | None:
    """Of an action [T, K] where `used` [T]; None where K is not 1, or a whole number is no choice's."""
    rows = np.flatnonzero(used)
    given = numbers[rows, 0]
    whole = given == np.floor(given)
    found, first = np.unique(given[whole], return_index=True)
    if numbers.shape[1] > 1 or (found.size and not 0 <= found[0] <= found[-1] < MOST):
        return None
    places = dict(zip(found.astype(int).tolist(), rows[whole][first].tolist(), strict=True))
    broken = (int(rows[~whole][0]), float(given[~whole][0])) if not whole.all() else None
    return Values(places, broken, len(rows), int(whole.sum()), table)


def far_ones(label: str, files: Mapping[str, Values | None]) -> list[str]:
    """What is wrong with files whose choices lie far above all others."""
    given = {name: one for name, one in files.items() if one}
    taken = sorted({choice for one in given.values() for choice in one.first})
    gaps = zip([-1, *taken], taken, strict=False)
    far = next(((low, high) for n, (low, high) in enumerate(gaps) if high - low - 1 > max(WIDEST_GAP, n)), None)
    if far is None:
        return []
    low, high = far
    out = []
    for name, one in given.items():
        above = {place: choice for choice, place in one.first.items() if choice >= high}
        if above:
            place = min(above)
            out.append(
                f"{name}: {tables.place(label, place, one.table)}: is {above[place]}, and no choice from {low + 1} to "
                f"{high - 1} is ever taken; count choices from 0 without gaps, or give --sparse_choices if it is meant"
            )
    return out


def likely(label: str, files: Mapping[str, Values | None]) -> list[str]:
    """A note where numbers are whole, or nearly all of them, as choices are."""
    given = {name: one for name, one in files.items() if one}
    choices = {choice for one in given.values() for choice in one.first}
    count, whole = sum(one.count for one in given.values()), sum(one.whole for one in given.values())
    if len(given) < len(files) or len(choices) < 2 or whole < MOSTLY_WHOLE * count:
        return []
    span = f"{whole} of {count} are whole, {min(choices)} … {max(choices)}"
    broken = next(((name, one) for name, one in given.items() if one.broken), None)
    if broken is None:
        why, what = f"though {span}", "For choices store whole numbers (in a table: 1, not 1.0)"
    else:
        name, one = broken
        place = tables.place(label, one.broken[0], one.table)
        why = f"since {name} has {one.broken[1]:g} at {place}; {span}"
        what = "Where choices were meant, mend that, and store whole numbers"
    return [f"{label}: numbers, not choices, {why}. {what}"]
