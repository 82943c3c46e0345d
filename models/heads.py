"""Heads on the features of agent tokens: policy, reward, continue and value, each for several frames ahead at once.

Dreamer 4, arXiv:2509.24527, §3.3: small MLPs with one output layer per distance (multi-token prediction).
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from models.actions import ActionSpace
from models.distributions import TwoHot, check_policy_space
from models.rms_norm import RMSNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Sizes of heads.

    Attributes:
      distances: frames that are predicted at once (L).
      hidden: width of the hidden layers.
      layers: hidden layers.
      bins: of two-hot heads, odd.
      limit: of two-hot heads: bins span ±symexp(limit).
    """

    distances: int = 8
    hidden: int = 256
    layers: int = 2
    bins: int = 255
    limit: float = 20.0

    def __post_init__(self):
        for name in ("distances", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"heads.{name} must be at least 1, got {getattr(self, name)}")
        _ = self.two_hot

    @property
    def two_hot(self) -> TwoHot:
        """The bins."""
        return TwoHot(bins=self.bins, limit=self.limit)


class Head(nnx.Module):
    """An MLP and its output layers, one per distance."""

    def __init__(self, width: int, outputs: int, config: HeadsConfig, *, distances: int, zero: bool, rngs: nnx.Rngs):
        sizes = [width, *[config.hidden] * config.layers]
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.layers = nnx.List([linear(a, b) for a, b in itertools.pairwise(sizes)])
        self.norms = nnx.List([RMSNorm(size, rngs=rngs) for size in sizes[1:]])
        init = nnx.initializers.zeros_init() if zero else nnx.initializers.variance_scaling(0.01, "fan_in", "normal")
        self.out = nnx.Linear(config.hidden, distances * outputs, kernel_init=init, rngs=rngs)
        self.shape = (distances, outputs)

    def __call__(self, features: Float[Array, "*lead D"]) -> Float[Array, "*lead L outputs"]:
        """Outputs for every distance."""
        x = features.reshape(-1, features.shape[-1])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nnx.silu(norm(layer(x)))
        return self.out(x).reshape(*features.shape[:-1], *self.shape)


class PolicyHead(nnx.Module):
    """Logits of the actions at 1 … L frames ahead, per component of the action space."""

    def __init__(self, width: int, space: ActionSpace, config: HeadsConfig, *, rngs: nnx.Rngs):
        check_policy_space(space)
        self.sizes = {name: component.size for name, component in sorted(space.items())}
        outputs = sum(self.sizes.values())
        self.head = Head(width, outputs, config, distances=config.distances, zero=False, rngs=rngs)

    def __call__(self, features: Float[Array, "*lead D"]) -> dict[str, Float[Array, "*lead L size"]]:
        """Logits by component; index n of axis L is for the action n + 1 frames ahead."""
        joined, parts, start = self.head(features), {}, 0
        for name, size in self.sizes.items():
            parts[name] = joined[..., start : start + size]
            start += size
        return parts

    def next(self, features: Float[Array, "*lead D"]) -> dict[str, Float[Array, "*lead size"]]:
        """Logits of the next action."""
        return {name: logits[..., 0, :] for name, logits in self(features).items()}


class TwoHotHead(nnx.Module):
    """A real number per distance: symexp two-hot logits, zero at the start, with the mean taken in linear space."""

    def __init__(self, width: int, config: HeadsConfig, *, distances: int | None = None, rngs: nnx.Rngs):
        self.two_hot = config.two_hot
        distances = config.distances if distances is None else distances
        self.head = Head(width, config.bins, config, distances=distances, zero=True, rngs=rngs)

    def __call__(self, features: Float[Array, "*lead D"]) -> Float[Array, "*lead L bins"]:
        """Logits; of a reward, index n of axis L is for the reward n frames ahead (0: on arriving at this frame)."""
        return self.head(features)

    def now(self, features: Float[Array, "*lead D"]) -> Float[Array, "*lead"]:
        """The mean at distance 0."""
        return self.two_hot.mean(self(features)[..., 0, :])


class ContinueHead(nnx.Module):
    """The logit that the episode goes on after the frame, per distance. [ours]"""

    def __init__(self, width: int, config: HeadsConfig, *, rngs: nnx.Rngs):
        self.head = Head(width, 1, config, distances=config.distances, zero=False, rngs=rngs)

    def __call__(self, features: Float[Array, "*lead D"]) -> Float[Array, "*lead L"]:
        """Logits; index n of axis L is for n frames ahead."""
        return self.head(features)[..., 0]

    def now(self, features: Float[Array, "*lead D"]) -> Float[Array, "*lead"]:
        """The probability at distance 0."""
        return nnx.sigmoid(self(features)[..., 0])


def ahead(array: Float[Array, "B T ..."], distances: Sequence[int]) -> Float[Array, "B T L ..."]:
    """`ahead(x, (1, 2))[:, t]` is `x[:, t + 1]`, `x[:, t + 2]`: what is to be predicted at each frame.

    Beyond the end stand zeros; `within` says where that is.
    """
    frames = array.shape[1]
    shifted = [jnp.pad(array[:, n:], [(0, 0), (0, min(n, frames)), *[(0, 0)] * (array.ndim - 2)]) for n in distances]
    return jnp.stack(shifted, axis=2)


def within(frames: int, distances: Sequence[int]) -> Bool[Array, "T L"]:
    """Whether frame t + n is still in a clip of `frames` frames."""
    return jnp.arange(frames)[:, None] + jnp.asarray(distances) < frames


def masked_mean(values: Float[Array, "..."], mask: Bool[Array, "..."]) -> Float[Array, ""]:
    """The mean where `mask`; 0 where that is nowhere. What stands elsewhere, NaN included, reaches no gradient."""
    mask = jnp.broadcast_to(mask, values.shape)
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
