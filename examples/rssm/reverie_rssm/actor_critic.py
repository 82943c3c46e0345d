"""What actor and critic learn from a rollout (Dreamer 3, arXiv:2301.04104, "Critic learning", "Actor learning")."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.distributions import TwoHot


class ReturnRange(NamedTuple):
    """The running 5th and 95th percentile of returns, and how much of the average there is already."""

    low: Float[Array, ""]
    high: Float[Array, ""]
    seen: Float[Array, ""]

    @classmethod
    def empty(cls) -> "ReturnRange":
        """Before any return was seen."""
        return cls(*(jnp.zeros(()) for _ in range(3)))

    def update(self, returns: Float[Array, "..."], decay: float) -> "ReturnRange":
        """Takes in a batch of returns."""
        returns = jax.lax.stop_gradient(returns).astype(jnp.float32)
        new = ReturnRange(jnp.quantile(returns, 0.05), jnp.quantile(returns, 0.95), jnp.ones(()))
        return jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, self, new)

    @property
    def scale(self) -> Float[Array, ""]:
        """What advantages are divided by: the range, at least 1, so that small returns are not blown up."""
        return jnp.maximum((self.high - self.low) / jnp.maximum(self.seen, 1e-8), 1.0)


def weighted_mean(values: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, ""]:
    """The mean under weights."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1e-6)


def actor_loss(
    log_prob: Float[Array, "B H"], entropy: Float[Array, "B H"], advantage: Float[Array, "B H"],
    scale: Float[Array, ""], weight: Float[Array, "B H"], *, entropy_weight: float,
) -> Float[Array, ""]:  # fmt: skip
    """REINFORCE with advantages in units of the return range, and a reward for staying undecided.

    Args:
      log_prob: of the actions taken, with a gradient.
      entropy: of the policy, with a gradient.
      advantage: λ-return minus value.
      scale: `ReturnRange.scale`.
      weight: of the states.
      entropy_weight: η.
    """
    gain = jax.lax.stop_gradient(advantage / scale) * log_prob + entropy_weight * entropy
    return -weighted_mean(gain, weight)


def critic_loss(
    two_hot: TwoHot, logits: Float[Array, "B H bins"], target: Float[Array, "B H"], slow: Float[Array, "B H"],
    weight: Float[Array, "B H"],
) -> Float[Array, ""]:  # fmt: skip
    """Cross-entropy with the λ-returns, and with what a slow copy of the critic says, which steadies it.

    Args:
      two_hot: the bins.
      logits: the critic's.
      target: λ-returns.
      slow: the slow copy's values.
      weight: of the states.
    """
    return weighted_mean(two_hot.loss(logits, target) + two_hot.loss(logits, slow), weight)
