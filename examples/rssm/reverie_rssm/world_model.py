"""The world model: encoder, recurrent state-space model, decoder, reward and continue heads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, UInt8

from models.actions import ActionSpace, action_space
from models.heads import ContinueHead, HeadsConfig, TwoHotHead
from models.tokenizer import to_float
from reverie_rssm.inputs import action_vectors, known_actions, resets
from reverie_rssm.networks import Decoder, Encoder
from reverie_rssm.rssm import Rssm, RssmConfig, State, dream, observe


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """Sizes.

    Attributes:
      image: height, width and channels of a frame.
      actions: the action space.
      rssm: of the recurrent model.
      heads: of reward and continue heads.
      depth: width of the encoder's first stage and of the decoder's last.
      patch: pixels along the side of the encoder's first patches.
      stages: mergers of 2 × 2 neighbours after that.
    """

    image: tuple[int, int, int]
    actions: ActionSpace
    rssm: RssmConfig
    heads: HeadsConfig
    depth: int = 32
    patch: int = 4
    stages: int = 2

    def __post_init__(self):
        for name, least in (("depth", 1), ("patch", 1), ("stages", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"model.{name} must be at least {least}, got {getattr(self, name)}")
        scale = self.patch * 2**self.stages
        if self.image[0] % scale or self.image[1] % scale:
            raise ValueError(
                f"frames of {self.image[0]} × {self.image[1]} cannot be cut into squares of {scale}, which is "
                f"model.patch = {self.patch} after model.stages = {self.stages} mergers"
            )
        if not self.actions:
            raise ValueError("model.actions is empty: give the data's action space")

    @classmethod
    def from_dict(
        cls, fields: Mapping[str, Any], *, image: tuple[int, int, int], heads: Mapping[str, Any]
    ) -> "WorldModelConfig":
        """From plain data: the fields of `RssmConfig` and of the pictures side by side, and `actions`."""
        fields = dict(fields)
        recurrent = {f.name: fields.pop(f.name) for f in dataclasses.fields(RssmConfig) if f.name in fields}
        return cls(
            image=image, actions=action_space(fields.pop("actions", {})), rssm=RssmConfig(**recurrent),
            heads=HeadsConfig(**{**heads, "distances": 1}), **fields,
        )  # fmt: skip


class WorldModel(nnx.Module):
    """All of it; features are those of `State`."""

    def __init__(self, config: WorldModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        pictures = {"depth": config.depth, "patch": config.patch, "stages": config.stages}
        features, hidden = config.rssm.features, config.rssm.hidden
        self.encoder = Encoder(config.image, hidden, **pictures, rngs=rngs)
        self.rssm = Rssm(config.rssm, sum(c.size for c in config.actions.values()), rngs=rngs)
        self.decoder = Decoder(features, hidden, config.image, **pictures, rngs=rngs)
        self.reward = TwoHotHead(features, config.heads, rngs=rngs)
        self.continues = ContinueHead(features, config.heads, rngs=rngs)

    def encode(self, frames: UInt8[Array, "*lead H W C"]) -> Float[Array, "*lead E"]:
        """What the posterior is shown of the frames."""
        flat = to_float(frames).reshape(-1, *frames.shape[-3:])
        return self.encoder(flat).reshape(*frames.shape[:-3], -1)

    def decode(self, features: Float[Array, "*lead F"]) -> Float[Array, "*lead H W C"]:
        """Frames, about in [0, 1]."""
        frames = self.decoder(features.reshape(-1, features.shape[-1]))
        return frames.reshape(*features.shape[:-1], *frames.shape[1:]).astype(jnp.float32)

    def observe(
        self, batch: Mapping[str, Any], keys: Key[Array, " T"], frames: int | None = None
    ) -> tuple[State, Float[Array, "B T G C"]]:
        """States and posteriors of a batch's first `frames` frames; of all where None."""
        batch = jax.tree.map(lambda x: x[:, :frames] if x.ndim > 1 else x, dict(batch))
        actions = action_vectors(batch["actions"], self.config.actions, known_actions(batch))
        start = self.rssm.initial(len(actions))
        return observe(self.rssm, start, actions, resets(batch), self.encode(batch["frames"]), keys[:frames])

    def dream(self, state: State, actions: Any, known: Bool[Array, "B H"], keys: Key[Array, " H"]) -> State:
        """States [B, H] that the actions lead to."""
        return dream(self.rssm, state, action_vectors(actions, self.config.actions, known), keys)
