"""Where arrays live: a mesh with axes `data` and `fsdp`, and ordered (regex → PartitionSpec) rules."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trainer.errors import ConfigError

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
    if len(shape) != len(AXES) or shape[0] * shape[1] != devices:
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
      ConfigError: a parameter cannot be split as its rule says.
    """

    def shard(path: Sequence[Any], leaf: Any) -> NamedSharding:
        name = path_name(path)
        for regex, spec in rules:
            if re.search(regex, name):
                problem = _cannot_split(leaf.shape, spec, mesh)
                if not problem:
                    return NamedSharding(mesh, spec)
                if name.startswith(("params", "ema")):
                    raise ConfigError(
                        f"The sharding rule {regex!r} → {spec} does not fit {name}{leaf.shape}: {problem}."
                    )
                return replicated(mesh)  # an optimiser may keep statistics of another shape under the same name
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(shard, state)


def _cannot_split(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> str:
    if len(spec) > len(shape):
        return f"the rule has {len(spec)} dimensions, the array {len(shape)}"
    for size, axes in zip(shape, spec, strict=False):
        names = () if axes is None else axes if isinstance(axes, tuple) else (axes,)
        parts = int(np.prod([mesh.shape[name] for name in names], dtype=np.int64))
        if size % parts:
            return f"{size} cannot be split in {parts}"
    return ""


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Puts a process's rows of a numpy batch on its devices; the batch is split over all of them by rows.

    Raises:
      ConfigError: the rows cannot be split evenly.
    """
    if mesh.size == 1:
        return jax.device_put(batch, replicated(mesh))
    split, whole = NamedSharding(mesh, PartitionSpec(AXES)), replicated(mesh)
    parts = mesh.size // jax.process_count()

    def sharding(path: Sequence[Any], x: Any) -> NamedSharding:
        shape = np.shape(x)
        if shape and shape[0] % parts:
            raise ConfigError(
                f"The batch's {path_name(path)}{list(shape)} cannot be split over {parts} devices: "
                f"make the batch size a multiple of {mesh.size}."
            )
        return split if shape else whole

    shardings = jax.tree_util.tree_map_with_path(sharding, batch)
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)
    return jax.tree.map(lambda x, s: jax.make_array_from_process_local_data(s, np.asarray(x)), batch, shardings)


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
