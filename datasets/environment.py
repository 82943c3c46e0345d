"""`Environment`: a world that an agent acts in, as two pure functions."""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, Key, UInt8

State = TypeVar("State")


class TimeStep(NamedTuple):
    """What an agent sees on arriving at a frame; the flags mean what they mean in RLDS.

    Attributes:
      frame: the picture.
      reward: received on arriving here; 0 where `is_first`.
      is_first: this is the frame after a reset; no action led to it.
      is_last: the episode ends here, for whatever reason.
      is_terminal: it ends because the world says so: no reward can follow. False where a time limit cut it.
    """

    frame: UInt8[Array, "H W C"]
    reward: Float[Array, ""]
    is_first: Bool[Array, ""]
    is_last: Bool[Array, ""]
    is_terminal: Bool[Array, ""]


class ActionSpec(NamedTuple):
    """Actions are integers.

    Attributes:
      num_actions: an agent chooses from 0 … num_actions - 1.
      null_action: recorded at index 0 of an episode, where nothing was chosen.
    """

    num_actions: int
    null_action: int


@runtime_checkable
class Environment(Protocol[State]):
    """Pure functions: `jax.jit` and `jax.vmap` apply, and all that changes is in the state.

    There is no automatic reset: after `is_last` the caller resets, or stops counting.

    Two more methods are optional extras, for judging a policy; whoever uses them asks with `hasattr`:

    - `optimal_action(state) -> Int[Array, ""]`, the best action there is; pure, as `step` is.
    - `behavior_entropy(length, max_distance) -> Float[np.ndarray, "L"]`, the floor under a cloned policy's
      cross-entropy, in nats: for n = 1 … L = `max_distance` the least mean cross-entropy of predicting the actions of
      the policy that recorded the data at distances 1 … n, in clips of `length` frames that start at the reset.
    """

    @property
    def action_spec(self) -> ActionSpec:
        """The actions that `step` takes."""

    def reset(self, rng: Key[Array, ""]) -> tuple[State, TimeStep]:
        """A new episode."""

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, TimeStep]:
        """The frame that `action` leads to, and the reward for arriving there."""
