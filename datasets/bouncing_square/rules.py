"""The rules of the bouncing-square world, once, as pure functions of one episode; `jax.vmap` makes many."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

FRAME_SIZE = 32
NUM_DIRECTIONS = 4
NULL_ACTION = 4  # Recorded at index 0, where nothing was chosen; moves nothing.
MOVES = ((-2, 0), (2, 0), (0, -2), (0, 2), (0, 0))  # (dy, dx) of up, down, left, right and the null action.
SIDE_RANGE = (6, 14)
HOLD_RANGE = (4, 9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """How an episode begins and what can be done in it.

    Attributes:
      starts_inside: the square starts wholly inside the frame. Otherwise its corner is uniform over the frame, and a
        square that sticks out is reflected, often with a jump, at the first step.
      first_action_up: the behaviour policy may begin with "up".
      can_stay: the null action may be chosen.
      min_contrast: the least difference of square and background, in every colour channel, of 255.
      episode_length: frames in a recorded episode, the one after the reset included.
    """

    starts_inside: bool
    first_action_up: bool
    can_stay: bool
    min_contrast: int
    episode_length: int

    @property
    def num_actions(self) -> int:
        """Actions to choose from; the null action is the last where it can be chosen."""
        return NUM_DIRECTIONS + self.can_stay


REFERENCE = Variant(starts_inside=False, first_action_up=False, can_stay=False, min_contrast=0, episode_length=64)
CLEAN = Variant(starts_inside=True, first_action_up=True, can_stay=True, min_contrast=64, episode_length=128)
VARIANTS: Mapping[str, Variant] = MappingProxyType({"reference": REFERENCE, "clean": CLEAN})


class State(NamedTuple):
    """One world.

    Attributes:
      corner: y and x of the square's upper left pixel.
      side: pixels along an edge of the square.
      background: colour.
      square: colour.
    """

    corner: Int[Array, "2"]
    side: Int[Array, ""]
    background: UInt8[Array, "3"]
    square: UInt8[Array, "3"]


class Hold(NamedTuple):
    """The memory of the behaviour policy: what it does, and how many more times."""

    action: Int[Array, ""]
    remaining: Int[Array, ""]


class Episode(NamedTuple):
    """A recording: `actions[t]` led to `frames[t]`, `rewards[t]` was received on arriving there."""

    frames: UInt8[Array, "T H W 3"]
    actions: Int[Array, "T"]
    rewards: Float[Array, "T"]


def initial_state(rng: Key[Array, ""], variant: Variant) -> State:
    """Draws the start of an episode."""
    side_key, corner_key, background_key, offset_key = jax.random.split(rng, 4)
    side = jax.random.randint(side_key, (), SIDE_RANGE[0], SIDE_RANGE[1] + 1)
    end = FRAME_SIZE - side + 1 if variant.starts_inside else FRAME_SIZE
    corner = jax.random.randint(corner_key, (2,), 0, end)
    # A colour plus an offset modulo 256 is uniform, and differs from it by at least the smallest offset, either way.
    background = jax.random.randint(background_key, (3,), 0, 256)
    offset = jax.random.randint(offset_key, (3,), variant.min_contrast, 256 - variant.min_contrast)
    square = (background + offset) % 256
    return State(corner, side, background.astype(jnp.uint8), square.astype(jnp.uint8))


def step(state: State, action: Int[Array, ""]) -> State:
    """Moves the square 2 px; a square that leaves the frame is reflected at its border."""
    corner = state.corner + jnp.asarray(MOVES)[action]
    corner = jnp.where(corner < 0, -corner, corner)
    limit = FRAME_SIZE - state.side
    corner = jnp.where(corner > limit, 2 * limit - corner, corner)
    return state._replace(corner=corner)


def reward(state: State) -> Float[Array, ""]:
    """Minus the distance, in px, of the square's centre from the frame's."""
    twice_the_offset = 2 * state.corner + state.side - FRAME_SIZE  # In whole numbers, so that no order of sums matters.
    return -jnp.sqrt(jnp.sum(twice_the_offset**2).astype(jnp.float32)) / 2


def render(state: State) -> UInt8[Array, "H W 3"]:
    """The frame; what sticks out is cut off."""
    pixels = jnp.arange(FRAME_SIZE)
    inside = (pixels >= state.corner[:, None]) & (pixels < state.corner[:, None] + state.side)
    covered = inside[0][:, None] & inside[1][None, :]
    return jnp.where(covered[..., None], state.square, state.background)


def initial_hold(variant: Variant) -> Hold:
    """The behaviour policy before its first action."""
    # The first action differs from this one as every later one from its predecessor. No action is -1.
    return Hold(jnp.int32(-1 if variant.first_action_up else 0), jnp.int32(0))


def behavior(rng: Key[Array, ""], hold: Hold, variant: Variant) -> Hold:
    """The policy that recorded the data: holds an action for 4 to 9 steps, then takes another; acts `hold.action`."""
    duration_key, action_key = jax.random.split(rng)
    duration = jax.random.randint(duration_key, (), HOLD_RANGE[0], HOLD_RANGE[1] + 1)
    drawn = jax.random.randint(action_key, (), 0, variant.num_actions - (hold.action >= 0))
    another = jnp.where((hold.action >= 0) & (drawn >= hold.action), drawn + 1, drawn)
    over = hold.remaining == 0
    return Hold(jnp.where(over, another, hold.action), jnp.where(over, duration, hold.remaining) - 1)


def optimal_action(state: State, variant: Variant) -> Int[Array, ""]:
    """The action with the best next reward; looking further ahead gains nothing in this world."""
    actions = jnp.arange(variant.num_actions)
    return jnp.argmax(jax.vmap(lambda action: reward(step(state, action)))(actions))


def record_episode(rng: Key[Array, ""], variant: Variant, length: int) -> Episode:
    """Simulates `length` frames under the behaviour policy."""
    start_key, policy_key = jax.random.split(rng)
    start = initial_state(start_key, variant)

    def advance(carry: tuple[State, Hold], key: Key[Array, ""]) -> tuple[tuple[State, Hold], tuple[Array, ...]]:
        state, hold = carry
        hold = behavior(key, hold, variant)
        state = step(state, hold.action)
        return (state, hold), (render(state), hold.action, reward(state))

    carry = (start, initial_hold(variant))
    _, recorded = jax.lax.scan(advance, carry, jax.random.split(policy_key, length - 1))
    first = (render(start), jnp.int32(NULL_ACTION), jnp.float32(0))
    return Episode(*(jnp.concatenate([a[None], b]) for a, b in zip(first, recorded, strict=True)))
