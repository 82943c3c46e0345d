"""`Episodes`: the episodes of a TFDS split by number, decoded, under the names that a batch uses."""

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds

from datasets.contents import checksum
from datasets.errors import DataError, near_matches

Episode = dict[str, Any]  # Arrays [T, …] by batch name, or dicts of such arrays.
REQUIRED = "frames"
PER_EPISODE = {"task": np.int32, "relevant": np.bool_}
OPTIONAL = ("actions", "rewards", "is_first", "is_terminal", *PER_EPISODE)


class Episodes:
    """Reads episodes at random; safe to use from several threads."""

    def __init__(
        self, builder: tfds.core.DatasetBuilder, split: str, *, keys: Mapping[str, str], cache_bytes: int
    ) -> None:
        """Opens a prepared data set.

        Args:
          builder: of the data set.
          split: in TFDS's notation: "train", "train[:90%]" …
          keys: feature names by batch name, where the two differ.
          cache_bytes: decoded episodes are kept in memory up to this size. Nothing is ever evicted: under a random
            order no other rule keeps more of what comes next.

        Raises:
          DataError: the data set has no such split or features, or is stored in a format without random access.
        """
        info = builder.info
        self.label = f"{info.full_name}, split {split!r}"
        self._features = _match_features(info.full_name, list(info.features), keys)
        self._tensor_infos = info.features.get_tensor_info()
        self._cache: dict[int, Episode] = {}
        self._cache_bytes = cache_bytes
        self.cached_bytes = 0
        self._lock = threading.Lock()
        try:
            self._files = [str(path) for path in info.splits[split].filepaths]
        except ValueError as error:
            names = [str(name) for name in info.splits]
            raise DataError(
                f"The data set {info.full_name} has no split {split!r}. {near_matches(split, names)}"
                f"Its splits: {', '.join(names)}; parts of them are written 'train[:90%]'."
            ) from error
        unused = {name: tfds.decode.SkipDecoding() for name in info.features if name not in self._features.values()}
        try:
            self._source = builder.as_data_source(split, decoders=unused)
        except NotImplementedError as error:
            raise DataError(
                f"The data set {info.full_name} is stored as {info.file_format.value} in {builder.data_dir}, which "
                "cannot be read at random. Delete that folder, or give another with --config.data.data_dir=FOLDER: "
                "the data set is then written as array_record."
            ) from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Episode:
        """The episode: `frames` uint8 [T, H, W, C], and what the data set has of the rest, one entry per frame.

        `task` (int32) and `relevant` (bool) are the same at every frame: where the data set has them per step, as at
        the episode's first.

        Raises:
          DataError: a feature is not of the type or length that its name promises.
        """
        episode = self._cache.get(index)
        if episode is None:
            episode = self._read(index)
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(episode))
            with self._lock:
                if index not in self._cache and self.cached_bytes + size <= self._cache_bytes:
                    self._cache[index] = episode
                    self.cached_bytes += size
        return episode

    def contents(self) -> dict[str, Any]:
        """What is read, as JSON-able data: the features in use, and a checksum of the record files; see `checksum`."""
        features = {
            feature: jax.tree.map(
                lambda part: f"{np.dtype(part.np_dtype)}{list(part.shape)}", self._tensor_infos[feature]
            )
            for feature in sorted(set(self._features.values()))
        }
        return {"features": features, "checksum": self._checksum}

    @functools.cached_property
    def _checksum(self) -> int:
        return checksum(dict.fromkeys(self._files))

    def _read(self, index: int) -> Episode:
        example = self._source[int(index)]
        episode = {key: _as_arrays(example[feature]) for key, feature in self._features.items()}
        frames = episode["frames"]
        if frames.ndim != 4 or frames.dtype != np.uint8:
            raise DataError(
                f"Frames must be uint8 arrays [T, H, W, C]; {self._features['frames']!r} of episode {index} of "
                f"{self.label} is {frames.dtype} {list(frames.shape)}. "
                "Name another feature in the config: data.keys = {'frames': NAME}."
            )
        for key in PER_EPISODE:
            if key in episode:
                episode[key] = self._repeat(key, episode[key], index, len(frames))
        for key, value in episode.items():
            lengths = {len(leaf) if leaf.ndim else 0 for leaf in jax.tree.leaves(value)}
            if lengths != {len(frames)}:
                raise DataError(
                    f"{key!r} needs one entry per frame, {len(frames)} in episode {index} of {self.label}; "
                    f"it has {sorted(lengths)}."
                )
        return episode

    def _repeat(self, key: str, value: Any, index: int, length: int) -> np.ndarray:
        """One entry per frame of what belongs to the whole episode."""
        given = jax.tree.leaves(value)[0]
        kinds = "iu" if key == "task" else "biu"
        if given is not value or given.dtype.kind not in kinds or given.shape not in ((), (length,)):
            raise DataError(
                f"{key!r} must be {'an integer' if key == 'task' else 'a truth value'} per episode or per frame; "
                f"{self._features[key]!r} of episode {index} of {self.label} is {given.dtype} {list(given.shape)}. "
                f"Name another feature in the config, or none: data.keys = {{{key!r}: ''}}."
            )
        # `broadcast_to` and not an index: an episode may be empty.
        return np.broadcast_to(given[:1] if given.ndim else given, length).astype(PER_EPISODE[key])


def _match_features(label: str, present: Sequence[str], keys: Mapping[str, str]) -> dict[str, str]:
    """Feature names by batch name, for those that there are."""
    unknown = sorted(set(keys) - {REQUIRED, *OPTIONAL})
    if unknown:
        raise DataError(
            f"keys names {', '.join(unknown)}, which no batch has; known: {REQUIRED}, {', '.join(OPTIONAL)}."
        )
    features = {}
    for key in (REQUIRED, *OPTIONAL):
        feature = keys.get(key, key)
        if feature == "" and key != REQUIRED:
            continue
        if feature in present:
            features[key] = feature
        elif key == REQUIRED or feature != key:
            raise DataError(
                f"The data set {label} has no feature {feature!r} for the {key}. {near_matches(feature, present)}"
                f"Its features: {', '.join(present)}. Name one in the config: data.keys = {{{key!r}: NAME}}."
            )
    return features


def _as_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_arrays(part) for name, part in value.items()}
    return np.asarray(value)
