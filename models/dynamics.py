"""The interactive dynamics: one transformer that denoises the latents of a frame given the past and the actions.

Dreamer 4, arXiv:2509.24527, §3.2.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from models.actions import ActionEmbedding, ActionSpace, action_space
from models.cache import Cache
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
      transformer: sizes.
    """

    latents: int = 16
    channels: int = 32
    packing: int = 2
    registers: int = 4
    max_steps: int = 8
    latent_scale: float = 1.0
    actions: ActionSpace = dataclasses.field(default_factory=dict)
    transformer: TransformerConfig = TransformerConfig()

    def __post_init__(self):
        if self.latents % self.packing:
            raise ValueError(f"{self.latents} latent tokens do not pack by {self.packing}")
        if self.max_steps < 1 or self.max_steps & (self.max_steps - 1):
            raise ValueError(f"max_steps must be a power of two, got {self.max_steps}")

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


class Dynamics(nnx.Module):
    """f(z̃, τ, d | past, actions) → ẑ1: predicts a frame's clean latents from noisy ones (x-prediction).

    Tokens per frame: one for the action, one for signal level and step size, the spatial tokens, the registers.
    Signal levels are given as integers on the grid: τ = signal / max_steps, where `max_steps` means clean. Step sizes
    are given as d = 2^-halvings.
    """

    def __init__(self, config: DynamicsConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.transformer.width
        sizes = {"action": 1, "signal": 1, "spatial": config.spatial_tokens, "register": config.registers}
        grid = packed_grid_shape(config.latents, config.packing)
        self.layout = Layout(sizes, dict.fromkeys(sizes, tuple(sizes)), {"spatial": grid})
        normal = nnx.initializers.normal(0.5)
        self.action = ActionEmbedding(config.actions, width, rngs=rngs)
        self.signal = nnx.Param(normal(rngs.params(), (config.max_steps + 1, width // 2)))
        self.step = nnx.Param(normal(rngs.params(), (config.max_steps.bit_length(), width - width // 2)))
        self.spatial_in = nnx.Linear(config.spatial_channels, width, rngs=rngs)
        self.spatial_position = nnx.Param(normal(rngs.params(), (config.spatial_tokens, width)))
        self.registers = nnx.Param(normal(rngs.params(), (config.registers, width)))
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
        independent: Bool[Array, " B"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T M Y"], Cache | None]:
        """Predicts clean latents.

        Args:
          noisy: packed, scaled latents z̃ at signal level τ.
          signal: the level of `noisy` itself, τ = signal / max_steps.
          halvings: the step size, d = 2^-halvings.
          actions: `actions[t]` led to frame t; any form that `models.actions.as_components` takes.
          labelled: frames whose action is known.
          independent: rows of unrelated frames.
          cache: the past.

        Returns:
          ẑ1, and the cache with these frames written (None without a cache).
        """
        dtype = jnp.dtype(self.config.transformer.dtype)
        action = self.action(actions, labelled)[:, :, None]
        level = jnp.concatenate([self.signal[...][signal], self.step[...][halvings]], axis=-1)[:, :, None]
        spatial = self.spatial_in(noisy) + self.spatial_position[...]
        registers = jnp.broadcast_to(self.registers[...], (*noisy.shape[:2], *self.registers.shape))
        tokens = jnp.concatenate([action, level, spatial, registers], axis=2).astype(dtype)
        out, cache = self.transformer(tokens, independent=independent, cache=cache)
        return self.spatial_out(out[:, :, self.layout.slice("spatial")].astype(jnp.float32)), cache
