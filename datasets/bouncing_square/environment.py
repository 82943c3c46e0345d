"""`BouncingSquare`: the bouncing-square world as an environment.

```python
env = make("reference", time_limit=32)
state, time_step = jax.vmap(env.reset)(jax.random.split(rng, 256))
state, time_step = jax.vmap(env.step)(state, actions)
```
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from datasets.bouncing_square import rules
from datasets.bouncing_square.cross_entropy_floor import cross_entropy_floor
from datasets.environment import ActionSpec, TimeStep
from datasets.errors import near_matches


class EnvironmentState(NamedTuple):
    """The world, and the steps since the reset."""

    world: rules.State
    steps: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class BouncingSquare:
    """An `Environment` with the rules that recorded the data set.

    Attributes:
      variant: the rules.
      time_limit: steps after which an episode is cut (`is_last`, not `is_terminal`); None for never.
      terminate_after: steps after which an episode terminates; None, as in the data set, for never.
      terminate_within: distance from the frame's centre, in px, at which an episode terminates; None for never.
    """

    variant: rules.Variant = rules.REFERENCE
    _: dataclasses.KW_ONLY
    time_limit: int | None = None
    terminate_after: int | None = None
    terminate_within: float | None = None

    @property
    def action_spec(self) -> ActionSpec:
        """0 up, 1 down, 2 left, 3 right, and 4 to stay where the variant has it."""
        return ActionSpec(num_actions=self.variant.num_actions, null_action=rules.NULL_ACTION)

    def reset(self, rng: Key[Array, ""]) -> tuple[EnvironmentState, TimeStep]:
        """Draws a start; an episode never ends at its first frame."""
        world = rules.initial_state(rng, self.variant)
        no = jnp.bool_(False)
        time_step = TimeStep(rules.render(world), jnp.float32(0), is_first=~no, is_last=no, is_terminal=no)
        return EnvironmentState(world, jnp.int32(0)), time_step

    def step(self, state: EnvironmentState, action: Int[Array, ""]) -> tuple[EnvironmentState, TimeStep]:
        """Moves the square."""
        world, steps = rules.step(state.world, action), state.steps + 1
        reward = rules.reward(world)
        terminal = jnp.bool_(False)
        if self.terminate_after is not None:
            terminal |= steps >= self.terminate_after
        if self.terminate_within is not None:
            terminal |= -reward <= self.terminate_within
        last = terminal if self.time_limit is None else terminal | (steps >= self.time_limit)
        time_step = TimeStep(rules.render(world), reward, is_first=jnp.bool_(False), is_last=last, is_terminal=terminal)
        return EnvironmentState(world, steps), time_step

    def optimal_action(self, state: EnvironmentState) -> Int[Array, ""]:
        """The oracle's choice, to judge a policy by."""
        return rules.optimal_action(state.world, self.variant)

    def behavior_entropy(self, length: int, max_distance: int) -> Float[np.ndarray, "L"]:
        """The floor under a cloned policy's cross-entropy, in nats: `cross_entropy_floor` of this variant.

        Args:
          length: T, frames of the clips, which start at the reset.
          max_distance: L.

        Returns:
          For n = 1 … L the least mean cross-entropy of predicting the recorded actions at distances 1 … n.
        """
        return cross_entropy_floor(self.variant, length, max_distance)


def make(variant: str = "reference", **limits: Any) -> BouncingSquare:
    """The environment with the variant by its name, for use from a config.

    Args:
      variant: "reference" or "clean", of `rules.VARIANTS`.
      **limits: `time_limit`, `terminate_after`, `terminate_within` of `BouncingSquare`.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in rules.VARIANTS:
        raise ValueError(
            f"the bouncing square has no variant {variant!r}. {near_matches(str(variant), rules.VARIANTS)}"
            f"Its variants: {', '.join(rules.VARIANTS)}"
        )
    return BouncingSquare(rules.VARIANTS[variant], **limits)
