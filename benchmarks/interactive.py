"""A dream that is played: one action in, one frame out, in one compiled function on public parts of `models/`."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from models import functional
from models.cache import Cache
from models.dynamics import Dynamics, DynamicsConfig, unpack
from models.functional import Params
from models.generation import Sampler, observe, sample_frame
from models.tokenizer import Tokenizer, TokenizerConfig


class Past(NamedTuple):
    """What the next frame depends on, of a fixed size however long the dream.

    Attributes:
      dynamics: the dynamics' cache of finished frames.
      decoder: that of the tokenizer's decoder.
      rng: the key of the next frame.
    """

    dynamics: Cache
    decoder: Cache
    rng: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
    """A world model that is acted in from outside.

    Attributes:
      dynamics: sizes of the dynamics.
      tokenizer: sizes of the tokenizer.
      sampler: how a frame is denoised.
    """

    dynamics: DynamicsConfig
    tokenizer: TokenizerConfig
    sampler: Sampler

    def begin(self, params: dict[str, Params], rng: jax.Array, rows: int = 1) -> Past:
        """(traced) Nothing has happened yet."""
        dynamics, tokenizer = self.models(params)
        return Past(dynamics.init_cache(rows), tokenizer.decoder.init_cache(rows), rng)

    def frame(self, params: dict[str, Params], past: Past, actions: Any) -> tuple[Past, UInt8[Array, "B H W C"]]:
        """(traced) The frame that the actions [B, …] lead to: K denoising passes, a committing one, and its pixels."""
        dynamics, tokenizer = self.models(params)
        rng, noise_rng, commit_rng = jax.random.split(past.rng, 3)
        rows = jax.tree.leaves(past.dynamics)[0].shape[0]
        actions, known = jax.tree.map(lambda a: a[:, None], actions), jnp.ones((rows, 1), bool)
        task = jnp.zeros(rows, jnp.int32) if self.dynamics.tasks else None
        noise = jax.random.normal(noise_rng, (rows, 1, self.dynamics.spatial_tokens, self.dynamics.spatial_channels))
        latents = sample_frame(dynamics, past.dynamics, actions, known, noise, self.sampler)
        _, seen = observe(dynamics, past.dynamics, latents, actions, known, commit_rng, self.sampler, task=task)
        scaled = unpack(latents / self.dynamics.latent_scale, self.dynamics.packing)
        pixels, decoder = tokenizer.decode(scaled, cache=past.decoder)
        assert seen is not None
        assert decoder is not None
        pixels = jnp.round(255 * jnp.clip(pixels[:, 0], 0, 1)).astype(jnp.uint8)
        return Past(seen, decoder, rng), pixels

    def models(self, params: dict[str, Params]) -> tuple[Dynamics, Tokenizer]:
        """The two models with these parameters."""
        dynamics = functional.bind(self._make_dynamics, params["dynamics"])
        return dynamics, functional.bind(self._make_tokenizer, params["tokenizer"])

    def _make_dynamics(self, rngs: Any) -> Dynamics:
        return Dynamics(self.dynamics, rngs=rngs)

    def _make_tokenizer(self, rngs: Any) -> Tokenizer:
        return Tokenizer(self.tokenizer, rngs=rngs)
