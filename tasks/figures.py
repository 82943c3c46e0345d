"""Figures of evaluators, drawn with matplotlib into pictures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
COLORS = {"agent": "#d1495b", "cloned": "#3e78b2", "random": "#9aa0a6", "optimal": "#2e8b57"}


def axes(columns: int = 1, width: float = 4.6, height: float = 3.2) -> tuple["Figure", list[Any]]:
    """A figure with axes side by side; nothing global is touched."""
    from matplotlib.figure import Figure  # takes a third of a second, which most starts do not need

    figure = Figure(figsize=(width * columns, height), dpi=DPI, layout="constrained")
    places = [figure.add_subplot(1, columns, n + 1) for n in range(columns)]
    for place in places:
        place.spines[["top", "right"]].set_visible(False)
        place.grid(alpha=0.25)
    return figure, places


def render(figure: "Figure") -> np.ndarray:
    """The figure as a picture [H, W, 3] of bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def cross_entropy(pooled: np.ndarray, by_distance: np.ndarray, floor: np.ndarray | None) -> np.ndarray:
    """Cross-entropy of a cloned policy against the distance; `floor` belongs to the pooled one."""
    figure, (place,) = axes(width=6)
    distance = np.arange(1, len(pooled) + 1)
    place.plot(distance, by_distance, "o-", color=COLORS["cloned"], alpha=0.5, label="at this distance")
    place.plot(distance, pooled, "o-", color=COLORS["agent"], label="mean over 1 … distance")
    if floor is not None:
        place.plot(distance, floor, "k--", label="floor of that mean")
    place.set(
        xlabel="frames ahead", ylabel="nats per action", title="Cross-entropy of the cloned policy", ylim=(0, None)
    )
    place.legend()
    return render(figure)


def rewards(
    truth: np.ndarray, recorded: np.ndarray, dreamed: np.ndarray, error: np.ndarray, error_dreamed: np.ndarray
) -> np.ndarray:
    """Rewards over time, predicted beside true: on recorded frames, along dreams, and the errors of both by frame.

    Args:
      truth: [clips, T]; NaN where no step led to the frame.
      recorded: [clips, T], of the recorded frames.
      dreamed: [clips, H], of the last H frames, along dreams.
      error: [T], mean over all clips on recorded frames; NaN where none counts.
      error_dreamed: [H], likewise along dreams.
    """
    figure, (left, middle, right) = axes(3)
    time = np.arange(truth.shape[1])
    late = time[truth.shape[1] - dreamed.shape[1] :]
    for place, title, steps, predicted in (
        (left, "on recorded frames", time, recorded),
        (middle, "along dreams", late, dreamed),
    ):
        for clip, (p, t) in enumerate(zip(predicted, truth[:, steps], strict=True)):
            color = f"C{clip}"
            place.plot(steps, t, color=color, alpha=0.45, linewidth=2.5, label="true" if clip == 0 else None)
            place.plot(steps, p, "--", color=color, linewidth=1.2, label="predicted" if clip == 0 else None)
        place.set(xlabel="frame", ylabel="reward", title=f"Rewards {title}, a colour a clip")
    left.legend()
    right.plot(time, error, color=COLORS["cloned"], label="on recorded frames")
    right.plot(late, error_dreamed, color=COLORS["agent"], label="along dreams")
    right.set(xlabel="frame", ylabel="mean absolute error", title="Reward error", ylim=(0, None))
    right.legend()
    return render(figure)


def rewards_of_policies(rewards: Mapping[str, np.ndarray], returns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean reward [H] over time of several policies, and how their returns [episodes] are distributed."""
    figure, (left, right) = axes(2)
    bins = np.histogram_bin_edges(np.concatenate(list(returns.values())), 30)
    for name, mean in rewards.items():
        color = COLORS.get(name, "black")
        left.plot(np.arange(1, len(mean) + 1), mean, color=color, label=name)
        right.hist(returns[name], bins, histtype="stepfilled", alpha=0.35, color=color, label=name)
    left.set(xlabel="step", ylabel="mean reward", title="In the real environment")
    right.set(xlabel="return of an episode", ylabel="episodes", title="Returns")
    left.legend()
    return render(figure)
