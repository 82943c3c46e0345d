"""Dreaming frame by frame: K denoising passes and one committing pass per frame, over a cache of the past.

Dreamer 4, arXiv:2509.24527, §3.2.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.cache import Cache, Memory
from models.dynamics import Dynamics
from models.shortcut import corrupt, euler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a frame is sampled.

    Attributes:
      steps: denoising steps per frame (K), a power of two up to the model's `max_steps`; d = 1 / K.
      context_signal: level of past frames on the model's grid, as they are fed back: `max_steps` is clean, less is
        noise of that level, given with its own label. [ours]; None for clean.
    """

    steps: int = 4
    context_signal: int | None = None

    def check(self, finest: int) -> None:
        """Raises ValueError where this does not fit a model's grid of levels, whose `max_steps` is `finest`."""
        if self.steps < 1 or finest % self.steps:
            raise ValueError(f"sampler.steps must divide model.max_steps={finest}, got {self.steps}")
        if self.context_signal is not None and not 0 < self.context_signal <= finest:
            raise ValueError(f"sampler.context_signal must be in 1 … {finest}, got {self.context_signal}")


def observe(
    model: Dynamics, cache: Cache | None, latents: Float[Array, "B T M Y"], actions: Any, labelled: Bool[Array, "B T"],
    rng: jax.Array, sampler: Sampler, *, task: Int[Array, " B"] | None = None,
    independent: Bool[Array, " B"] | None = None,
) -> tuple[Float[Array, "B T D"] | None, Cache | None]:  # fmt: skip
    """The pass over finished frames, at the context level and with that label: their features, and the cache with them.

    The same pass for a recorded context, a frame from a real environment and a frame that was just imagined, so that
    features mean the same in all of them. Used once for the whole context and once per frame after it.

    Args:
      model: the dynamics.
      cache: the past; None for clips without one.
      latents: packed, scaled latents of the frames.
      actions: `actions[t]` led to frame t.
      labelled: frames whose action is known.
      rng: a key, used where the context level is a noisy one.
      sampler: gives the context level.
      task: the agent's task; needed to write the cache of a model that has tasks.
      independent: rows of unrelated frames.
    """
    finished = _finished(model, latents, rng, sampler)
    out = model(*finished, actions, labelled, task=task, features_only=True, independent=independent, cache=cache)
    return out.features, out.cache


def remember(
    model: Dynamics, latents: Float[Array, "B T M Y"], actions: Any, labelled: Bool[Array, "B T"], rng: jax.Array,
    sampler: Sampler, *, independent: Bool[Array, " B"] | None = None,
) -> Memory:  # fmt: skip
    """Finished frames as `observe` sees them, for training: the past of noisy versions of the same frames."""
    finished = _finished(model, latents, rng, sampler)
    return model.remember(*finished, actions, labelled, independent=independent)


def _finished(model: Dynamics, latents: Array, rng: jax.Array, sampler: Sampler) -> tuple[Array, Array, Array]:
    """Finished frames at the context level, and that level's and the finest step's labels."""
    finest = model.config.max_steps
    signal = finest if sampler.context_signal is None else sampler.context_signal
    shape = latents.shape[:2]
    if signal < finest:
        latents = corrupt(latents, jax.random.normal(rng, latents.shape), jnp.full(shape, signal / finest))
    return latents, jnp.full(shape, signal), jnp.full(shape, finest.bit_length() - 1)


def sample_frame(
    model: Dynamics, cache: Cache, actions: Any, labelled: Bool[Array, "B 1"], noise: Float[Array, "B 1 M Y"],
    sampler: Sampler,
) -> Float[Array, "B 1 M Y"]:  # fmt: skip
    """Denoises one frame in `sampler.steps` steps from τ = 0; the label of each pass is the level of its input."""
    finest = model.config.max_steps
    halvings, past = jnp.full(noise.shape[:2], sampler.steps.bit_length() - 1), model.recall(cache)

    def denoise(k: Array, z: Array) -> Array:
        signal = jnp.full(noise.shape[:2], k * (finest // sampler.steps))
        predicted = model(z, signal, halvings, actions, labelled, cache=past).latents
        return euler(z, predicted, k / sampler.steps, jnp.float32(1 / sampler.steps))

    return jax.lax.fori_loop(0, sampler.steps, denoise, noise)


def generate(
    model: Dynamics, context: Float[Array, "B T M Y"], actions: Any, labelled: Bool[Array, "B F"], rng: jax.Array,
    sampler: Sampler,
) -> Float[Array, "B F M Y"]:  # fmt: skip
    """Continues `context` (T frames, may be 0) to F frames under the given actions.

    Args:
      model: the dynamics.
      context: packed, scaled latents.
      actions: of all F frames, the context's included.
      labelled: frames whose action is known.
      rng: a key; generated frame t depends on it, t and the past alone, so prefixes agree.
      sampler: how.

    Returns:
      The context followed by F - T generated frames.

    Raises:
      ValueError: `sampler` does not fit the model's grid of levels, or the actions are not one per frame.
    """
    sampler.check(model.config.max_steps)
    batch, past = context.shape[:2]
    frames = labelled.shape[1]
    lengths = {a.shape[1] for a in jax.tree.leaves(actions)}
    if frames < past or lengths - {frames}:
        raise ValueError(
            f"the context has {past} frames, `labelled` {frames} and the actions {sorted(lengths)}: actions and "
            "`labelled` go over all frames, the context's and the generated ones"
        )
    cache = model.init_cache(batch)
    task = jnp.zeros(batch, jnp.int32) if model.config.tasks else None  # dreams are the same whatever the task
    context_rng, frame_rng = jax.random.split(rng)
    if past:
        head = jax.tree.map(lambda a: a[:, :past], actions)
        _, cache = observe(model, cache, context, head, labelled[:, :past], context_rng, sampler, task=task)

    def step(cache: Cache, t: Array) -> tuple[Cache, Array]:
        noise_rng, commit_rng = jax.random.split(jax.random.fold_in(frame_rng, t))
        action = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, t, 1, axis=1), actions)
        known = jax.lax.dynamic_slice_in_dim(labelled, t, 1, axis=1)
        noise = jax.random.normal(noise_rng, (batch, 1, *context.shape[2:]))
        z = sample_frame(model, cache, action, known, noise, sampler)
        _, cache = observe(model, cache, z, action, known, commit_rng, sampler, task=task)
        return cache, z[:, 0]

    _, generated = jax.lax.scan(step, cache, jnp.arange(past, frames))
    return jnp.concatenate([context, generated.swapaxes(0, 1)], axis=1)
