"""The recurrent state-space model, a GRU with categorical latents (arXiv:2301.04104, "World model learning").

The deterministic state h[t] knows the past and the action that led to frame t. The prior guesses the stochastic state
z[t] from it, the posterior has seen frame t too.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from reverie_rssm.networks import Mlp


@dataclasses.dataclass(frozen=True, kw_only=True)
class RssmConfig:
    """Sizes.

    Attributes:
      deter: units of the deterministic state.
      hidden: units of the layers around it.
      groups: categorical variables of the stochastic state.
      classes: of each.
      unimix: share of every categorical distribution that is even, so that no class is ever impossible.
    """

    deter: int = 256
    hidden: int = 256
    groups: int = 16
    classes: int = 16
    unimix: float = 0.01

    def __post_init__(self):
        for name in ("deter", "hidden", "groups", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.unimix < 1:
            raise ValueError(f"model.unimix must be at least 0 and below 1, got {self.unimix}")

    @property
    def features(self) -> int:
        """Channels of `State.features`."""
        return self.deter + self.groups * self.classes


class State(NamedTuple):
    """What the model knows at a frame.

    Attributes:
      deter: h.
      stoch: z, one-hot.
    """

    deter: Float[Array, "*lead D"]
    stoch: Float[Array, "*lead G C"]

    @property
    def features(self) -> Float[Array, "*lead F"]:
        """Both, as what decoder, heads, policy and critic read."""
        return jnp.concatenate([self.deter, self.stoch.reshape(*self.stoch.shape[:-2], -1)], axis=-1)


class Rssm(nnx.Module):
    """Transition, prior and posterior.

    Args:
      config: sizes.
      actions: channels of an action vector.
      rngs: for the parameters.
    """

    def __init__(self, config: RssmConfig, actions: int, *, rngs: nnx.Rngs):
        latent = config.groups * config.classes
        self.config = config
        self.stoch_in = nnx.Linear(latent, config.hidden, use_bias=False, rngs=rngs)
        self.action_in = nnx.Linear(actions, config.hidden, use_bias=False, rngs=rngs)
        self.in_norm = nnx.RMSNorm(config.hidden, rngs=rngs)
        self.gru = nnx.Linear(config.deter + config.hidden, 3 * config.deter, use_bias=False, rngs=rngs)
        self.gru_norm = nnx.LayerNorm(3 * config.deter, rngs=rngs)
        self.prior_hidden = Mlp(config.deter, config.hidden, 1, rngs=rngs)
        self.prior_out = nnx.Linear(config.hidden, latent, rngs=rngs)
        self.posterior_hidden = nnx.Linear(config.deter, config.hidden, use_bias=False, rngs=rngs)
        self.posterior_norm = nnx.RMSNorm(config.hidden, rngs=rngs)
        self.posterior_out = nnx.Linear(config.hidden, latent, rngs=rngs)

    def initial(self, rows: int) -> State:
        """The state before the first frame: zeros."""
        config, dtype = self.config, self.gru.kernel.dtype
        return State(jnp.zeros((rows, config.deter), dtype), jnp.zeros((rows, config.groups, config.classes), dtype))

    def advance(
        self, state: State, action: Float[Array, "B A"], reset: Bool[Array, " B"] | None = None
    ) -> Float[Array, "B D"]:
        """h of the frame that the action leads to; where `reset`, of a frame without a past."""
        if reset is not None:
            state = jax.tree.map(lambda new, old: _where(reset, new, old), self.initial(len(action)), state)
        stoch = state.stoch.reshape(len(action), -1)
        x = self.stoch_in(stoch) + self.action_in(action.astype(stoch.dtype))
        x = jnp.concatenate([state.deter, jax.nn.silu(self.in_norm(x))], axis=-1)
        again, candidate, update = jnp.split(self.gru_norm(self.gru(x)), 3, axis=-1)
        candidate = jnp.tanh(jax.nn.sigmoid(again) * candidate)
        update = jax.nn.sigmoid(update - 1)  # it starts by keeping most of what it knows
        return update * candidate + (1 - update) * state.deter

    def prior(self, deter: Float[Array, "*lead D"]) -> Float[Array, "*lead G C"]:
        """Log-probabilities of z before the frame is seen."""
        return self._logits(self.prior_out(self.prior_hidden(deter)))

    def posterior(self, deter: Float[Array, "*lead D"], seen: Float[Array, "*lead E"]) -> Float[Array, "*lead G C"]:
        """Log-probabilities of z after it; `seen` is what the encoder made of it, `hidden` channels."""
        x = jax.nn.silu(self.posterior_norm(self.posterior_hidden(deter) + seen))
        return self._logits(self.posterior_out(x))

    def _logits(self, raw: Array) -> Array:
        config = self.config
        probabilities = jax.nn.softmax(raw.astype(jnp.float32).reshape(*raw.shape[:-1], config.groups, config.classes))
        return jnp.log((1 - config.unimix) * probabilities + config.unimix / config.classes)

    def see(
        self, state: State, action: Float[Array, "B A"], reset: Bool[Array, " B"], seen: Float[Array, "B E"],
        rng: Key[Array, ""],
    ) -> tuple[State, Float[Array, "B G C"]]:  # fmt: skip
        """One step with its frame: the next state and its posterior."""
        deter = self.advance(state, action, reset)
        logits = self.posterior(deter, seen)
        return State(deter, draw(rng, logits).astype(deter.dtype)), logits

    def dream(self, state: State, action: Float[Array, "B A"], rng: Key[Array, ""]) -> State:
        """One step without it."""
        deter = self.advance(state, action)
        return State(deter, draw(rng, self.prior(deter)).astype(deter.dtype))


def draw(rng: Key[Array, ""], logits: Float[Array, "*lead G C"]) -> Float[Array, "*lead G C"]:
    """One-hot samples; the gradient passes straight through to the probabilities."""
    probabilities = jnp.exp(logits)
    hot = jax.nn.one_hot(jax.random.categorical(rng, logits), logits.shape[-1])
    return hot + probabilities - jax.lax.stop_gradient(probabilities)


def observe(
    rssm: Rssm, state: State, actions: Float[Array, "B T A"], resets: Bool[Array, "B T"], seen: Float[Array, "B T E"],
    keys: Key[Array, " T"],
) -> tuple[State, Float[Array, "B T G C"]]:  # fmt: skip
    """States and posteriors of recorded frames, one after the other; frame t draws with `keys[t]`."""

    def step(state: State, inputs: tuple[Array, ...]) -> tuple[State, tuple[State, Array]]:
        action, reset, seen, key = inputs
        state, logits = rssm.see(state, action, reset, seen, key)
        return state, (state, logits)

    _, out = jax.lax.scan(step, state, (*map(_swap, (actions, resets, seen)), keys))
    return jax.tree.map(_swap, out)


def dream(rssm: Rssm, state: State, actions: Float[Array, "B H A"], keys: Key[Array, " H"]) -> State:
    """States [B, H] that the actions lead to, unseen; step t draws with `keys[t]`."""

    def step(state: State, inputs: tuple[Array, Array]) -> tuple[State, State]:
        state = rssm.dream(state, *inputs)
        return state, state

    return jax.tree.map(_swap, jax.lax.scan(step, state, (_swap(actions), keys))[1])


def _swap(x: Array) -> Array:
    return x.swapaxes(0, 1)


def _where(rows: Bool[Array, " B"], new: Array, old: Array) -> Array:
    return jnp.where(rows.reshape(-1, *[1] * (old.ndim - 1)), new, old)
