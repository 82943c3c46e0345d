"""Distributions over numbers (symexp two-hot) and over actions, as pure functions of logits.

Two-hot: DreamerV3, arXiv:2301.04104; Dreamer 4, arXiv:2509.24527, §3.3. Actions: any mix of categorical and binary
components, independent of one another; logits are a mapping from component to [..., size], actions one from component
to integers [...] (categorical) or bits [..., size] (binary). Every function takes arrays of the same leading shape
`...` for all components, and raises ValueError for other shapes, other components, or a bare array.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from models.actions import ActionSpace

POLICY_KINDS = ("categorical", "binary")


def symlog(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """sign(x) ln(1 + |x|)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """sign(x) (exp(|x|) - 1), the inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoHot:
    """Numbers as a distribution over bins at symexp of an even grid; means are taken in linear space.

    Attributes:
      bins: how many, odd, so that one lies at 0.
      limit: the grid spans [-limit, limit], the numbers ± symexp(limit).
    """

    bins: int = 255
    limit: float = 20.0

    def __post_init__(self):
        if self.bins < 3 or self.bins % 2 == 0:
            raise ValueError(f"two-hot needs an odd number of bins, at least 3, got {self.bins}")
        if not 0 < self.limit <= 80:  # float32 ends at exp(88)
            raise ValueError(f"the limit of two-hot bins must be above 0 and at most 80, got {self.limit}")

    @functools.cached_property
    def centers(self) -> Float[np.ndarray, "bins"]:
        """The bins' numbers, ascending, float32: exactly antisymmetric, exactly 0 in the middle."""
        positive = np.expm1(np.linspace(0.0, self.limit, self.bins // 2 + 1)).astype(np.float32)
        return np.concatenate([-positive[:0:-1], positive])

    def encode(self, x: Float[Array, "..."]) -> Float[Array, "... bins"]:
        """Weights of the two bins around x whose mean is x; beyond the outer bins those have it all."""
        centers = jnp.asarray(self.centers)
        x = jnp.clip(jnp.asarray(x, jnp.float32), centers[0], centers[-1])
        below = jnp.clip(jnp.searchsorted(centers, x, side="right") - 1, 0, self.bins - 2)
        low, high = centers[below], centers[below + 1]
        share = ((x - low) / (high - low))[..., None]
        return (1 - share) * jax.nn.one_hot(below, self.bins) + share * jax.nn.one_hot(below + 1, self.bins)

    def mean(self, logits: Float[Array, "... bins"]) -> Float[Array, "..."]:
        """The mean in linear space; symmetric logits, all 0 for one, give exactly 0."""
        self._check(logits)
        probabilities = jax.nn.softmax(logits.astype(jnp.float32))
        half = self.bins // 2
        # Bins are paired with their opposites: in one long sum of numbers up to exp(20) rounding would leave a rest.
        difference = probabilities[..., half + 1 :] - probabilities[..., :half][..., ::-1]
        return jnp.sum(difference * self.centers[half + 1 :], -1)

    def loss(self, logits: Float[Array, "... bins"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Cross-entropy, in nats, against `encode(x)`; no gradient reaches x."""
        self._check(logits)
        target = self.encode(jax.lax.stop_gradient(x))
        return -jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32)), -1)

    def _check(self, logits: Array) -> None:
        if logits.shape[-1:] != (self.bins,):
            raise ValueError(f"two-hot logits should be [..., {self.bins}], got {list(logits.shape)}")


def check_policy_space(space: ActionSpace) -> None:
    """Raises ValueError for an action space that a policy of this module cannot have.

    Supported is any mix of categorical and binary components, at least one.
    """
    wrong = {name: component.kind for name, component in space.items() if component.kind not in POLICY_KINDS}
    if wrong or not space:
        given = ", ".join(f"{name!r} is {kind}" for name, kind in sorted(wrong.items())) or "the action space is empty"
        raise ValueError(f"a policy needs one or more components, each of them categorical or binary; {given}")


def sample(rng: Key[Array, ""], logits: Mapping[str, Array], space: ActionSpace) -> dict[str, Array]:
    """Draws int32 actions, every component and bit by itself."""
    logits = _checked_logits(logits, space)
    actions = {}
    for index, (name, array) in enumerate(logits.items()):
        key = jax.random.fold_in(rng, index)
        if space[name].kind == "categorical":
            actions[name] = jax.random.categorical(key, array).astype(jnp.int32)
        else:
            # The likelier bit, flipped now and then. Not `bernoulli`: its uniform number is 0 once in 2^23, which draws
            # a bit however improbable; so is the logistic distribution's lowest, but not its highest, number.
            flipped = jax.random.logistic(key, array.shape) > jnp.abs(array)
            actions[name] = ((array > 0) ^ flipped).astype(jnp.int32)
    return actions


def mode(logits: Mapping[str, Array], space: ActionSpace) -> dict[str, Array]:
    """The most probable actions, int32; the lowest of equals."""
    return {
        name: (jnp.argmax(array, -1) if space[name].kind == "categorical" else array > 0).astype(jnp.int32)
        for name, array in _checked_logits(logits, space).items()
    }


def log_prob(logits: Mapping[str, Array], actions: Mapping[str, Array], space: ActionSpace) -> Float[Array, "..."]:
    """ln p(actions), summed over components and bits; NaN for a category outside 0 … size-1.

    Raises:
      ValueError: components or shapes are not those of `space` and of each other.
    """
    logits = _checked_logits(logits, space)
    actions = _checked_names("actions", actions, space)
    total = 0.0
    for name, array in logits.items():
        component, chosen = space[name], jnp.asarray(actions[name])
        wanted = array.shape[:-1] if component.kind == "categorical" else array.shape
        if chosen.shape != wanted:
            raise ValueError(
                f"action {name!r} ({component.kind}) should be {list(wanted)} for logits {list(array.shape)}, "
                f"got {list(chosen.shape)}"
            )
        if component.kind == "categorical":
            chosen = jnp.where(chosen < 0, component.size, chosen)  # a negative index would count from the end
            logs = jnp.take_along_axis(jax.nn.log_softmax(array), chosen[..., None], -1, mode="fill")
        else:
            logs = jnp.where(chosen > 0, jax.nn.log_sigmoid(array), jax.nn.log_sigmoid(-array))
        total = total + jnp.sum(logs, -1)
    return total


def entropy(logits: Mapping[str, Array], space: ActionSpace) -> Float[Array, "..."]:
    """Entropy in nats, summed over components and bits."""
    total = 0.0
    for name, array in _checked_logits(logits, space).items():
        logs = _log_probabilities(array, space[name].kind)
        total = total - jnp.sum(jnp.exp(logs) * logs, (-2, -1))
    return total


def kl(logits: Mapping[str, Array], other_logits: Mapping[str, Array], space: ActionSpace) -> Float[Array, "..."]:
    """KL(first ‖ second) in nats, summed over components and bits.

    Raises:
      ValueError: components or shapes are not those of `space` and of each other.
    """
    logits, other_logits = _checked_logits(logits, space), _checked_logits(other_logits, space)
    total = 0.0
    for name, array in logits.items():
        if array.shape != other_logits[name].shape:
            raise ValueError(
                f"logits of {name!r} differ in shape: {list(array.shape)} and {list(other_logits[name].shape)}"
            )
        logs = _log_probabilities(array, space[name].kind)
        others = _log_probabilities(other_logits[name], space[name].kind)
        total = total + jnp.sum(jnp.exp(logs) * (logs - others), (-2, -1))
    return total


def mix_uniform(logits: Mapping[str, Array], share: float, space: ActionSpace) -> dict[str, Array]:
    """Logits of (1 - share) · p + share · uniform, every component and bit by itself.

    Raises:
      ValueError: `share` is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of uniform actions must be between 0 and 1, got {share}")
    mixed = {}
    for name, array in _checked_logits(logits, space).items():
        if share > 0:
            logs = _log_probabilities(array, space[name].kind)
            uniform = math.log(share / logs.shape[-1])
            kept = logs + (math.log1p(-share) if share < 1 else -jnp.inf)
            logs = jnp.logaddexp(kept, uniform)
            array = logs[..., 0, :] if space[name].kind == "categorical" else logs[..., 1] - logs[..., 0]
        mixed[name] = array
    return mixed


def _log_probabilities(logits: Array, kind: str) -> Float[Array, "... V O"]:
    """Log-probabilities of V independent variables with O outcomes: one categorical, or bits with outcomes 0 and 1."""
    if kind == "categorical":
        return jax.nn.log_softmax(logits)[..., None, :]
    return jnp.stack([jax.nn.log_sigmoid(-logits), jax.nn.log_sigmoid(logits)], -1)


def _checked_names(what: str, arrays: Mapping[str, Array], space: ActionSpace) -> Mapping[str, Array]:
    if not isinstance(arrays, Mapping):
        raise ValueError(f"{what} must be a mapping from the components {sorted(space)}, got {type(arrays).__name__}")
    if set(arrays) != set(space):
        raise ValueError(f"the action space has components {sorted(space)}, the {what} have {sorted(arrays)}")
    return arrays


def _checked_logits(logits: Mapping[str, Array], space: ActionSpace) -> dict[str, Array]:
    """The logits in float32, by component in alphabetical order."""
    check_policy_space(space)
    checked = {n: jnp.asarray(a, jnp.float32) for n, a in sorted(_checked_names("logits", logits, space).items())}
    for name, array in checked.items():
        if array.shape[-1:] != (space[name].size,):
            raise ValueError(f"logits of {name!r} should be [..., {space[name].size}], got {list(array.shape)}")
    if len({array.shape[:-1] for array in checked.values()}) > 1:
        shapes = {name: list(array.shape) for name, array in checked.items()}
        raise ValueError(f"the components' logits differ in leading shape: {shapes}")
    return checked
