"""How well the behaviour policy can be predicted at all: the floor under a cloned policy's cross-entropy."""

import numpy as np
from jaxtyping import Float

from datasets.bouncing_square import rules

SHORTEST, LONGEST = rules.HOLD_RANGE
# The chance that an action ends after it was held m steps, given that it was held so long; m = 0 does not occur.
ENDS = np.array([1 / (LONGEST - m + 1) if m >= SHORTEST else 0.0 for m in range(LONGEST + 1)])


def cross_entropy_floor(variant: rules.Variant, length: int, max_distance: int) -> Float[np.ndarray, "L"]:
    """The least mean cross-entropy, in nats, of predicting actions from all that came before.

    Args:
      variant: the rules.
      length: T, frames of the clips, which start at the reset.
      max_distance: L.

    Returns:
      For n = 1 … L the mean, over all pairs (t, d) with 1 ≤ d ≤ n and t + d < T, of the entropy of `actions[t + d]`
      given `actions[… t]`. All that counts of those is the present action and how long it has been held.
    """
    count = variant.num_actions
    held = np.arange(LONGEST + 1)

    # entropies[d - 1, m]: of the action in d steps where the present one has been held for m.
    present = np.zeros((LONGEST, count, LONGEST + 1))
    present[held[1:] - 1, 0, held[1:]] = 1
    entropies = np.zeros((max_distance, LONGEST + 1))
    for distance in range(max_distance):
        present = _advance(present)
        entropies[distance, 1:] = _entropy(present.sum(-1))

    # Nothing is known at t = 0 but which actions can be the first.
    future = np.zeros((count, LONGEST + 1))
    future[0 if variant.first_action_up else 1 :, 1] = 1
    future /= future.sum()
    sums, pairs = np.zeros(max_distance), length - 1 - np.arange(max_distance)
    for time in range(1, length):
        if time <= max_distance:
            sums[time - 1] += _entropy(future.sum(-1))
        reach = min(max_distance, length - 1 - time)
        sums[:reach] += entropies[:reach] @ future.sum(0)
        future = _advance(future)
    return np.cumsum(sums) / np.cumsum(pairs)


def _advance(present: Float[np.ndarray, "... A M"]) -> Float[np.ndarray, "... A M"]:
    """The distribution over the action and the steps it has been held, one step later."""
    ended = (present * ENDS).sum(-1)
    later = np.zeros_like(present)
    later[..., 2:] = (present * (1 - ENDS))[..., 1:-1]
    later[..., 1] = (ended.sum(-1, keepdims=True) - ended) / (present.shape[-2] - 1)
    return later


def _entropy(probabilities: Float[np.ndarray, "... A"]) -> Float[np.ndarray, "..."]:
    return -np.sum(probabilities * np.log(np.maximum(probabilities, 1e-300)), -1)
