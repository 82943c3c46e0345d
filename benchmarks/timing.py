"""Seconds per step: warmed up, in rounds that end when the device is done."""

import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS, FEWEST_ROUNDS = 9, 3
WARM_UP_SHARE = 0.1  # of the time that the rounds take


def seconds_of(work: Callable[[], Any]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def time_steps(run: Callable[[int], Any], seconds: float) -> dict[str, float]:
    """Times steps that have been compiled.

    Args:
      run: takes n steps and returns when the device is done with them.
      seconds: how long to measure; steps that take longer are taken three times, or twice as long at most.

    Returns:
      `step_s`, the median over rounds, `step_s_min`, `step_s_max`, and how many `rounds` of `steps_per_round`.
    """
    step_s = seconds_of(lambda: run(1))
    warm = max(1, round(seconds * WARM_UP_SHARE / step_s))
    step_s = seconds_of(lambda: run(warm)) / warm
    steps = max(1, round(seconds / ROUNDS / step_s))
    rounds: list[float] = []
    while len(rounds) < ROUNDS:
        spent = sum(rounds) * steps
        if spent >= (2 * seconds if len(rounds) < FEWEST_ROUNDS else seconds):
            break
        rounds.append(seconds_of(lambda: run(steps)) / steps)
    return {
        "step_s": statistics.median(rounds),
        "step_s_min": min(rounds),
        "step_s_max": max(rounds),
        "rounds": len(rounds),
        "steps_per_round": steps,
    }
