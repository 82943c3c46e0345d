"""The agent's two worlds: the world model as a `models.imagination.World`, and eyes for a real environment."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from models.actions import no_action
from models.imagination import Actions, Moment
from reverie_rssm.inputs import action_vectors
from reverie_rssm.rssm import State
from reverie_rssm.world_model import WorldModel


class Imagination:
    """Dreams on in latent states; no frame is ever painted.

    Args:
      model: the world model.
    """

    def __init__(self, model: WorldModel):
        self.model = model

    def arrive(self, state: State) -> Moment:
        """What is known at a state [B]; its picture is the stochastic state."""
        features = state.features
        return Moment(features, self.model.reward.now(features), self.model.continues.now(features), state.stoch)

    def step(self, state: State, actions: Actions, rng: Key[Array, ""]) -> tuple[State, Moment]:
        """The state that the actions lead to, drawn from the prior."""
        known = jnp.ones((len(state.deter), 1), bool)
        later = jax.tree.map(lambda a: a[:, None], actions)
        state = jax.tree.map(lambda x: x[:, 0], self.model.dream(state, later, known, rng[None]))
        return state, self.arrive(state)


class RssmEyes:
    """Looks at a real environment's frames, one after the other: `tasks.control.Eyes`.

    Args:
      model: the world model.
    """

    def __init__(self, model: WorldModel):
        self.model = model

    def begin(self, rows: int) -> State:
        """The state before the first frame."""
        return self.model.rssm.initial(rows)

    def look(
        self, state: State, frame: UInt8[Array, "B H W C"], actions: Actions | None, rng: Key[Array, ""]
    ) -> tuple[State, Array]:
        """The posterior state of a frame, and its features."""
        space, rows = self.model.config.actions, len(frame)
        reset = jnp.full(rows, actions is None)
        given = no_action(space, (rows, 1)) if actions is None else jax.tree.map(lambda a: a[:, None], actions)
        action = action_vectors(given, space, ~reset[:, None])[:, 0]
        state, _ = self.model.rssm.see(state, action, reset, self.model.encode(frame), rng)
        return state, state.features
