"""How well hidden patches can be filled in at all: the limit of a masked tokenizer's reconstruction."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from datasets.bouncing_square import rules
from datasets.bouncing_square.cross_entropy_floor import ENDS

MEAN_COLOR = 255 / 2  # of a colour that has not been seen, in every channel


def masked_limit(
    variant: rules.Variant, *, patch: int, length: int, max_probability: float = 0.9, episodes: int = 1_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:  # fmt: skip
    """The least squared error of hidden patches that any reconstruction from what is visible can have.

    The first frame is the exact mean over all squares and colours that fit its visible pixels. For later frames it is a
    bound from below: whoever reconstructs them knows the world's state before, whole, and for how long the last action
    has been held, but not the next action (a tokenizer is given none).

    Args:
      variant: the rules; `rules.REFERENCE`, or another that draws first frames in the same way.
      patch: side of a patch, px.
      length: T, frames of the clips, which start at the reset.
      max_probability: a patch of a frame is hidden with probability p, p ~ U(0, max_probability) per frame.
      episodes: simulated; that many samples the figures are the mean of.
      seed: of all of it.

    Returns:
      Per frame, the sum over hidden pixels of the squared error (mean over channels, values in [0, 1]), and how many
      pixels were hidden: mean error of some frames = sum of the one over sum of the other.
    """
    if variant.starts_inside or variant.can_stay or variant.min_contrast:
        raise ValueError(f"masked_limit knows variants with the first frames of `reference` only, got {variant}")
    rng = np.random.default_rng(seed)
    states, actions = _simulate(variant, seed, episodes, length)
    grid = rules.FRAME_SIZE // patch
    squares = _all_squares()
    errors, hidden_pixels = np.zeros(length), np.zeros(length)
    for corners, side, background, square, taken in zip(*states, actions, strict=True):
        inside = _inside(corners, np.full(length, side))
        colors = background.astype(float), square.astype(float)
        held = 0
        for time in range(length):
            hidden_patches = rng.random((grid, grid)) < rng.uniform(0, max_probability)
            hidden = np.kron(hidden_patches, np.ones((patch, patch), bool))
            if time == 0:
                guess = _guess_colors(squares, inside[0], ~hidden, *colors)
            else:
                possible, chances = _next_squares(variant, corners[time - 1], side, taken[time - 1], held)
                fits = (possible == inside[time])[:, ~hidden].all(1) * chances
                share = np.tensordot(fits / fits.sum(), possible, 1)[..., None]
                guess = share * colors[1] + (1 - share) * colors[0]
                held = held + 1 if taken[time] == taken[time - 1] else 1
            truth = np.where(inside[time][..., None], colors[1], colors[0])
            errors[time] += (np.square((guess - truth) / 255).mean(-1) * hidden).sum()
            hidden_pixels[time] += hidden.sum()
    return errors, hidden_pixels


def _simulate(
    variant: rules.Variant, seed: int, episodes: int, length: int
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """(corner [N, T, 2], side, background, square colour [N, …]) and the actions [N, T] that led to the frames."""

    def episode(rng: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
        start_rng, policy_rng = jax.random.split(rng)
        start = rules.initial_state(start_rng, variant)

        def advance(
            carry: tuple[rules.State, rules.Hold], key: jax.Array
        ) -> tuple[tuple[rules.State, rules.Hold], tuple]:
            hold = rules.behavior(key, carry[1], variant)
            state = rules.step(carry[0], hold.action)
            return (state, hold), (state.corner, hold.action)

        carry = (start, rules.initial_hold(variant))
        _, (corners, actions) = jax.lax.scan(advance, carry, jax.random.split(policy_rng, length - 1))
        corners = jnp.concatenate([start.corner[None], corners])
        actions = jnp.concatenate([jnp.full((1,), rules.NULL_ACTION), actions])
        return (corners, start.side, start.background, start.square), actions

    return jax.device_get(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), episodes)))


def _inside(corners: np.ndarray, sides: np.ndarray) -> Bool[np.ndarray, "N H W"]:
    """The pixels that squares cover."""
    pixels = np.arange(rules.FRAME_SIZE)
    covered = (pixels >= corners[..., None]) & (pixels < corners[..., None] + sides[:, None, None])
    return covered[:, 0, :, None] & covered[:, 1, None, :]


def _all_squares() -> Bool[np.ndarray, "N H W"]:
    """Every square that an episode can begin with; all are equally likely."""
    places = np.arange(rules.FRAME_SIZE)
    y, x, side = np.meshgrid(places, places, np.arange(rules.SIDE_RANGE[0], rules.SIDE_RANGE[1] + 1), indexing="ij")
    return _inside(np.stack([y.ravel(), x.ravel()], 1), side.ravel())


def _next_squares(
    variant: rules.Variant, corner: np.ndarray, side: int, action: int, held: int
) -> tuple[Bool[np.ndarray, "A H W"], Float[np.ndarray, "A"]]:
    """The pixels of the square after each action, and how likely the behaviour policy takes it."""
    moved = corner + np.array(rules.MOVES[: variant.num_actions])
    moved = np.where(moved < 0, -moved, moved)
    limit = rules.FRAME_SIZE - side
    moved = np.where(moved > limit, 2 * limit - moved, moved)
    number = np.arange(variant.num_actions)
    if held:
        chances = np.where(number == action, 1 - ENDS[held], ENDS[held] / (variant.num_actions - 1))
    else:
        chances = number > (-1 if variant.first_action_up else 0)
        chances = chances / chances.sum()
    return _inside(moved, np.full(len(moved), side)), chances


def _guess_colors(
    squares: Bool[np.ndarray, "N H W"], inside: Bool[np.ndarray, "H W"], visible: Bool[np.ndarray, "H W"],
    background: np.ndarray, square: np.ndarray,
) -> Float[np.ndarray, "H W C"]:  # fmt: skip
    """The mean frame, over all squares that are equally likely beforehand, given the visible pixels of one.

    Which of two visible colours is the square's is not given away; a colour that is not visible is any.
    """
    seen, shown = inside[visible], squares[:, visible]
    one = (shown == seen).all(1)
    other = (shown != seen).all(1)  # the two colours exchanged
    fitting = one.sum() + other.sum()
    share = (squares[one].sum(0) + (~squares[other]).sum(0)) / fitting  # of the colour that is the square's in truth
    known = [color if part.any() else MEAN_COLOR for color, part in ((background, ~seen), (square, seen))]
    return share[..., None] * known[1] + (1 - share[..., None]) * known[0]
