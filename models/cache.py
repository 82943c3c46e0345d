"""The ring buffer of keys and values that lets time attention stream without end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Cache(NamedTuple):
    """Keys and values of the last C frames, one slot a frame; frame t lies in slot t mod C.

    Keys are stored unrotated; RoPE is applied when they are read, relative to the frame that reads, so that positions
    stay small however long the stream.

    Attributes:
      keys, values: one array [B, S, G, C, K] for every time layer.
      length: frames written since the start, an int32 scalar.
      previous: the last frame written, as `models.dynamics` keeps it for `residual`; None where nobody needs it.
    """

    keys: tuple[Float[Array, "B S G C K"], ...]
    values: tuple[Float[Array, "B S G C K"], ...]
    length: Int[Array, ""]
    previous: Float[Array, "B 1 M Y"] | None = None

    @property
    def ages(self) -> Int[Array, " C"]:
        """Of each slot: how many frames before the next one it was written; 0 where it is still empty."""
        window = self.keys[0].shape[3]
        age = (self.length - 1 - jnp.arange(window)) % window + 1
        return jnp.where(age <= self.length, age, 0)


class Past(NamedTuple):
    """A cache made ready to be read by the frame that comes next, as often as it likes.

    Attributes:
      keys: rotated, relative to the next frame; one array [B, S, G, C, K] for every time layer.
      values: likewise.
      ages: see `Cache.ages`.
      previous: see `Cache`.
    """

    keys: tuple[Float[Array, "B S G C K"], ...]
    values: tuple[Float[Array, "B S G C K"], ...]
    ages: Int[Array, " C"]
    previous: Float[Array, "B 1 M Y"] | None = None


class Memory(NamedTuple):
    """A clip's finished frames, to be read by unfinished versions of the same frames: each sees those before its own.

    Attributes:
      keys: rotated; one array [B, S, G, T, K] for every time layer.
      values: likewise.
      previous: of each frame, the finished one before it; see `Cache`.
    """

    keys: tuple[Float[Array, "B S G T K"], ...]
    values: tuple[Float[Array, "B S G T K"], ...]
    previous: Float[Array, "B T M Y"] | None = None


def write(cache: Cache, keys: list[Array], values: list[Array]) -> Cache:
    """Appends T frames: per time layer keys and values [B, S, G, T, K]."""
    window, frames = cache.keys[0].shape[3], keys[0].shape[3]
    kept = min(window, frames)
    slots = (cache.length + frames - kept + jnp.arange(kept)) % window

    def put(ring: Array, new: Array) -> Array:
        new = new[:, :, :, frames - kept :].astype(ring.dtype)
        if kept == 1:
            return jax.lax.dynamic_update_slice_in_dim(ring, new, slots[0], axis=3)
        return ring.at[:, :, :, slots].set(new)

    return cache._replace(
        keys=tuple(map(put, cache.keys, keys)),
        values=tuple(map(put, cache.values, values)),
        length=cache.length + jnp.int32(frames),
    )
