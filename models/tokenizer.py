"""The causal tokenizer: masked autoencoding of video into a few continuous latent tokens per frame.

Dreamer 4, arXiv:2509.24527, §3.1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from models.cache import Cache
from models.tokens import Layout, grid_shape
from models.transformer import SpaceTimeTransformer, TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Sizes of a tokenizer.

    Attributes:
      image: height, width and channels of a frame.
      patch: side of a square patch in pixels.
      latents: latent tokens per frame (N).
      channels: channels per latent token (Z).
      local: latent tokens start from the mean of the patches in their cell of the image, and patch queries from the
        latent of their cell: a latent then tells about its place, and a dynamics can move what it shows. Not in the
        paper, whose latent tokens start from learned vectors alone.
      encoder, decoder: sizes of the two transformers.
    """

    image: tuple[int, int, int] = (32, 32, 3)
    patch: int = 4
    latents: int = 16
    channels: int = 32
    local: bool = False
    encoder: TransformerConfig = TransformerConfig()
    decoder: TransformerConfig = TransformerConfig()

    def __post_init__(self):
        height, width, _ = self.image
        if height % self.patch or width % self.patch:
            raise ValueError(f"frames of {height} × {width} px do not divide into patches of {self.patch} px")
        rows, columns = grid_shape(self.latents)
        if self.local and (self.grid[0] % rows or self.grid[1] % columns):
            raise ValueError(
                f"local latents need cells of whole patches: {self.latents} latents on a grid of {rows} × {columns} do "
                f"not divide {self.grid[0]} × {self.grid[1]} patches; change latents or patch, or set local=False"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "TokenizerConfig":
        """From plain nested data, as a config file holds it."""
        config = dict(config)
        config["image"] = tuple(config.get("image", cls.image))
        for part in ("encoder", "decoder"):
            config[part] = TransformerConfig(**config.get(part, {}))
        return cls(**config)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and per row."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def patches(self) -> int:
        """Patches per frame (P)."""
        return self.grid[0] * self.grid[1]


def to_patches(frames: Float[Array, "*lead H W C"], patch: int) -> Float[Array, "*lead P K"]:
    """Cuts frames into patches, row by row; K = patch² C."""
    *lead, h, w, c = frames.shape
    x = frames.reshape(*lead, h // patch, patch, w // patch, patch, c).swapaxes(-4, -3)
    return x.reshape(*lead, (h // patch) * (w // patch), patch * patch * c)


def from_patches(patches: Float[Array, "*lead P K"], image: tuple[int, int, int]) -> Float[Array, "*lead H W C"]:
    """The inverse of `to_patches`."""
    *lead, _, size = patches.shape
    h, w, c = image
    patch = round((size // c) ** 0.5)
    x = patches.reshape(*lead, h // patch, w // patch, patch, patch, c).swapaxes(-4, -3)
    return x.reshape(*lead, h, w, c)


def to_float(frames: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Pixels in [0, 1]."""
    return frames.astype(jnp.float32) / 255.0


def random_patch_mask(
    rng: jax.Array, shape: tuple[int, int, int], max_probability: float, masked_share: float = 1.0
) -> Bool[Array, "B T P"]:
    """True where a patch is hidden: per frame p ~ U(0, max_probability), each patch hidden with probability p.

    Args:
      rng: a key.
      shape: B, T, P.
      max_probability: upper end of p (Dreamer 4: 0.9).
      masked_share: probability that a frame is masked at all; the others stay whole, as at inference.
    """
    probability_rng, mask_rng, frame_rng = jax.random.split(rng, 3)
    p = jax.random.uniform(probability_rng, (*shape[:2], 1), maxval=max_probability)
    masked = jax.random.bernoulli(frame_rng, masked_share, (*shape[:2], 1))
    return masked & (jax.random.uniform(mask_rng, shape) < p)


class Tokenizer(nnx.Module):
    """Encoder, bottleneck and decoder.

    Space attention: in the encoder latents see everything and patches only patches; in the decoder latents see latents,
    patch queries see queries and latents. Latents lie on a grid in the image, as patches do, so that RoPE gives them a
    place. Both halves are causal in time, so that a cache lets them run frame by frame.
    """

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, out_width = config.encoder.width, config.decoder.width
        patch_size = config.patch**2 * config.image[2]
        grids = {"patches": config.grid, "latents": grid_shape(config.latents)}
        sizes = {"latents": config.latents, "patches": config.patches}
        self.encoder_layout = Layout(sizes, {"latents": ("latents", "patches"), "patches": ("patches",)}, grids)
        self.decoder_layout = Layout(sizes, {"latents": ("latents",), "patches": ("latents", "patches")}, grids)
        normal = nnx.initializers.normal(0.5)

        def tokens(count: int, channels: int) -> nnx.Param:
            return nnx.Param(normal(rngs.params(), (count, channels)))

        self.patch_in = nnx.Linear(patch_size, width, rngs=rngs)
        self.patch_position = tokens(config.patches, width)
        self.mask_token = tokens(1, width)
        self.latent_tokens = tokens(config.latents, width)
        self.encoder = SpaceTimeTransformer(
            config.encoder, coordinates=self.encoder_layout.coordinates(), routing=self.encoder_layout.routing(),
            rngs=rngs,
        )  # fmt: skip
        small = nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")  # keeps tanh off its flat ends
        self.bottleneck = nnx.Linear(width, config.channels, kernel_init=small, rngs=rngs)
        self.latent_in = nnx.Linear(config.channels, out_width, rngs=rngs)
        self.latent_position = tokens(config.latents, out_width)
        self.patch_queries = tokens(config.patches, out_width)
        self.decoder = SpaceTimeTransformer(
            config.decoder, coordinates=self.decoder_layout.coordinates(), routing=self.decoder_layout.routing(),
            rngs=rngs,
        )  # fmt: skip
        self.patch_out = nnx.Linear(out_width, patch_size, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def _cells(self) -> np.ndarray:
        """The patches [N, P / N] in the cell of each latent."""
        (rows, columns), (high, wide) = grid_shape(self.config.latents), self.config.grid
        patches = np.arange(self.config.patches).reshape(rows, high // rows, columns, wide // columns)
        return patches.swapaxes(1, 2).reshape(self.config.latents, -1)

    def encode(
        self,
        frames: Float[Array, "B T H W C"],
        *,
        mask: Bool[Array, "B T P"] | None = None,
        independent: Bool[Array, " B"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T N Z"], Cache | None]:
        """Latents in (-1, 1) of frames in [0, 1].

        Args:
          frames: pixels in [0, 1].
          mask: patches to hide (training only).
          independent: rows of unrelated frames.
          cache: of `encoder.init_cache`, to encode a stream frame by frame.

        Raises:
          ValueError: the frames are bytes.
        """
        if not jnp.issubdtype(frames.dtype, jnp.floating):
            raise ValueError(f"encode takes frames in [0, 1], got {frames.dtype}; use to_float(frames)")
        x = self.patch_in((2 * to_patches(frames, self.config.patch) - 1).astype(self.encoder.dtype))
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_token[...].astype(x.dtype), x)
        x = x + self.patch_position[...].astype(x.dtype)
        latents = jnp.broadcast_to(self.latent_tokens[...].astype(x.dtype), (*x.shape[:2], *self.latent_tokens.shape))
        if self.config.local:
            latents = latents + x[:, :, self._cells()].mean(axis=3)
        tokens, wanted = jnp.concatenate([latents, x], axis=2), self.encoder_layout.slice("latents")
        x, cache = self.encoder(tokens, wanted=wanted, independent=independent, cache=cache)
        z = self.bottleneck(x.astype(jnp.float32))
        return jnp.tanh(z), cache

    def decode(
        self,
        latents: Float[Array, "B T N Z"],
        *,
        independent: Bool[Array, " B"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T H W C"], Cache | None]:
        """Frames (about [0, 1], not clipped) of latents."""
        z = self.latent_in(latents) + self.latent_position[...]
        queries = jnp.broadcast_to(self.patch_queries[...].astype(z.dtype), (*z.shape[:2], *self.patch_queries.shape))
        if self.config.local:
            queries = queries + z[:, :, np.argsort(self._cells(), axis=None) // self._cells().shape[1]]
        tokens, wanted = jnp.concatenate([z, queries], axis=2), self.decoder_layout.slice("patches")
        x, cache = self.decoder(tokens, wanted=wanted, independent=independent, cache=cache)
        patches = self.patch_out(x.astype(jnp.float32))
        return from_patches(patches, self.config.image) / 2 + 0.5, cache
