"""Shortcut forcing: the objective that trains the dynamics to denoise in few steps.

Dreamer 4, arXiv:2509.24527, §3.2 (diffusion forcing arXiv:2407.01392, shortcut models arXiv:2410.12557). Levels are
integers on the finest grid, τ = signal / K_max, and step sizes are d = 2^-halvings, so that the label given to the
network is exactly the level of its input.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# predict(noisy [R T M Y], signal [R T], halvings [R T], rows) → ẑ1 [R T M Y], for the batch's rows `rows`.
Predict = Callable[[Array, Array, Array, slice], Array]

PREDICTIONS = ("x", "v")
FORCINGS = ("diffusion", "teacher")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortcutConfig:
    """Settings of the objective.

    Attributes:
      max_steps: K_max, a power of two.
      prediction: what the network's output stands for, and so the space that errors are taken in: "x" for clean latents
        (Dreamer 4), "v" for velocities, whose errors are those of the latents over 1 - τ.
      forcing: what the past of a noisy frame is in training. "diffusion" (Dreamer 4; arXiv:2407.01392): the frames
        before it, each at a level of its own. "teacher": finished frames, as in sampling, in a stream of their own;
        every frame then learns what it will be asked for, at the price of that stream's pass. A clip's first frame
        counts only where an episode begins or frames are unrelated: otherwise its past is missing. [ours]
      bootstrap_share: share of the rows whose frames take larger steps than the finest, by self-distillation. Less than
        a row of a batch is one row of fewer batches, drawn at random; the others do without the two passes more that a
        target needs.
      bootstrap_frames: take that share of all frames instead of rows. Every row then goes through the two passes more
        that a target needs; for meshes with few rows per device, where all devices wait for those that do. [ours]
      clean_share: probability that a frame is given clean (τ = 1), as the past is in sampling; 0 with teacher forcing.
        [ours]
      ramp: weight of a frame is `ramp` τ + 1 - `ramp` (Dreamer 4: 0.9).
      level_power: levels are drawn as u^`level_power`, u ~ U(0, 1), on the grid of the frame's step size: 1 for evenly
        (Dreamer 4), more for more low levels, where all of a frame's motion is still to be foretold. [ours]
    """

    max_steps: int = 8
    prediction: Literal["x", "v"] = "x"
    forcing: Literal["diffusion", "teacher"] = "diffusion"
    bootstrap_share: float = 0.25
    bootstrap_frames: bool = False
    clean_share: float = 0.25
    ramp: float = 0.9
    level_power: float = 1.0

    def __post_init__(self):
        if self.max_steps < 1 or self.max_steps & (self.max_steps - 1):
            raise ValueError(f"max_steps must be a power of two, got {self.max_steps}")
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction should be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if self.forcing not in FORCINGS:
            raise ValueError(f"forcing should be one of {', '.join(FORCINGS)}, got {self.forcing!r}")
        if self.forcing == "teacher" and self.clean_share:
            raise ValueError(
                f"with forcing='teacher' the past is finished anyway, and frames given clean would learn nothing: set "
                f"clean_share=0, got {self.clean_share}"
            )
        for name in ("bootstrap_share", "clean_share", "ramp"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 < self.level_power < float("inf"):
            raise ValueError(f"level_power must be above 0 (1 draws levels evenly), got {self.level_power}")


class Levels(NamedTuple):
    """Per frame: signal level τ = signal / max_steps and step size d = 2^-halvings."""

    signal: Int[Array, "B T"]
    halvings: Int[Array, "B T"]


class ShortcutLoss(NamedTuple):
    """Weighted squared errors per element, averaged over all frames of the batch, or those that count.

    Attributes:
      flow: of frames at the finest step size, against the clean latents.
      bootstrap: of frames at larger steps, against the self-distillation target.
    """

    flow: Float[Array, ""]
    bootstrap: Float[Array, ""]


def sample_levels(
    rng: jax.Array, shape: tuple[int, int], config: ShortcutConfig, bootstrap: Bool[Array, "B #T"]
) -> Levels:
    """Draws d, then τ from {0, d, …, 1 - d}, see `level_power`; frames drawn clean have τ = 1 and the finest d.

    `bootstrap` frames (or all frames of such rows) take d ∈ {1, 1/2, …, 2 / max_steps}, the others d = 1 / max_steps.
    """
    step_rng, level_rng, clean_rng = jax.random.split(rng, 3)
    finest = config.max_steps.bit_length() - 1
    coarse = jax.random.randint(step_rng, shape, 0, max(finest, 1))
    halvings = jnp.where(bootstrap, coarse, finest)
    steps = 2**halvings
    place = jax.random.uniform(level_rng, shape) ** config.level_power
    index = jnp.floor(place * steps).astype(jnp.int32)
    signal = jnp.minimum(index, steps - 1) * (config.max_steps // steps)
    clean = jax.random.bernoulli(clean_rng, config.clean_share, shape)
    return Levels(jnp.where(clean, config.max_steps, signal), jnp.where(clean, finest, halvings))


def bootstrap_rows(batch: int, config: ShortcutConfig) -> tuple[int, float]:
    """How many rows of a batch hold bootstrap frames, and in what share of the batches any do.

    The share of the rows, rounded, but of two or more rows at least one of each kind; less than a row is one row of
    fewer batches.
    """
    if config.max_steps == 1 or not config.bootstrap_share:
        return 0, 0.0
    if config.bootstrap_frames or config.bootstrap_share == 1:
        return batch, 1.0
    rows = config.bootstrap_share * batch
    return (1, rows) if rows < 1 else (min(round(rows), batch - 1), 1.0)


def corrupt(
    clean: Float[Array, "B T M Y"], noise: Float[Array, "B T M Y"], level: Float[Array, "B T"]
) -> Float[Array, "B T M Y"]:
    """z̃ = (1 - τ) z0 + τ z1."""
    level = level[..., None, None]
    return (1 - level) * noise + level * clean


def euler(noisy: Array, predicted: Array, level: Array, step: Array) -> Array:
    """One step of size d along the predicted velocity: z + (ẑ1 - z) d / (1 - τ); τ and d broadcast to `noisy`."""
    return noisy + (predicted - noisy) * (step / (1 - level))


def bootstrap_target(predict: Predict, noisy: Array, levels: Levels, config: ShortcutConfig, rows: slice) -> Array:
    """Where two half steps lead, as a clean-latent target: z̃ + (1-τ) sg(b' + b'')/2.

    With x-prediction the paper's (1-τ)² ‖(ẑ1 - z̃)/(1-τ) - sg(b'+b'')/2‖² equals ‖ẑ1 - target‖². Frames of the finest
    step size, clean ones among them, stay as they are, so their target is z̃ itself.
    """
    finest = config.max_steps.bit_length() - 1
    still = levels.halvings == finest
    level = levels.signal / config.max_steps
    half = 0.5 ** (levels.halvings + 1.0)
    halvings = jnp.where(still, finest, levels.halvings + 1)
    middle = levels.signal + jnp.where(still, 0, config.max_steps // (2 * 2**levels.halvings))

    def velocity(z: Array, signal: Array) -> Array:
        remaining = jnp.where(still, 1.0, 1 - signal / config.max_steps)[..., None, None]
        b = (predict(z, signal, halvings, rows) - z) / remaining
        return jnp.where(still[..., None, None], 0.0, b)

    first = velocity(noisy, levels.signal)
    second = velocity(noisy + first * half[..., None, None], middle)
    return jax.lax.stop_gradient(noisy + (1 - level)[..., None, None] * (first + second) / 2)


def shortcut_loss(
    predict: Predict,
    clean: Float[Array, "B T M Y"],
    rng: jax.Array,
    config: ShortcutConfig,
    *,
    counted: Bool[Array, "B T"] | None = None,
) -> ShortcutLoss:
    """The shortcut-forcing loss; the first rows of the batch are its bootstrap rows, or any frames.

    Args:
      predict: the network.
      clean: packed, scaled latents z1; rows in random order, unless `bootstrap_frames`.
      rng: a key.
      config: settings.
      counted: frames that the averages go over; None for all.

    Returns:
      The two terms; the objective is their sum.
    """
    batch, frames = clean.shape[:2]
    level_rng, noise_rng = jax.random.split(rng)
    count, chance = bootstrap_rows(batch, config)
    is_bootstrap = (jnp.arange(batch) < count)[:, None]
    drawn = None  # whether this batch is one with bootstrap frames; None where all are
    if 0 < chance < 1:
        drawn = jax.random.bernoulli(jax.random.fold_in(rng, 3), chance)
        is_bootstrap = is_bootstrap & drawn
    if config.bootstrap_frames and count:
        is_bootstrap = jax.random.bernoulli(jax.random.fold_in(rng, 2), config.bootstrap_share, (batch, frames))
    levels = sample_levels(level_rng, (batch, frames), config, is_bootstrap)
    level = levels.signal / config.max_steps
    noisy = corrupt(clean, jax.random.normal(noise_rng, clean.shape), level)
    target = clean
    if count:
        rows = slice(0, count)

        def distil() -> Array:
            chosen = Levels(levels.signal[rows], levels.halvings[rows])
            return bootstrap_target(predict, noisy[rows], chosen, config, rows)

        distilled = distil() if drawn is None else jax.lax.cond(drawn, distil, lambda: clean[rows])
        target = jnp.concatenate(
            [jnp.where(is_bootstrap[rows, ..., None, None], distilled, clean[rows]), clean[count:]]
        )
    predicted = predict(noisy, levels.signal, levels.halvings, slice(0, batch))
    error = jnp.mean(jnp.square(predicted - target), axis=(-2, -1))
    weight = jnp.where(levels.signal == config.max_steps, 0.0, config.ramp * level + 1 - config.ramp)
    if config.prediction == "v":
        weight = weight / jnp.square(jnp.where(levels.signal == config.max_steps, 1.0, 1 - level))
    weighted = weight * error
    if counted is not None:  # an average over these alone
        weighted = jnp.where(counted, weighted, 0.0) * (counted.size / jnp.maximum(jnp.sum(counted), 1))
    return ShortcutLoss(
        flow=jnp.mean(jnp.where(is_bootstrap, 0.0, weighted)),
        bootstrap=jnp.mean(jnp.where(is_bootstrap, weighted, 0.0)),
    )
