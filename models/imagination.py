"""Rollouts of a policy in a world: in the world model's imagination, or in a real environment, through the same code.

Dreamer 4, arXiv:2509.24527, §3.3. Rollouts carry no gradient; what is learned from them is elsewhere (`models.pmpo`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.cache import Cache
from models.dynamics import Dynamics
from models.generation import Sampler, observe, sample_frame
from models.heads import ContinueHead, TwoHotHead

State = TypeVar("State")
Actions = dict[str, Array]


class Moment(NamedTuple):
    """What is known on arriving at a frame.

    Attributes:
      features: h of the frame.
      reward: received on arriving here.
      continues: the probability that the episode goes on from here; 0 where it has terminated.
      picture: the frame, in the world's own form: latents in imagination, pixels in an environment.
    """

    features: Float[Array, "B D"]
    reward: Float[Array, " B"]
    continues: Float[Array, " B"]
    picture: Array


class World(Protocol[State]):
    """Anything that a policy can be rolled out in."""

    def step(self, state: State, actions: Actions, rng: jax.Array) -> tuple[State, Moment]:
        """The frame that the actions lead to."""


# policy(state, moment, t, rng) → the actions that lead to frame t + 1, by component [B, …]
Policy = Callable[[Any, Moment, Array, jax.Array], Actions]


class Rollout(NamedTuple):
    """H steps from a start; time is the second axis.

    `actions[:, i]` was chosen at state i and led to state i + 1, on arriving at which `rewards[:, i]` and
    `continues[:, i]` were received.

    Attributes:
      features: of the states 0 … H; state 0 is the start itself.
      actions: H of them, by component.
      rewards: H of them.
      continues: H of them.
      pictures: of the states 0 … H; None where they were not asked for.
    """

    features: Float[Array, "B S D"]
    actions: Actions
    rewards: Float[Array, "B H"]
    continues: Float[Array, "B H"]
    pictures: Array | None


def roll_out(
    world: World, start: tuple[Any, Moment], policy: Policy, rng: jax.Array, horizon: int, *, pictures: bool = False
) -> Rollout:
    """Acts for `horizon` steps.

    Args:
      world: where.
      start: a state of the world and the moment at which it was reached.
      policy: what to do.
      rng: a key; step t depends on it, t and the past alone.
      horizon: steps (H).
      pictures: keep the frames.
    """

    def step(carry: tuple[Any, Moment], t: Array) -> tuple[tuple[Any, Moment], Any]:
        state, moment = carry
        policy_rng, world_rng = jax.random.split(jax.random.fold_in(rng, t))
        actions = policy(state, moment, t, policy_rng)
        state, moment = world.step(state, actions, world_rng)
        kept = moment if pictures else moment._replace(picture=jnp.zeros(0))
        return (state, moment), (kept, actions)

    _, (moments, actions) = jax.lax.scan(step, start, jnp.arange(horizon))

    def batch_first(x: Array) -> Array:
        return x.swapaxes(0, 1)

    def with_start(first: Array, later: Array) -> Array:
        return jnp.concatenate([first[:, None], batch_first(later)], axis=1)

    first = start[1]
    return Rollout(
        features=with_start(first.features, moments.features),
        actions=jax.tree.map(batch_first, actions),
        rewards=batch_first(moments.reward),
        continues=batch_first(moments.continues),
        pictures=with_start(first.picture, moments.picture) if pictures else None,
    )


class WorldModel:
    """The imagination: frames are dreamed, rewards and continues are read from their features.

    A state is the dynamics' cache.

    Args:
      dynamics: with an agent token.
      reward: the reward head.
      continues: the continue head; None where the world never ends.
      sampler: how frames are dreamed.
      task: task ids.
    """

    def __init__(
        self, dynamics: Dynamics, reward: TwoHotHead, continues: ContinueHead | None, sampler: Sampler,
        task: Int[Array, " B"],
    ):  # fmt: skip
        self.dynamics, self.reward, self.continues, self.sampler, self.task = dynamics, reward, continues, sampler, task

    def begin(
        self, latents: Float[Array, "B T M Y"], actions: Any, labelled: Bool[Array, "B T"], rng: jax.Array
    ) -> tuple[Cache, Moment]:
        """Takes in a recorded context; the first imagined state is its last frame, with that frame's own features."""
        cache = self.dynamics.init_cache(len(latents))
        return self.observe(cache, latents, actions, labelled, rng)

    def observe(
        self, cache: Cache, latents: Float[Array, "B T M Y"], actions: Any, labelled: Bool[Array, "B T"], rng: jax.Array
    ) -> tuple[Cache, Moment]:
        """Takes in finished frames; the moment is that of the last one."""
        features, cache = observe(  # type: ignore[assignment]
            self.dynamics, cache, latents, actions, labelled, rng, self.sampler, task=self.task
        )
        assert features is not None
        last = features[:, -1]
        continues = jnp.ones(len(last)) if self.continues is None else self.continues.now(last)
        return cache, Moment(last, self.reward.now(last), continues, latents[:, -1])

    def step(self, state: Cache, actions: Actions, rng: jax.Array) -> tuple[Cache, Moment]:
        """Dreams the next frame."""
        noise_rng, observe_rng = jax.random.split(rng)
        action = jax.tree.map(lambda a: a[:, None], actions)
        config, known = self.dynamics.config, jnp.ones((len(self.task), 1), bool)
        noise = jax.random.normal(noise_rng, (len(self.task), 1, config.spatial_tokens, config.spatial_channels))
        frame = sample_frame(self.dynamics, state, action, known, noise, self.sampler)
        return self.observe(state, frame, action, known, observe_rng)


class AgentView:
    """A world model whose frames an agent reads through a transformer of its own.

    The frames, rewards and continues are the world's; only the features are the agent's.

    Args:
      world: dreams.
      reader: reads every finished frame, with a past of its own.
    """

    def __init__(self, world: WorldModel, reader: WorldModel):
        self.world, self.reader = world, reader

    def begin(
        self, latents: Float[Array, "B T M Y"], actions: Any, labelled: Bool[Array, "B T"], rng: jax.Array
    ) -> tuple[tuple[Cache, Cache], Moment]:
        """Both take in a recorded context."""
        state, moment = self.world.begin(latents, actions, labelled, rng)
        past, read = self.reader.begin(latents, actions, labelled, rng)
        return (state, past), moment._replace(features=read.features)

    def step(self, state: tuple[Cache, Cache], actions: Actions, rng: jax.Array) -> tuple[tuple[Cache, Cache], Moment]:
        """The world dreams the next frame, and the agent looks at it."""
        dreaming, past = state
        dreaming, moment = self.world.step(dreaming, actions, rng)
        action, known = jax.tree.map(lambda a: a[:, None], actions), jnp.ones((len(moment.reward), 1), bool)
        _, read_rng = jax.random.split(rng)  # the world's own key for this: equal transformers read the same
        past, read = self.reader.observe(past, moment.picture[:, None], action, known, read_rng)
        return (dreaming, past), moment._replace(features=read.features)
