"""`Selection`: which features of a TFDS data set a batch takes, by name, however deep they lie.

A name is a path: `video`, `observation/image`. A data set of RLDS form holds the steps of an episode as a nested data
set, `steps`; a name that the episode lacks is looked up there: `observation/image` means `steps/observation/image`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from datasets.errors import DataError, near_matches

Names = str | Mapping[str, str]  # A feature's name, or the names of an action's components.
Arrays = Any  # An array [T, …], or a dict of such arrays.
REQUIRED = "frames"
PER_EPISODE = {"task": np.int32, "relevant": np.bool_, "labelled": np.bool_}
_PER_FRAME = ("is_first", "is_terminal", "rewards", "actions")
OPTIONAL = ("actions", "rewards", "is_first", "is_terminal", *PER_EPISODE)
# What RLDS calls them.
_STEP_NAMES = {"frames": ("observation/image", "observation"), "actions": ("action",), "rewards": ("reward",)}


class Selection:
    """The features in use.

    Attributes:
      names: by batch name, the full path of the feature, or the paths of an action's components.
      by_step: the batch names of those that lie in a nested data set of steps.
    """

    def __init__(self, label: str, features: tfds.features.FeaturesDict, keys: Mapping[str, Names]) -> None:
        """Finds the features.

        Args:
          label: the data set's name, for messages.
          features: of the data set.
          keys: names by batch name, where the two differ; an empty name leaves a feature out.

        Raises:
          DataError: there is no such batch name or feature.
        """
        self._label, self._features = label, features
        self._all = dict(_walk(features))
        self._nested = [name for name, part in features.items() if isinstance(part, tfds.features.Dataset)]
        unknown = sorted(set(keys) - {REQUIRED, *OPTIONAL})
        if unknown:
            raise DataError(
                f"keys names {', '.join(unknown)}, which no batch has; known: {REQUIRED}, {', '.join(OPTIONAL)}."
            )
        found = {key: self._find(key, keys.get(key)) for key in (REQUIRED, *OPTIONAL)}
        self.names: dict[str, Names] = {key: names for key, names in found.items() if names}
        self.by_step = {key for key in self.names if any(self._in_steps(path) for path in self._paths(key))}

    @property
    def smallest(self) -> str:
        """The batch name of a feature with an entry per frame: of frames only where there is no other."""
        return next((key for key in _PER_FRAME if self.names.get(key)), REQUIRED)

    def decoders(self, keys: Collection[str] | None = None) -> dict[str, Any]:
        """What makes TFDS leave all other features undecoded; of these batch names, or of all in use."""
        used = [path for key in keys or self.names for path in self._paths(key)]
        return _skip(self._features, "", used)

    def types(self) -> dict[str, Any]:
        """Type and shape of every feature in use, as JSON-able data."""
        paths = sorted({path for key in self.names for path in self._paths(key)})
        return {path: _described(self._all[path].get_tensor_info()) for path in paths}

    def read(self, example: Mapping[str, Any], keys: Collection[str] | None = None) -> dict[str, Arrays]:
        """The features of a decoded example, by batch name: arrays, actions perhaps a dict of arrays.

        Raises:
          DataError: an episode has no steps, or they differ in shape.
        """
        tops = {path.split("/")[0] for key in keys or self.names for path in self._paths(key)}
        # Every step is decoded where it is asked for: once, for all features.
        opened = {top: list(example[top]) if top in self._nested else example[top] for top in tops}
        if any(isinstance(value, list) and not value for value in opened.values()):
            raise DataError(f"{self._label} holds an episode without a step. Leave it out of the split.")
        return {key: self._read(key, opened) for key in keys or self.names}

    def _read(self, key: str, opened: Mapping[str, Any]) -> Arrays:
        names = self.names[key]
        try:
            if isinstance(names, Mapping):
                return {component: np.asarray(_at(opened, path)) for component, path in names.items()}
            value = _flat(_at(opened, names))
        except ValueError as error:
            each = ", or each component: --config.data.keys.actions.COMPONENT=NAME" if key == "actions" else ""
            raise DataError(
                f"The steps of an episode of {self._label} cannot be put together in {names!r}: {error}. "
                f"Name another feature: --config.data.keys.{key}=NAME{each}"
            ) from error
        if key == "frames" and key in self.by_step and isinstance(value, np.ndarray) and value.ndim == 3:
            value = value[..., None]  # Pictures without colours: here it is known which axis is time.
        return value

    def _find(self, key: str, given: Names | None) -> Names | None:
        """The path of the feature for `key`; None where there is none and none was asked for."""
        if isinstance(given, Mapping):
            if key != "actions":
                raise DataError(f"keys.{key} must be one name, not {dict(given)}: only actions have components.")
            return {component: self._resolve(key, name) for component, name in sorted(given.items()) if name}
        if given is not None and not isinstance(given, str):
            raise DataError(f"keys.{key} must be a feature's name, not {given!r} ({type(given).__name__}).")
        if given == "" and key != REQUIRED:
            return None
        if given is not None and given != key:
            return self._resolve(key, given)
        usual = self._path(key) or next(self._usual(key), None)
        return self._resolve(key, key) if usual is None and key == REQUIRED else usual

    def _path(self, name: str) -> str | None:
        """The full path of a feature that may lie in the steps."""
        return next((path for path in (name, *(f"{top}/{name}" for top in self._nested)) if path in self._all), None)

    def _usual(self, key: str) -> Iterator[str]:
        """Where RLDS has the feature for `key`."""
        for path in (f"{top}/{name}" for top in self._nested for name in _STEP_NAMES.get(key, ())):
            if path in self._all and (key != REQUIRED or self._is_picture(path)):
                yield path

    def _resolve(self, key: str, name: str) -> str:
        path = self._path(name) if name else None
        if path is not None:
            return path
        shown = [path for path in self._all if "/" not in path and path not in self._nested]
        shown += [path for path, feature in self._all.items() if self._in_steps(path) and not dict(_walk(feature))]
        short = [path.partition("/")[2] for path in shown if self._in_steps(path)]
        pictures = [path for path in shown if self._is_picture(path)] if key == REQUIRED else []
        raise DataError(
            f"The data set {self._label} has no feature {name!r} for the {key}. {near_matches(name, [*shown, *short])}"
            f"Its features: {', '.join(shown)}. "
            f"Name one in the config: --config.data.keys.{key}={pictures[0] if pictures else 'NAME'}"
        )

    def _paths(self, key: str) -> list[str]:
        names = self.names[key]
        return list(names.values()) if isinstance(names, Mapping) else [names]

    def _in_steps(self, path: str) -> bool:
        return "/" in path and path.split("/")[0] in self._nested

    def _is_picture(self, path: str) -> bool:
        """Whether a feature can be frames: uint8, a picture per step or a whole video."""
        info = self._all[path].get_tensor_info()
        if isinstance(info, Mapping) or info.np_dtype != np.uint8:
            return False
        return len(info.shape) in ((2, 3) if self._in_steps(path) else (4,))


class _Skip(tfds.decode.SkipDecoding):
    """Also for features inside of sequences, which TFDS's own leaves out."""

    def decode_batch_example_np(self, example: Any) -> Any:
        """The stored form."""
        return example

    decode_ragged_example_np = decode_batch_example_np


def _walk(feature: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All features inside of a feature, by path; a nested data set and a sequence are as their elements."""
    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    if isinstance(feature, tfds.features.FeaturesDict):
        for name, part in feature.items():
            yield prefix + name, part
            yield from _walk(part, f"{prefix}{name}/")


def _skip(feature: Any, path: str, used: Sequence[str]) -> Any:
    """Decoders that skip every leaf at or below `path` which is not used."""
    if any(path == name or path.startswith(f"{name}/") for name in used):
        return None
    inner = feature
    while isinstance(inner, tfds.features.Sequence):
        inner = inner.feature
    if not isinstance(inner, tfds.features.FeaturesDict):
        return _Skip()
    parts = {name: _skip(part, f"{path}/{name}" if path else name, used) for name, part in inner.items()}
    return {name: part for name, part in parts.items() if part is not None}


def _described(info: Any) -> Any:
    if isinstance(info, Mapping):
        return {name: _described(part) for name, part in info.items()}
    return f"{np.dtype(info.np_dtype)}{list(info.shape)}"


def _at(value: Any, path: str) -> Any:
    """What lies at a path; the steps of a nested data set are stacked."""
    if isinstance(value, list):
        steps = [_at(step, path) if path else step for step in value]
        if isinstance(steps[0], Mapping):
            return {name: _at([step[name] for step in steps], "") for name in steps[0]}
        return np.stack([np.asarray(step) for step in steps])
    name, _, rest = path.partition("/")
    value = value[name]
    return _at(value, rest) if rest or isinstance(value, list) else value


def _flat(value: Any) -> Arrays:
    """Arrays; dicts in dicts become one dict, its names joined: {"arm": {"x": …}} is {"arm_x": …}.

    Raises:
      ValueError: two of them would have the same name.
    """
    if not isinstance(value, Mapping):
        return np.asarray(value)
    out: dict[str, Any] = {}
    paths: dict[str, str] = {}
    for path, leaf in _leaves(value):
        name = path.replace("/", "_")
        if name in paths:
            raise ValueError(f"{paths[name]!r} and {path!r} would both be called {name!r}")
        paths[name], out[name] = path, np.asarray(leaf)
    return out


def _leaves(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in group.items():
        if isinstance(part, Mapping):
            yield from _leaves(part, f"{prefix}{name}/")
        else:
            yield prefix + name, part
