"""Where arrays live: a mesh with axes `data` and `fsdp`, and ordered (regex → PartitionSpec) rules."""

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trainer.errors import ConfigError, near_matches

PyTree = Any
Rule = tuple[str, PartitionSpec]
AXES = ("data", "fsdp")


def make_mesh(mesh_shape: tuple[int, int] | None = None) -> Mesh:
    """The mesh over all devices; `mesh_shape` is (data, fsdp), by default every device on `data`.

    Raises:
      ConfigError: the shape does not use exactly the devices there are.
    """
    devices = jax.device_count()
    shape = mesh_shape or (devices, 1)
    counts = [size for size in shape if isinstance(size, int) and size > 0]
    if not len(shape) == len(counts) == len(AXES) or counts[0] * counts[1] != devices:
        raise ConfigError(f"mesh_shape {tuple(shape)} (data, fsdp) must multiply to the {devices} devices there are.")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@functools.cache
def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def key_name(entry: Any) -> str | int:
    """The plain key of one entry of a jax key path."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            key = getattr(entry, attribute)
            return key if isinstance(key, int) else str(key)
    return str(entry)


def path_name(path: Sequence[Any]) -> str:
    """A key path as people write it: `params/encoder/0/w`."""
    return "/".join(str(key_name(entry)) for entry in path)


def state_sharding(mesh: Mesh, rules: Sequence[Rule], state: PyTree) -> PyTree:
    """The sharding of each array of a training state.

    The first rule whose regex is found (`re.search`) in an array's path decides; without one it is replicated. An
    optimiser's moments and the moving average hold the parameter's path in theirs, and so follow its rule.

    Args:
      mesh: from `make_mesh`.
      rules: ordered (regex, spec) pairs.
      state: arrays or `jax.ShapeDtypeStruct`s.

    Raises:
      ConfigError: a rule is none, decides about no array, or a parameter cannot be split as its rule says.
    """
    for rule in rules:
        _check_rule(rule, mesh)
    decided: set[int] = set()

    def shard(path: Sequence[Any], leaf: Any) -> NamedSharding:
        name = path_name(path)
        for number, (regex, spec) in enumerate(rules):
            if re.search(regex, name):
                decided.add(number)
                problem = _cannot_split(leaf.shape, spec, mesh)
                if not problem:
                    return NamedSharding(mesh, spec)
                if name.startswith(("params", "ema")):
                    raise ConfigError(f"{_text(rules[number])} does not fit {name}{leaf.shape}: {problem}.")
                return replicated(mesh)  # an optimiser may keep statistics of another shape under the same name
        return replicated(mesh)

    shardings = jax.tree_util.tree_map_with_path(shard, state)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    for number in range(len(rules)):
        if number not in decided:
            raise ConfigError(_idle(number, rules, names))
    return shardings


def _check_rule(rule: Rule, mesh: Mesh) -> None:
    regex, spec = rule
    try:
        re.compile(regex)
    except re.error as e:
        raise ConfigError(f"{_text(rule)}: {regex!r} is no regular expression ({e}).") from e
    axes = [axis for entry in spec for axis in (entry if isinstance(entry, tuple) else (entry,)) if axis is not None]
    for axis in axes:
        if axis not in mesh.axis_names:
            raise ConfigError(
                f"{_text(rule)}: the mesh has no axis {axis!r}. {near_matches(str(axis), mesh.axis_names, 'Axes')}"
            )
        if axes.count(axis) > 1:
            raise ConfigError(f"{_text(rule)}: the axis {axis!r} can split one dimension only.")


def _idle(number: int, rules: Sequence[Rule], names: Sequence[str]) -> str:
    """What to say of a rule that decides about nothing."""
    regex = rules[number][0]
    found = [name for name in names if re.search(regex, name)]
    if not found:
        words = {word for name in names if name.startswith("params/") for word in name.split("/")[1:]}
        unknown = next((word for word in re.findall(r"\w+", regex) if word not in words), regex)
        return f"{_text(rules[number])} matches no parameter. {near_matches(unknown, words, 'Words of their paths')}"
    earlier = next(rule for rule in rules if re.search(rule[0], found[0]))
    return (
        f"{_text(rules[number])} decides about nothing: earlier rules match all that it matches, {earlier[0]!r} for "
        f"one {found[0]}. Put it before them, or leave it out."
    )


def _text(rule: Rule) -> str:
    return f"The sharding rule {rule[0]!r} → {tuple(rule[1])}"


def _cannot_split(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> str:
    if len(spec) > len(shape):
        return f"the rule has {len(spec)} dimensions, the array {len(shape)}"
    for size, axes in zip(shape, spec, strict=False):
        names = () if axes is None else axes if isinstance(axes, tuple) else (axes,)
        parts = int(np.prod([mesh.shape[name] for name in names], dtype=np.int64))
        if size % parts:
            return f"{size} cannot be split in {parts} ({', '.join(names)})"
    return ""


def check_batch(batch: PyTree, mesh: Mesh) -> None:
    """Raises ConfigError where a process's rows of a batch cannot be split evenly over its devices."""
    parts = mesh.size // jax.process_count()
    for path, x in jax.tree_util.tree_leaves_with_path(batch):
        shape = np.shape(x)
        if shape and shape[0] % parts:
            raise ConfigError(
                f"The batch's {path_name(path)}{list(shape)} cannot be split over {parts} devices: "
                f"make the batch size a multiple of {mesh.size}."
            )


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Puts a process's rows of a numpy batch on its devices; the batch is split over all of them by rows.

    Raises:
      ConfigError: the rows cannot be split evenly.
    """
    if mesh.size == 1:
        return jax.device_put(batch, replicated(mesh))
    check_batch(batch, mesh)
    shardings = _batch_shardings(batch, mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)
    return jax.tree.map(lambda x, s: jax.make_array_from_process_local_data(s, np.asarray(x)), batch, shardings)


def described_batch(example: PyTree, mesh: Mesh) -> PyTree:
    """The shapes of a batch of all processes, with the places that `put_batch` would give its arrays."""
    shardings = _batch_shardings(example, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), example, shardings)


def _batch_shardings(batch: PyTree, mesh: Mesh) -> PyTree:
    split, whole = NamedSharding(mesh, PartitionSpec(AXES)), replicated(mesh)
    return jax.tree.map(lambda x: split if np.shape(x) else whole, batch)


_MESH: ContextVar[Mesh | None] = ContextVar("_MESH", default=None)


@contextlib.contextmanager
def traced_for(mesh: Mesh) -> Iterator[None]:
    """While a step is traced: the mesh that it is traced for, see `split_rows`."""
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def split_rows(tree: PyTree) -> PyTree:
    """Within a step: arrays [B, …] whose rows every device has its share of, as those of a batch.

    For rows that a task has reordered or selected: where they come from is no longer known then, and without this each
    device may compute all of them. Arrays whose rows cannot be split evenly stay as they are, and so does everything
    outside of a trainer's step.
    """
    mesh = _MESH.get()
    if mesh is None or mesh.size == 1:
        return tree
    split = NamedSharding(mesh, PartitionSpec(AXES))

    def place(x: jax.Array) -> jax.Array:
        even = x.ndim > 0 and x.shape[0] % mesh.size == 0
        return jax.lax.with_sharding_constraint(x, split) if even else x

    return jax.tree.map(place, tree)


def put_tree(tree: PyTree, shardings: PyTree) -> PyTree:
    """Puts arrays where `shardings` says: those that every process holds whole, or that all of them hold together.

    Args:
      tree: arrays.
      shardings: one for all, or a tree of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        return jax.make_array_from_callback(np.shape(x), sharding, lambda index: x[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda x: put(x, shardings), tree)
    return jax.tree.map(put, tree, shardings)
