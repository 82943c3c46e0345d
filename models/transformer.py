"""The block-causal space-time transformer that the tokenizer and the dynamics share.

Dreamer 4, arXiv:2509.24527, §3.4: pre-norm RMSNorm, RoPE, SwiGLU, QK-norm, soft-capped attention logits, grouped
queries; attention is separate over space (the tokens of one frame) and, every n-th layer, over time (one token
position, causal, over a window of frames).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from models.attention import Attention, attend, rope
from models.cache import Cache, Memory, Past, write
from models.rms_norm import RMSNorm

TIME_BASE = 10_000.0
SPACE_BASE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a transformer.

    Attributes:
      width: model width D.
      layers: attention layers, each followed by an MLP.
      heads: query heads.
      kv_heads: key-value heads, a divisor of `heads` (grouped-query attention); None for as many as `heads`.
      mlp_ratio: hidden width of the SwiGLU over `width`.
      time_every: every n-th layer attends over time, the others over space.
      time_offset: which of each n layers it is, from 0; None for the middle one, so that space layers can prepare what
        is looked up in the past and work on what was found. 0 leaves more layers to work on what was found.
      window: frames that time attention sees, the current one included (C).
      soft_cap: bound on attention logits; None or 0 for none.
      qk_norm: RMSNorm of queries and keys per head (arXiv:2302.05442, §3.1).
      remat: keep only the inputs of each layer for the gradient, and compute the rest anew (less memory, a third more
        work); it changes no result.
      space_frames: frames that a space layer computes at a time, where it divides their number (less memory, no result
        changed); None for all.
      scan: compile the n layers around a time layer once, not once for each time layer (deep models compile faster); it
        changes no result.
    """

    width: int = 128
    layers: int = 8
    heads: int = 4
    kv_heads: int | None = None
    mlp_ratio: float = 4.0
    time_every: int = 4
    time_offset: int | None = None
    window: int = 32
    soft_cap: float | None = 50.0
    qk_norm: bool = True
    remat: bool = False
    space_frames: int | None = None
    scan: bool = False

    def __post_init__(self):
        kv_heads = self.kv_heads or self.heads
        if self.width % self.heads or self.heads % kv_heads:
            raise ValueError(
                f"width must be a multiple of heads and heads of kv_heads, got width={self.width}, "
                f"heads={self.heads}, kv_heads={kv_heads}"
            )
        if self.width // self.heads % 4:
            raise ValueError(f"width / heads must be a multiple of 4 for RoPE, got {self.width} / {self.heads}")
        if self.window < 1 or self.time_every < 1 or self.layers < 1:
            raise ValueError(f"window, time_every and layers must be at least 1, got {self}")
        if not 0 <= self._offset < self.time_every:
            raise ValueError(
                f"time_offset must be from 0 to time_every - 1 = {self.time_every - 1}, got {self._offset}"
            )
        if not any(map(self.is_time, range(self.layers))):
            raise ValueError(
                f"no layer would attend over time: of {self.layers} layers every {self.time_every}-th does, from layer "
                f"{self._offset} on (counted from 0); lower time_every or time_offset"
            )

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.width // self.heads

    def is_time(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) attends over time."""
        return layer % self.time_every == self._offset

    @property
    def _offset(self) -> int:
        return self.time_every // 2 if self.time_offset is None else self.time_offset


class SwiGLU(nnx.Module):
    """Gated MLP (arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int, *, out_scale: float, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        out_init = nnx.initializers.variance_scaling(out_scale**2, "fan_in", "truncated_normal")
        self.gate = linear(width, hidden, kernel_init=init)
        self.up = linear(width, hidden, kernel_init=init)
        self.down = linear(hidden, width, kernel_init=out_init)

    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        """Applies the MLP to every token."""
        tokens = x.reshape(-1, x.shape[-1])  # one large matrix: XLA's gradient of a 4-D product is 3 × slower on CPUs
        return self.down(_gated(self.gate(tokens), self.up(tokens))).reshape(x.shape)


@jax.checkpoint
def _gated(gate: Array, up: Array) -> Array:
    """Keeps its two inputs for the gradient and nothing in between, each of which would be as large."""
    return nnx.silu(gate) * up


class Block(nnx.Module):
    """A pre-norm attention layer, over space or over time, and its MLP."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        out_scale = (2 * config.layers) ** -0.5  # keeps the residual stream's scale independent of depth
        self.attention_norm = RMSNorm(config.width, rngs=rngs)
        self.attention = Attention(
            config.width, heads=config.heads, kv_heads=config.kv_heads or config.heads, head_dim=config.head_dim,
            soft_cap=config.soft_cap or None, qk_norm=config.qk_norm, out_scale=out_scale, rngs=rngs,
        )  # fmt: skip
        self.mlp_norm = RMSNorm(config.width, rngs=rngs)
        hidden = max(8, round(config.width * config.mlp_ratio / 8) * 8)
        self.mlp = SwiGLU(config.width, hidden, out_scale=out_scale, rngs=rngs)

    def space(
        self, x: Float[Array, "B T S D"], coordinates: Array, routing: Array | None, wanted: slice = slice(None)
    ) -> Float[Array, "B T W D"]:
        """Attention among the tokens of each frame; `routing[i, j]`: token i may see token j.

        Only the tokens `wanted` are computed; all of them by default.
        """
        normed = self.attention_norm(x)
        x, q_coordinates, routing = x[:, :, wanted], coordinates[wanted], None if routing is None else routing[wanted]
        q, k, v = self.attention.project(normed, normed[:, :, wanted])
        q, k = rope(q, q_coordinates, SPACE_BASE), rope(k, coordinates, SPACE_BASE)
        x = x + self.attention.merge(attend(q, [k], [v], routing, self.attention.soft_cap))
        return x + self.mlp(self.mlp_norm(x))

    def time(
        self, x: Float[Array, "B S T D"], past: tuple[Array, Array] | None, mask: Bool[Array, "..."]
    ) -> tuple[Float[Array, "B S T D"], Array, Array]:
        """Attention of each token position over the frames; `past`: rotated keys and values [B, S, G, C, K] before it.

        Returns:
          The new tokens, and the keys (unrotated) and values [B, S, G, T, K] of the new frames.
        """
        q, new_k, v = self.attention.project(self.attention_norm(x))
        positions = jnp.arange(x.shape[2], dtype=jnp.float32)[:, None]
        q, k = rope(q, positions, TIME_BASE), rope(new_k, positions, TIME_BASE)
        keys, values = ([k], [v]) if past is None else ([past[0], k], [past[1], v])
        x = x + self.attention.merge(attend(q, keys, values, mask, self.attention.soft_cap))
        return x + self.mlp(self.mlp_norm(x)), new_k, v


class _Constant:
    """An array that is part of the architecture: nnx takes bare arrays in attributes for state."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self._key = (array.shape, array.dtype.str, array.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class SpaceTimeTransformer(nnx.Module):
    """Blocks over tokens [B, T, S, D], and a final norm.

    Args:
      config: sizes.
      coordinates: a place in the plane for each of the S tokens, for RoPE in space attention.
      routing: who may see whom within a frame, [S, S] (row: the token that looks); None when everybody sees everybody.
    """

    def __init__(
        self, config: TransformerConfig, *, coordinates: np.ndarray, routing: np.ndarray | None, rngs: nnx.Rngs
    ):
        self.config = config
        self.tokens = len(coordinates)
        self._coordinates = _Constant(np.asarray(coordinates, np.float32))
        self._routing = None if routing is None or routing.all() else _Constant(routing)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = RMSNorm(config.width, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """Of activations, matrix products and the cache: that of the parameters it was given."""
        return self.norm.scale[...].dtype

    def init_cache(self, batch: int) -> Cache:
        """An empty cache for `batch` streams."""
        config = self.config
        shape = (batch, self.tokens, config.kv_heads or config.heads, config.window, config.head_dim)
        layers = sum(map(config.is_time, range(config.layers)))
        keys = tuple(jnp.zeros(shape, self.dtype) for _ in range(layers))
        return Cache(keys, tuple(map(jnp.zeros_like, keys)), jnp.int32(0))

    def recall(self, cache: Cache) -> Past:
        """Rotates the cache's keys: worth doing once, where several passes read the same past."""
        ages = cache.ages
        positions = -ages[:, None].astype(jnp.float32)
        keys = tuple(rope(keys, positions, TIME_BASE) for keys in cache.keys)
        return Past(keys, cache.values, ages, cache.previous)

    def __call__(
        self,
        x: Float[Array, "B T S D"],
        *,
        wanted: slice = slice(None),
        independent: Bool[Array, " B"] | None = None,
        cache: Cache | Past | Memory | None = None,
    ) -> tuple[Float[Array, "B T W D"], Cache | None]:
        """Applies the transformer to T new frames.

        Args:
          x: tokens, of any floating-point type; the last ones of a frame may be left out where no other sees them.
          wanted: the tokens that are read out: where the last layer is one over space, it computes no others.
          independent: rows whose frames are unrelated: time attention sees the frame itself alone.
          cache: what came before; for passes that write nothing also as `recall` gives it. None at a start. A `Memory`
            of the same frames: each new frame sees those of it that came before, and of the new ones itself alone.

        Returns:
          The normalised outputs of the tokens `wanted`, and the cache with the new frames written (None without a
          `Cache`, or where tokens were left out). A caller that does not commit to these frames (a denoising pass)
          drops it.
        """
        past = self.recall(cache) if isinstance(cache, Cache) else cache
        out, written = self._run(x, wanted, independent, past, self.config.layers)
        writes = isinstance(cache, Cache) and x.shape[2] == self.tokens
        return self.norm(out), write(cache, *zip(*written, strict=True)) if writes else None

    def remember(self, x: Float[Array, "B T S D"], *, independent: Bool[Array, " B"] | None = None) -> Memory:
        """What T finished frames leave behind for unfinished versions of them to read; see `__call__`."""
        until = 1 + max(layer for layer in range(self.config.layers) if self.config.is_time(layer))
        _, written = self._run(x, slice(None), independent, None, until)
        positions = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None]
        return Memory(
            tuple(rope(keys, positions, TIME_BASE) for keys, _ in written), tuple(values for _, values in written)
        )

    def _run(
        self, x: Array, wanted: slice, independent: Array | None, past: Past | Memory | None, layers: int
    ) -> tuple[Array, list[tuple[Array, Array]]]:
        """The first `layers` layers: tokens, and the new frames' keys (unrotated) and values of each time layer."""
        x = x.astype(self.dtype)
        frames, tokens = x.shape[1:3]
        routing = None if self._routing is None else jnp.asarray(self._routing.array)[:tokens, :tokens]
        coordinates = jnp.asarray(self._coordinates.array)[:tokens]
        mask = _time_mask(frames, self.config.window, past)
        if independent is not None:
            itself = jnp.eye(frames, mask.shape[-1], k=mask.shape[-1] - frames, dtype=bool)
            mask = mask & (~independent[:, None, None] | itself)
            mask = mask[:, None]  # [B, 1 (S), Q, L]

        def space(block: Block, x: Array, wanted: slice = slice(None)) -> Array:
            layer = self._layer(lambda block, part: block.space(part, coordinates, routing, wanted))
            size = self.config.space_frames or frames
            if frames % size or frames == size:
                return layer(block, x)
            parts = x.reshape(len(x), -1, size, *x.shape[2:]).swapaxes(0, 1)
            out = jax.lax.map(functools.partial(layer, block), parts).swapaxes(0, 1)
            return out.reshape(*x.shape[:2], *out.shape[3:])

        def time(block: Block, x: Array, seen: Any) -> tuple[Array, Any]:
            layer = self._layer(lambda block, x, seen: block.time(x, seen, mask))
            y, k, v = layer(block, x.swapaxes(1, 2), seen)
            return y.swapaxes(1, 2), (k, v)

        every, repeats = self.config.time_every, self._repeats
        seen = (
            None
            if past is None
            else [(k[:, :tokens], v[:, :tokens]) for k, v in zip(past.keys, past.values, strict=True)]
        )
        written = []
        if repeats:
            x, written = self._scanned(x, seen, space, time)
        for layer in range(every * repeats, layers):
            block = self.blocks[layer]
            if self.config.is_time(layer):
                x, kv = time(block, x, seen and seen[len(written)])
                written.append(kv)
            else:
                x = space(block, x, wanted if layer == self.config.layers - 1 else slice(None))
        if self.config.is_time(self.config.layers - 1):
            x = x[:, :, wanted]
        return x, written

    def _layer(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        """`apply(block, …)`; with `remat`, its gradient computes anew what it needs."""
        if not self.config.remat:
            return apply

        def anew(block: Block, *args: Any) -> Any:
            graph, state = nnx.split(block)
            return jax.checkpoint(lambda state, *args: apply(nnx.merge(graph, state), *args))(state, *args)

        return anew

    @property
    def _repeats(self) -> int:
        """How many times the group of layers around a time layer is scanned; the last one stays, for what is wanted."""
        return max(0, self.config.layers // self.config.time_every - 1) if self.config.scan else 0

    def _scanned(self, x: Array, seen: Any, space: Any, time: Any) -> tuple[Array, list[tuple[Array, Array]]]:
        """All groups of layers but the last one, as a loop over their stacked parameters."""
        every, repeats = self.config.time_every, self._repeats
        groups = [nnx.split(self.blocks[first : first + every]) for first in range(0, every * repeats, every)]
        graph = groups[0][0]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in groups))
        past = None if seen is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen[:repeats])

        def group(x: Array, slices: Any) -> tuple[Array, Any]:
            state, seen = slices
            written = None
            for layer, block in enumerate(nnx.merge(graph, state)):
                if self.config.is_time(layer):
                    x, written = time(block, x, seen)
                else:
                    x = space(block, x)
            return x, written

        x, written = jax.lax.scan(group, x, (stacked, past))
        return x, [jax.tree.map(lambda leaf, n=n: leaf[n], written) for n in range(repeats)]


def _time_mask(frames: int, window: int, past: Past | Memory | None) -> Bool[Array, "Q L"]:
    """Which keys (cached slots or finished frames, then new frames) each new frame sees."""
    new = jnp.arange(frames)
    positions, valid = new, jnp.ones(frames, bool)
    if isinstance(past, Past):
        positions, valid = jnp.concatenate([-past.ages, new]), jnp.concatenate([past.ages > 0, valid])
    distance = new[:, None] - positions[None, :]
    seen = valid & (distance >= 0) & (distance < window)
    if isinstance(past, Memory):
        return jnp.concatenate([seen & (distance > 0), distance == 0], axis=1)
    return seen
