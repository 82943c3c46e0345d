"""PMPO: a policy objective that asks of an advantage only its sign; and REINFORCE, to compare it with.

arXiv:2410.04166; Dreamer 4, arXiv:2509.24527, §3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class PmpoLoss(NamedTuple):
    """The terms, with their factors; the objective is their sum.

    Attributes:
      positive: -α · mean ln π over the states with advantage ≥ 0.
      negative: (1 - α) · mean ln π over those below 0.
      prior: β · mean KL(π ‖ prior) over all.
    """

    positive: Float[Array, ""]
    negative: Float[Array, ""]
    prior: Float[Array, ""]


def pmpo(
    log_prob: Float[Array, "..."],
    advantage: Float[Array, "..."],
    kl: Float[Array, "..."],
    weight: Float[Array, "..."],
    *,
    alpha: float = 0.5,
    beta: float = 0.3,
) -> PmpoLoss:
    """(1-α)/|D⁻| Σ_D⁻ ln π - α/|D⁺| Σ_D⁺ ln π + β/N Σ KL(π ‖ prior), all arrays of one shape.

    Args:
      log_prob: ln π of the action taken, in nats.
      advantage: R - v; in D⁺ from 0 on, in D⁻ below. No gradient reaches it.
      kl: KL(π ‖ prior), in nats; the policy comes first.
      weight: in [0, 1], whether the state is still alive; a state counts by it, in the sums as in |D⁺|, |D⁻| and N.
        What the arrays hold at weight 0 does not matter. No gradient reaches it.
      alpha: α, the share of the positive set in the objective.
      beta: β, how strongly the policy is held to the prior.

    Returns:
      The terms; that of an empty set is 0, and so is its gradient.

    Raises:
      ValueError: the shapes differ.
    """
    weight, good = _checked(log_prob, advantage, kl, weight), advantage >= 0
    return PmpoLoss(
        positive=-alpha * _mean(log_prob, jnp.where(good, weight, 0.0)),
        negative=(1 - alpha) * _mean(log_prob, jnp.where(good, 0.0, weight)),
        prior=beta * _mean(kl, weight),
    )


def reinforce(
    log_prob: Float[Array, "..."],
    advantage: Float[Array, "..."],
    kl: Float[Array, "..."],
    weight: Float[Array, "..."],
    *,
    beta: float = 0.3,
) -> PmpoLoss:
    """-1/N Σ A ln π + β/N Σ KL(π ‖ prior): the policy gradient with a baseline (Williams 1992), terms as PMPO's.

    Arguments, weights and errors are those of `pmpo`; advantages enter with their size, in units of the return.
    """
    weight, good = _checked(log_prob, advantage, kl, weight), advantage >= 0
    gain = -_mean(log_prob * jax.lax.stop_gradient(advantage), weight, where=good)
    loss = -_mean(log_prob * jax.lax.stop_gradient(advantage), weight, where=~good)
    return PmpoLoss(positive=gain, negative=loss, prior=beta * _mean(kl, weight))


def _checked(log_prob: Array, advantage: Array, kl: Array, weight: Array) -> Array:
    """The weight, without a gradient; the arrays have one shape."""
    shapes = {"log_prob": log_prob.shape, "advantage": advantage.shape, "kl": kl.shape, "weight": weight.shape}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"policy losses need arrays of one shape, got {shapes}")
    return jax.lax.stop_gradient(weight.astype(jnp.float32))


def _mean(x: Array, weight: Array, where: Array | bool = True) -> Float[Array, ""]:
    total = jnp.sum(weight)
    counted = jnp.where((weight > 0) & where, weight * x, 0.0)  # 0 · NaN would be NaN
    return jnp.sum(counted) / jnp.where(total > 0, total, 1.0)
