"""λ-returns of imagined or real rollouts, with rewards received on arrival (Dreamer 4, arXiv:2509.24527, §3.3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def lambda_returns(
    rewards: Float[Array, "B H"],
    continues: Float[Array, "B H"],
    values: Float[Array, "B H+1"],
    *,
    discount: float,
    trace: float,
) -> Float[Array, "B H"]:
    """R[i] = rewards[i] + γ continues[i] ((1 - λ) values[i+1] + λ R[i+1]), with R[H] = values[H].

    Rewards and continues are stored under the step that leads to them: in the convention of the data, r[t+1] and
    c[t+1] for the state t. `values[:, 0]` scores nothing here: R[0] is what it should have been.

    Args:
      rewards: `rewards[:, i]` is received on arriving at state i+1.
      continues: `continues[:, i]` is the probability that the episode goes on at state i+1.
      values: of the states 0 … H.
      discount: γ per step.
      trace: λ; 0 trusts the next state's value, 1 only the last one's.

    Raises:
      ValueError: the shapes do not fit.
    """
    if rewards.ndim != 2 or continues.shape != rewards.shape or values.shape != (len(rewards), rewards.shape[1] + 1):
        raise ValueError(
            "λ-returns need rewards [B, H], continues [B, H] and values [B, H+1], "
            f"got {list(rewards.shape)}, {list(continues.shape)} and {list(values.shape)}"
        )

    def backwards(following: Array, arrival: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, continued, value = arrival
        present = reward + discount * continued * ((1 - trace) * value + trace * following)
        return present, present

    arrivals = (rewards.T, continues.T, values[:, 1:].T)
    arrivals = jax.tree.map(lambda array: array.astype(jnp.float32), arrivals)
    _, returns = jax.lax.scan(backwards, arrivals[-1][-1], arrivals, reverse=True)
    return returns.T


def alive(continues: Float[Array, "B H"]) -> Float[Array, "B H+1"]:
    """The probability that each of the states 0 … H is reached; 1 for state 0."""
    continues = continues.astype(jnp.float32)
    return jnp.concatenate([jnp.ones_like(continues[:, :1]), jnp.cumprod(continues, 1)], 1)
