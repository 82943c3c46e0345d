"""The interactive dynamics: one transformer that denoises the latents of a frame given the past and the actions.

Dreamer 4, arXiv:2509.24527, §3.2.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from models.actions import ActionEmbedding, ActionSpace, action_space
from models.cache import Cache, Memory, Past
from models.rms_norm import RMSNorm
from models.shortcut import PREDICTIONS
from models.tokens import Layout, packed_grid_shape
from models.transformer import SpaceTimeTransformer, TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """Sizes of a dynamics model.

    Attributes:
      latents: latent tokens per frame of the tokenizer (N).
      channels: channels per latent token (Z).
      packing: latents packed into one spatial token (k): N×Z → N/k × kZ.
      registers: register tokens per frame.
      max_steps: the finest sampler's steps (K_max, a power of two); signal levels lie on a grid of 1 / max_steps.
      latent_scale: latents are multiplied by it on the way in (toward the unit variance of the noise).
      actions: the action space; empty for video without actions.
      added_actions: add a frame's action to each of its spatial tokens too (as Genie does, arXiv:2402.15391, §2.1),
        so that layers can act on it from the first one on. [ours]
      residual: predict what changes from the frame before, whose latents are given beside the noisy ones (as DIAMOND
        does, arXiv:2405.12399, §3): what stands still need not be drawn anew, and does not fade from dream to dream.
        It takes a past of finished frames, as teacher forcing gives it in training. [ours]
      prediction: what the network's output stands for: "x", the clean latents (Dreamer 4), or "v", the velocity from
        noise to clean latents, as in flow matching (arXiv:2210.02747), for comparison.
      tasks: tasks that an agent token can be told to do; 0 for no agent token.
      transformer: sizes.
    """

    latents: int = 16
    channels: int = 32
    packing: int = 2
    registers: int = 4
    max_steps: int = 8
    latent_scale: float = 1.0
    actions: ActionSpace = dataclasses.field(default_factory=dict)
    added_actions: bool = False
    residual: bool = False
    prediction: Literal["x", "v"] = "x"
    tasks: int = 0
    transformer: TransformerConfig = TransformerConfig()

    def __post_init__(self):
        if self.latents % self.packing:
            raise ValueError(f"{self.latents} latent tokens do not pack by {self.packing}")
        if self.max_steps < 1 or self.max_steps & (self.max_steps - 1):
            raise ValueError(f"max_steps must be a power of two, got {self.max_steps}")
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction should be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if self.residual and self.prediction != "x":
            raise ValueError("residual is about the latents themselves: set prediction='x', or residual=false")
        if self.tasks < 0:
            raise ValueError(f"tasks must be 0 or more, got {self.tasks}")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "DynamicsConfig":
        """From plain nested data, as a config file holds it."""
        config = dict(config)
        config["actions"] = action_space(config.get("actions", {}))
        config["transformer"] = TransformerConfig(**config.get("transformer", {}))
        return cls(**config)

    @property
    def spatial_tokens(self) -> int:
        """Spatial tokens per frame."""
        return self.latents // self.packing

    @property
    def spatial_channels(self) -> int:
        """Channels of a spatial token."""
        return self.packing * self.channels


def pack(latents: Float[Array, "*lead N Z"], packing: int) -> Float[Array, "*lead M Y"]:
    """Joins each `packing` neighbouring latents into one spatial token: M = N / packing, Y = packing Z."""
    *lead, tokens, channels = latents.shape
    return latents.reshape(*lead, tokens // packing, packing * channels)


def unpack(spatial: Float[Array, "*lead M Y"], packing: int) -> Float[Array, "*lead N Z"]:
    """The inverse of `pack`."""
    *lead, tokens, channels = spatial.shape
    return spatial.reshape(*lead, tokens * packing, channels // packing)


class Prediction(NamedTuple):
    """What a pass of the dynamics gives.

    Attributes:
      latents: the predicted clean latents ẑ1; None where features alone were asked for.
      features: outputs h of the agent tokens, for policy, reward and value; None where no task was given.
      cache: the past with these frames written; None without a cache, or where no task was given to a model of tasks.
    """

    latents: Float[Array, "B T M Y"] | None
    features: Float[Array, "B T D"] | None
    cache: Cache | None


class Dynamics(nnx.Module):
    """f(z̃, τ, d | past, actions) → ẑ1: predicts a frame's clean latents from noisy ones.

    Tokens per frame: one for the action, one for signal level and step size, the spatial tokens, the registers, and the
    agent token, which carries a task's embedding, sees all others and is seen by none of them.

    Signal levels are given as integers on the grid: τ = signal / max_steps, where `max_steps` means clean. Step sizes
    are given as d = 2^-halvings.
    """

    def __init__(self, config: DynamicsConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.transformer.width
        sizes = {"action": 1, "signal": 1, "spatial": config.spatial_tokens, "register": config.registers}
        sees = dict.fromkeys(sizes, tuple(sizes))
        if config.tasks:
            sees["agent"] = (*sizes, "agent")
            sizes["agent"] = 1  # the last one, so that passes that need no features can leave it out
        grid = packed_grid_shape(config.latents, config.packing)
        self.layout = Layout(sizes, sees, {"spatial": grid})
        normal = nnx.initializers.normal(0.5)
        self.action = ActionEmbedding(config.actions, width, rngs=rngs)
        self.signal = nnx.Param(normal(rngs.params(), (config.max_steps + 1, width // 2)))
        self.step = nnx.Param(normal(rngs.params(), (config.max_steps.bit_length(), width - width // 2)))
        if config.added_actions:
            self.action_norm = RMSNorm(width, rngs=rngs)
            self.action_in = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.spatial_in = nnx.Linear(config.spatial_channels, width, rngs=rngs)
        if config.residual:
            self.previous_in = nnx.Linear(config.spatial_channels, width, use_bias=False, rngs=rngs)
        self.spatial_position = nnx.Param(normal(rngs.params(), (config.spatial_tokens, width)))
        self.registers = nnx.Param(normal(rngs.params(), (config.registers, width)))
        if config.tasks:
            self.tasks = nnx.Param(normal(rngs.params(), (config.tasks, width)))
        self.transformer = SpaceTimeTransformer(
            config.transformer, coordinates=self.layout.coordinates(), routing=self.layout.routing(), rngs=rngs
        )
        self.spatial_out = nnx.Linear(
            width, config.spatial_channels, kernel_init=nnx.initializers.zeros_init(), rngs=rngs
        )

    def __call__(
        self,
        noisy: Float[Array, "B T M Y"],
        signal: Int[Array, "B T"],
        halvings: Int[Array, "B T"],
        actions: Any,
        labelled: Bool[Array, "B T"],
        *,
        task: Int[Array, " B"] | None = None,
        features_only: bool = False,
        independent: Bool[Array, " B"] | None = None,
        cache: Cache | Past | Memory | None = None,
    ) -> Prediction:
        """Predicts clean latents.

        Args:
          noisy: packed, scaled latents z̃ at signal level τ.
          signal: the level of `noisy` itself, τ = signal / max_steps.
          halvings: the step size, d = 2^-halvings.
          actions: `actions[t]` led to frame t; any form that `models.actions.as_components` takes.
          labelled: frames whose action is known.
          task: whose features are wanted, 0 … tasks - 1; None to leave the agent token out. NaN features follow from
            an id that does not exist.
          features_only: where a task is given, predict no latents: the last layer then computes the agent token alone.
          independent: rows of unrelated frames.
          cache: the past, of `init_cache`; for passes that write nothing also as `recall` or `remember` gives it.

        Raises:
          ValueError: `task` is given, and the model has no agent token.
        """
        previous = self._previous(noisy, cache, independent) if self.config.residual else None
        tokens = self._tokens(noisy, previous, signal, halvings, actions, labelled)
        if task is not None:
            if not self.config.tasks:
                raise ValueError("a task is given, but this dynamics has no agent token (tasks=0)")
            known = jnp.where(task < 0, self.config.tasks, task)  # a negative index would count from the end
            agent = jnp.take(self.tasks[...], known, axis=0, mode="fill")[:, None, None]
            agent = jnp.broadcast_to(agent, (*noisy.shape[:2], *agent.shape[2:]))
            tokens = jnp.concatenate([tokens, agent], axis=2)
        first, count = self.layout.slice("spatial").start, self.config.spatial_tokens
        wanted = slice(first, first + count)
        if task is not None:  # the agent token is the last one
            wanted = slice(tokens.shape[2] - 1 if features_only else first, None)
        out, cache = self.transformer(tokens, wanted=wanted, independent=independent, cache=cache)
        if previous is not None and cache is not None:
            cache = cache._replace(previous=noisy[:, -1:])
        features = None if task is None else out[:, :, -1].astype(jnp.float32)
        if task is not None and features_only:
            return Prediction(None, features, cache)
        latents = self.spatial_out(out[:, :, :count].astype(jnp.float32))
        if self.config.prediction == "v":
            latents = noisy + (1 - signal / self.config.max_steps)[..., None, None] * latents
        return Prediction(latents if previous is None else previous + latents, features, cache)

    def init_cache(self, batch: int) -> Cache:
        """The empty past of `batch` streams."""
        cache = self.transformer.init_cache(batch)
        if not self.config.residual:
            return cache
        return cache._replace(previous=jnp.zeros((batch, 1, self.config.spatial_tokens, self.config.spatial_channels)))

    def recall(self, cache: Cache) -> Past:
        """The past made ready to be read: worth doing once, where several passes read the same."""
        return self.transformer.recall(cache)

    def remember(
        self, finished: Float[Array, "B T M Y"], signal: Int[Array, "B T"], halvings: Int[Array, "B T"], actions: Any,
        labelled: Bool[Array, "B T"], *, independent: Bool[Array, " B"] | None = None,
    ) -> Memory:  # fmt: skip
        """Finished frames as the past of noisy versions of the same frames; arguments as those of a pass."""
        previous = self._previous(finished, None, independent) if self.config.residual else None
        tokens = self._tokens(finished, previous, signal, halvings, actions, labelled)
        return self.transformer.remember(tokens, independent=independent)._replace(previous=previous)

    def _previous(self, frames: Array, past: Cache | Past | Memory | None, independent: Array | None) -> Array:
        """Of each frame, the one before it; nothing (zeros) before a clip's first and before unrelated frames."""
        if isinstance(past, Memory):
            assert past.previous is not None
            return past.previous
        first = jnp.zeros_like(frames[:, :1]) if past is None else past.previous
        if first is None:
            raise ValueError("a dynamics with residual=True needs a cache of its own init_cache, not its transformer's")
        previous = jnp.concatenate([first, frames[:, :-1]], axis=1)
        return previous if independent is None else jnp.where(independent[:, None, None, None], 0.0, previous)

    def _tokens(
        self, noisy: Array, previous: Array | None, signal: Array, halvings: Array, actions: Any, labelled: Array
    ) -> Array:
        """All tokens [B, T, S, D] but the agent's."""
        action = self.action(actions, labelled)[:, :, None]
        level = jnp.concatenate([self.signal[...][signal], self.step[...][halvings]], axis=-1)[:, :, None]
        spatial = self.spatial_in(noisy) + self.spatial_position[...]
        if previous is not None:
            spatial = spatial + self.previous_in(previous)
        if self.config.added_actions:
            spatial = spatial + self.action_in(self.action_norm(action))
        registers = jnp.broadcast_to(self.registers[...], (*noisy.shape[:2], *self.registers.shape))
        return jnp.concatenate([action, level, spatial, registers], axis=2)
