"""Optimisers and learning-rate schedules from a config."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainer import plugins
from trainer.arguments import misfit, signature
from trainer.config import SCHEMA
from trainer.errors import ConfigError, near_matches
from trainer.sharding import path_name
from trainer.state import PyTree

Schedule = Callable[[Any], jax.Array]

_DEFAULT = SCHEMA["optimizer"][0]["name"][0]
SCHEDULES = ("constant", "cosine", "linear", "wsd")


def build_optimizer(config: Mapping[str, Any], steps: int) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimiser that `config.optimizer` describes.

    `muon` orthogonalises the updates of matrices and leaves all other parameters, and those whose path
    ("encoder/embed/kernel") matches a regular expression in `muon_exclude`, to Adam; its updates are scaled to Adam's
    size (`consistent_rms` 0.2), so that one learning rate fits both. Weight decay falls on parameters of two or more
    dimensions only.

    Args:
      config: the fields of `optimizer`, see `trainer.config.SCHEMA`.
      steps: the length of the run.

    Returns:
      The transformation, and the learning rate as a function of the step.

    Raises:
      ConfigError: an unknown name or argument, or lengths that do not fit into the run.
    """
    schedule = build_schedule(config, steps)
    name, options = config["name"], dict(config["options"])
    make = plugins.resolve(name, "optimizers", builtin=name == _DEFAULT)
    parameters = signature(make)
    known = set(parameters)
    if make is muon:
        known |= _MUON_OPTIONS
    elif "learning_rate" not in known:
        raise ConfigError(f"optimizer {name!r} has no argument 'learning_rate'; it must take a schedule by that name.")
    for key in options:
        if key not in known or key == "learning_rate":
            taken = known - {"learning_rate", "options"}
            raise ConfigError(f"optimizer {name!r} takes no option {key!r}. {near_matches(key, taken, 'Options')}")
        if key in parameters and (expected := misfit(parameters[key].annotation, options[key])):
            raise ConfigError(f"optimizer {name!r}: {key} must be {expected}, not {options[key]!r}.")
    arguments: dict[str, Any] = {}
    for key, default in (("b1", 0.9), ("b2", 0.999), ("eps", 1e-8), ("weight_decay", 0.0), ("muon_exclude", ())):
        if key in known:
            arguments[key] = config[key]
        elif config[key] != default:
            raise ConfigError(
                f"optimizer.{key} = {config[key]!r}, but {name!r} has no such setting. "
                + ("Use adamw." if key == "weight_decay" and name == "adam" else f"Leave it at {default!r}.")
            )
    if config["weight_decay"] and "mask" in known:
        arguments["mask"] = _is_matrix
    try:
        tx = make(learning_rate=schedule, **{**arguments, **options})
    except (TypeError, ValueError) as e:
        raise ConfigError(f"optimizer {name!r} cannot be built: {e} (--debug shows where).") from e
    check_transformation(tx, f"optimizer {name!r}")
    clip_norm = config["clip_norm"]
    if clip_norm < 0:
        raise ConfigError(f"optimizer.clip_norm = {clip_norm}: expected 0 (off) or more.")
    return (optax.chain(optax.clip_by_global_norm(clip_norm), tx) if clip_norm else tx), schedule


def check_transformation(tx: Any, what: str) -> None:
    """Raises ConfigError where `tx`, which `what` returned, is no optax transformation."""
    if not all(callable(getattr(tx, method, None)) for method in ("init", "update")):
        raise ConfigError(
            f"{what} returned a {type(tx).__name__}; expected an optax.GradientTransformation, which has init and "
            "update, such as optax.sgd(learning_rate)."
        )


def build_schedule(config: Mapping[str, Any], steps: int) -> Schedule:
    """The learning rate of step 0, 1, …: linear warm-up, then the shape that `schedule` names.

    Args:
      config: the fields of `optimizer`.
      steps: the length of the run.
    """
    peak, shape, warmup, decay = (config[k] for k in ("learning_rate", "schedule", "warmup_steps", "decay_steps"))
    if shape not in SCHEDULES:
        raise ConfigError(f"no schedule {shape!r}. {near_matches(shape, SCHEDULES, 'Schedules')}")
    if peak <= 0 or warmup < 0 or decay < 0:
        raise ConfigError(
            f"optimizer: learning_rate = {peak} must be above 0; warmup_steps = {warmup} and decay_steps = {decay} "
            "must not be negative."
        )
    if shape == "constant" and decay:
        raise ConfigError(f"optimizer.decay_steps = {decay}, but a constant schedule does not decay; set it to 0.")
    if warmup + decay > steps:
        raise ConfigError(
            f"optimizer.warmup_steps + decay_steps = {warmup} + {decay} does not fit into steps = {steps}; "
            f"shorten them, as in --config.optimizer.warmup_steps={steps // 10}."
        )
    if shape == "wsd":
        decay = decay or min(steps - warmup, max(1, steps // 5))
    elif shape != "constant":
        decay = decay or steps - warmup
    start = steps - decay if shape == "wsd" else warmup

    def learning_rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        scale = jnp.minimum(1.0, (step + 1) / warmup) if warmup else jnp.float32(1.0)
        if shape != "constant":
            done = jnp.clip((step - start) / max(decay, 1), 0.0, 1.0)
            left = (1 + jnp.cos(jnp.pi * done)) / 2 if shape == "cosine" else 1 - done
            scale = scale * (config["final_scale"] + (1 - config["final_scale"]) * left)
        return peak * scale

    return learning_rate


_MUON_OPTIONS = {"ns_coeffs", "ns_steps", "beta", "nesterov", "adaptive", "preconditioning"}


def muon(
    learning_rate: Schedule, b1: float, b2: float, eps: float, weight_decay: float, muon_exclude: tuple[str, ...],
    consistent_rms: float | None = 0.2, **options: Any,
) -> optax.GradientTransformation:  # fmt: skip
    """Muon for matrices (orthogonalised momentum), Adam for all other parameters.

    Args:
      learning_rate: of both.
      b1: Adam's.
      b2: Adam's.
      eps: Adam's and Muon's.
      weight_decay: decoupled.
      muon_exclude: regular expressions of parameter paths that are left to Adam.
      consistent_rms: the root mean square of an update; None scales by sqrt(max(1, outputs / inputs)) instead.
      **options: further ones of `optax.contrib.scale_by_muon`.
    """
    try:
        patterns = [re.compile(pattern) for pattern in muon_exclude]
    except re.error as e:
        raise ConfigError(f"optimizer.muon_exclude: {e.pattern!r} is no regular expression ({e.msg}).") from e

    def labels(params: PyTree) -> PyTree:
        def of(path: Any, leaf: Any) -> str:
            excluded = any(p.search(path_name(path)) for p in patterns)
            return "muon" if leaf.ndim == 2 and not excluded else "adam"

        return jax.tree_util.tree_map_with_path(of, params)

    matrices = optax.chain(
        _muon_by_shape(eps=eps, **options),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u: u * _scale(u.shape, consistent_rms), updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    others = optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=0.0, nesterov=options.get("nesterov", True))
    tx = optax.partition({"muon": matrices, "adam": others}, labels)

    def init(params: PyTree) -> optax.OptState:
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in patterns:
            if not any(pattern.search(path) for path in paths):
                raise ConfigError(
                    f"optimizer.muon_exclude: {pattern.pattern!r} matches no parameter. "
                    f"{near_matches(pattern.pattern, paths, 'Parameters')}"
                )
        return tx.init(params)

    return optax.GradientTransformation(init, tx.update)


def _scale(shape: tuple[int, ...], consistent_rms: float | None) -> float:
    """What an orthogonal update is multiplied by (arXiv:2502.16982, §2.2; None: Keller Jordan's Muon)."""
    if consistent_rms is not None:
        return consistent_rms * max(shape) ** 0.5
    return max(1.0, shape[1] / shape[0]) ** 0.5


def _muon_by_shape(**options: Any) -> optax.GradientTransformation:
    """`optax.contrib.scale_by_muon` over all matrices of a shape at once: stacked, they are iterated in half the time.

    Stacked for the update only; the state has the parameters' tree and shapes, which is what sharding rules match.
    """
    dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    muon = optax.contrib.scale_by_muon(weight_dimension_numbers=lambda stacks: [dimensions] * len(stacks), **options)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        leaves, tree = jax.tree.flatten(updates)
        same: dict[Any, list[int]] = {}
        for i, leaf in enumerate(leaves):
            same.setdefault(i if options.get("adaptive") else leaf.shape, []).append(i)  # adaptive: sums over an array

        def stacks(values: PyTree) -> list[jax.Array]:
            flat = jax.tree.leaves(values)
            return [jnp.stack([flat[i] for i in group]) for group in same.values()]

        def apart(values: list[jax.Array]) -> PyTree:
            flat = {
                i: x
                for group, stack in zip(same.values(), values, strict=True)
                for i, x in zip(group, stack, strict=True)
            }
            return jax.tree.unflatten(tree, [flat[i] for i in range(len(leaves))])

        values, state = muon.update(stacks(updates), state._replace(mu=stacks(state.mu)))
        return apart(values), state._replace(mu=apart(state.mu))

    return optax.GradientTransformation(muon.init, update)


def _is_matrix(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
