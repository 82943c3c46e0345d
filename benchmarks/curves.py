"""How preset `cpu` learned, as a picture: `python -m benchmarks.readme` draws `docs/images/learning.png` with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.seeds import CURVES, Curves
from tasks import figures

# Of each phase's two figures: the axis of the first and its scale, and how the second is written.
_PANELS = {
    "tokenizer": ("mean squared error in training", "log", "{:.1f} dB"),
    "dynamics": ("squared error of latents in training", "log", "{:.1f} dB"),
    "heads": ("cross-entropy in training, nats", "linear", "{:.3f} nats"),
    "imagination_rl": ("return in imagination", "linear", "{:.2f}"),
}


def draw(chains: Sequence[Curves]) -> np.ndarray:
    """A panel for each phase; the first of the chains in colour, with what its evaluator measured at which step."""
    figure, places = figures.axes(len(_PANELS), width=3.6, height=3.2)
    for place, (phase, (label, scale, written)) in zip(places, _PANELS.items(), strict=True):
        trained, measured = CURVES[phase]
        for chain in reversed(chains):
            first = chain is chains[0]
            color = figures.COLORS["cloned" if first else "random"]
            place.plot(*_columns(chain[phase][trained]), color=color, linewidth=1.4 if first else 0.8)
        place.set(xlabel="step", ylabel=label, yscale=scale, title=f"{phase}\n{measured}")
        for step, value in chains[0][phase][measured]:
            place.axvline(step, color=figures.COLORS["agent"], linewidth=0.8, linestyle=":")
            place.annotate(
                written.format(value), (step, 0.75), xycoords=("data", "axes fraction"), rotation=90, fontsize=8,
                ha="right", va="top", color=figures.COLORS["agent"],
            )  # fmt: skip
    return figures.render(figure)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[Any, Any]:
    steps, values = zip(*points, strict=True)
    return steps, values
