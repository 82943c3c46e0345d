"""`components`: Gymnasium's action spaces as the components that a world model knows."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from datasets.errors import DataError
from datasets.writing import UNNAMED, Component, storable

Keys = tuple[Any, ...]  # The keys that lead to a part of an action.
_UNKNOWN = object()  # Stands for an action where only the space is asked for.


def components(space: spaces.Space) -> dict[str, Component]:
    """The components of an action space; `UNNAMED` where it is a single one.

    Discrete is categorical, a MultiDiscrete several of them, MultiBinary is bits, a Box continuous; a Dict is named by
    its keys, what is only numbered `part0`, `part1` …

    Raises:
      DataError: actions of this space are no numbers of a fixed count, or two parts would have the same name.
    """
    paths: dict[str, Keys] = {}
    out = {}
    for path, component, _ in _parts(space, _UNKNOWN, ()):
        name = _name(path)
        if name in paths:
            both = " and ".join(map(_shown, (paths[name], path)))
            raise DataError(
                f"The parts {both} of the action space would both be called {name!r}. Rename one of them in the "
                "environment, or in a wrapper of it (gymnasium.wrappers.TransformAction)."
            )
        paths[name], out[name] = path, component
    return out


def encode(space: spaces.Space, action: Any) -> dict[str, np.ndarray]:
    """An action by component: a number, or a vector [size].

    Raises:
      ValueError: it is none of this space.
    """
    return {_name(path): value for path, _, value in _parts(space, action, ())}


def _parts(space: spaces.Space, action: Any, path: Keys) -> Iterator[tuple[Keys, Component, np.ndarray | None]]:
    """Where a part lies, component and value; without values where `action` is `_UNKNOWN`."""
    if isinstance(space, spaces.Discrete):
        yield path, Component("categorical", int(space.n)), _choice(action, int(space.start), int(space.n))
    elif isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        value = _vector(action, space.shape, np.uint8)
        if value is not None and not np.isin(value, (0, 1)).all():
            raise ValueError(f"{action!r} is not in {space}")
        yield path, Component("binary", size), value
    elif isinstance(space, spaces.Box):
        yield path, Component("continuous", int(np.prod(space.shape))), _vector(action, space.shape, np.float32)
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.reshape(-1)
        starts = np.broadcast_to(getattr(space, "start", 0), space.nvec.shape).reshape(-1)
        values = [_UNKNOWN] * len(sizes) if action is _UNKNOWN else _vector(action, space.shape, np.int64)
        for i, (size, start, value) in enumerate(zip(sizes.tolist(), starts.tolist(), values, strict=True)):
            yield (*path, i), Component("categorical", size), _choice(value, start, size)
    elif isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _parts(part, action if action is _UNKNOWN else action[key], (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            yield from _parts(part, action if action is _UNKNOWN else action[i], (*path, i))
    else:
        raise DataError(
            f"Actions of {space} cannot be recorded: expected Discrete, MultiDiscrete, MultiBinary, Box, or a Dict or "
            "Tuple of these. Wrap the environment (gymnasium.wrappers.TransformAction), register the wrapped one and "
            "record that."
        )


def _name(path: Keys) -> str:
    """A name for a part, usable in a config; `UNNAMED` for the whole."""
    return "_".join(f"part{key}" if isinstance(key, int) else re.sub(r"\W", "_", str(key)) for key in path) or UNNAMED


def _shown(path: Keys) -> str:
    return "".join(f"[{key!r}]" for key in path)


def _choice(value: Any, start: int, size: int) -> np.ndarray | None:
    if value is _UNKNOWN:
        return None
    chosen = np.asarray(value)
    if chosen.size != 1 or chosen.dtype.kind not in "biu" or not start <= int(chosen.reshape(())) < start + size:
        raise ValueError(f"{value!r} is none of the whole numbers {start} … {start + size - 1}")
    return np.asarray(int(chosen.reshape(())) - start, np.int32)


def _vector(value: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    if value is _UNKNOWN:
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.shape != tuple(shape) or not storable(array).all():
        raise ValueError(f"{value!r} is no array of {list(shape)} finite float32 numbers")
    return array.astype(dtype).reshape(-1)
