"""`components`: Gymnasium's action spaces as the components that a world model knows."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from datasets.errors import DataError
from datasets.writing import UNNAMED, Component


def components(space: spaces.Space) -> dict[str, Component]:
    """The components of an action space; `UNNAMED` where it is a single one.

    Discrete is categorical, a MultiDiscrete several of them, MultiBinary is bits, a Box continuous; a Dict is named by
    its keys, what is only numbered `part0`, `part1` …

    Raises:
      DataError: actions of this space are no numbers of a fixed count.
    """
    return {name: component for name, component, _ in _parts(space, None, UNNAMED)}


def encode(space: spaces.Space, action: Any) -> dict[str, np.ndarray]:
    """An action by component: a number, or a vector [size].

    Raises:
      ValueError: it is none of this space.
    """
    return {name: value for name, _, value in _parts(space, action, UNNAMED)}


def _parts(space: spaces.Space, action: Any, name: str) -> Iterator[tuple[str, Component, np.ndarray | None]]:
    """Name, component and value; without values where `action` is None."""
    if isinstance(space, spaces.Discrete):
        yield name, Component("categorical", int(space.n)), _choice(action, int(space.start), int(space.n))
    elif isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        value = _vector(action, space.shape, np.uint8)
        if value is not None and not np.isin(value, (0, 1)).all():
            raise ValueError(f"{action!r} is not in {space}")
        yield name, Component("binary", size), value
    elif isinstance(space, spaces.Box):
        yield name, Component("continuous", int(np.prod(space.shape))), _vector(action, space.shape, np.float32)
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.reshape(-1)
        starts = np.broadcast_to(getattr(space, "start", 0), space.nvec.shape).reshape(-1)
        values = [None] * len(sizes) if action is None else _vector(action, space.shape, np.int64)
        for i, (size, start, value) in enumerate(zip(sizes.tolist(), starts.tolist(), values, strict=True)):
            yield _joined(name, i), Component("categorical", size), _choice(value, start, size)
    elif isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _parts(part, None if action is None else action[key], _joined(name, key))
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from _parts(part, None if action is None else action[i], _joined(name, i))
    else:
        raise DataError(
            f"Actions of {space} cannot be recorded: expected Discrete, MultiDiscrete, MultiBinary, Box, or a Dict or "
            "Tuple of these. Wrap the environment (gymnasium.wrappers.TransformAction), register the wrapped one and "
            "record that."
        )


def _joined(name: str, key: Any) -> str:
    """A name for a part, usable in a config."""
    own = f"part{key}" if isinstance(key, int) else re.sub(r"\W", "_", str(key))
    return f"{name}_{own}" if name else own


def _choice(value: Any, start: int, size: int) -> np.ndarray | None:
    if value is None:
        return None
    chosen = np.asarray(value)
    if chosen.size != 1 or chosen.dtype.kind not in "biu" or not start <= int(chosen.reshape(())) < start + size:
        raise ValueError(f"{value!r} is none of the whole numbers {start} … {start + size - 1}")
    return np.asarray(int(chosen.reshape(())) - start, np.int32)


def _vector(value: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.shape != tuple(shape) or not np.isfinite(array).all():
        raise ValueError(f"{value!r} is no array of {list(shape)} finite numbers")
    return array.astype(dtype).reshape(-1)
