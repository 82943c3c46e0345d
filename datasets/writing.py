"""`write`: episodes as a TFDS data set that is read without any code of its own, whole or not at all."""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builders.adhoc_builder import AdhocBuilder

from datasets import builders, unfinished
from datasets.errors import DataError

Episode = Mapping[str, Any]
UNNAMED = ""  # The component of an action that has only one.
_FLAGS = {"is_terminal": (None,), "relevant": (), "labelled": ()}


class Component(NamedTuple):
    """One component of an action.

    Attributes:
      kind: "categorical" (int32 [T]), "binary" (uint8 [T, size]) or "continuous" (float32 [T, size]).
      size: values to choose from, bits, or numbers.
    """

    kind: str
    size: int

    def feature(self) -> tfds.features.Tensor:
        """How it is stored."""
        if self.kind == "categorical":
            return tfds.features.Tensor(shape=(None,), dtype=np.int32)
        return tfds.features.Tensor(shape=(None, self.size), dtype=np.uint8 if self.kind == "binary" else np.float32)


def storable(array: np.ndarray) -> np.ndarray:
    """Which numbers are finite as float32, as which numbers are stored."""
    return np.abs(array) <= np.finfo(np.float32).max


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What every episode of a data set holds, beside `frames` uint8 [T, H, W, C].

    Attributes:
      image: H, W and C.
      actions: the components of `actions` by name, `UNNAMED` for a single array; empty: no actions.
      rewards: whether there are `rewards` float32 [T].
      flags: which of `is_terminal` bool [T], `relevant` bool, `labelled` bool there are.
      task: whether there is `task` int32.
    """

    image: tuple[int, int, int]
    actions: Mapping[str, Component] = dataclasses.field(default_factory=dict)
    rewards: bool = False
    flags: frozenset[str] = frozenset()
    task: bool = False

    def features(self) -> tfds.features.FeaturesDict:
        """The TFDS features; `actions[t]` and `rewards[t]` led to and came with `frames[t]`."""
        features: dict[str, Any] = {
            "frames": tfds.features.Tensor(shape=(None, *self.image), dtype=np.uint8, encoding="zlib"),
            "source": tfds.features.Text(doc="Where the episode comes from."),
        }
        if self.actions:
            parts = {name: component.feature() for name, component in self.actions.items()}
            features["actions"] = parts[UNNAMED] if UNNAMED in parts else tfds.features.FeaturesDict(parts)
        if self.rewards:
            features["rewards"] = tfds.features.Tensor(shape=(None,), dtype=np.float32)
        if self.task:
            features["task"] = tfds.features.Scalar(dtype=np.int32)
        for flag in sorted(self.flags):
            features[flag] = tfds.features.Tensor(shape=_FLAGS[flag], dtype=np.bool_)
        return tfds.features.FeaturesDict(features)


class Written(NamedTuple):
    """A data set on disk.

    Attributes:
      folder: its files.
      size: bytes.
      lengths: frames of every episode, by split.
      ranges: least and greatest value of the action components ("actions/NAME") and of the rewards ("rewards"), the
        first frame of an episode, to which nothing led, left out.
      terminal: episodes that end in a terminal state.
      labelled: episodes with actions.
    """

    folder: Path
    size: int
    lengths: Mapping[str, list[int]]
    ranges: Mapping[str, tuple[float, float]]
    terminal: int
    labelled: int


def folder_of(name: str, version: str, data_dir: str | None) -> Path:
    """Where a new data set will lie.

    Raises:
      DataError: the name or version is none, is taken by a builder, or the data set exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(f"--name={name} is no data set's name: use small letters, digits and _, as in my_data.")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise DataError(f"--version={version} is no version: three numbers are expected, as in 1.0.0.")
    if name in builders.own_names() or name in tfds.list_builders(with_community_datasets=False):
        raise DataError(f"--name={name}: a data set of this name is built by code already. Choose another name.")
    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / name / version
    if folder.exists():
        raise _exists(folder, name, version)
    return folder


def write(
    name: str,
    version: str,
    data_dir: str | None,
    contents: Contents,
    splits: Mapping[str, Iterable[Episode]],
    description: str,
) -> Written:
    """Writes a data set: beside its final place, then moved there.

    Args:
      name: as `datasets.builders.find_builder` will find it.
      version: such as "1.0.0".
      data_dir: where data sets lie; None for TFDS's own place.
      contents: what every episode holds.
      splits: the episodes, made as they are written: one at a time is in memory.
      description: stored with it.

    Raises:
      DataError: the data set exists, or the folder cannot be written; nothing was left.
    """
    folder = folder_of(name, version, data_dir)
    root = folder.parent.parent
    made = [path for path in (folder.parent, root, *root.parents) if not path.exists()]
    seen = _Seen()
    try:
        root.mkdir(parents=True, exist_ok=True)
        unfinished.clear(root, name)
        with unfinished.folder(root, name) as temp:
            builder = _Builder(
                name=name, version=version, data_dir=temp, features=contents.features(), description=description,
                split_datasets={split: seen.pass_on(split, episodes) for split, episodes in splits.items()},
                file_format="array_record", disable_shuffling=True,
            )  # fmt: skip
            with builders.quiet():
                builder.download_and_prepare(file_format="array_record")
            size = int(builder.info.dataset_size)
            folder.parent.mkdir(exist_ok=True)
            if folder.exists():
                raise _exists(folder, name, version)
            os.rename(builder.data_dir, folder)
    except OSError as error:
        _remove_empty(made)
        if folder.exists():
            raise _exists(folder, name, version) from error
        raise DataError(
            f"The data set could not be written in {root}: {error}. Nothing was left. "
            "Another folder is chosen with --data_dir=FOLDER (or the environment variable TFDS_DATA_DIR)."
        ) from error
    except BaseException:
        _remove_empty(made)
        raise
    return Written(folder, size, seen.lengths, seen.ranges, seen.terminal, seen.labelled)


class _Builder(AdhocBuilder, skip_registration=True):
    """A data set that is its files alone."""

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # The parent's method asks TensorFlow what the episodes are.
        del dl_manager
        return {split: self._generate_examples_iterator(examples) for split, examples in self._split_datasets.items()}


class _Seen:
    """What was written, counted while it passes."""

    def __init__(self):
        self.lengths: dict[str, list[int]] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self.terminal = self.labelled = 0

    def pass_on(self, split: str, episodes: Iterable[Episode]) -> Iterator[tuple[int, dict[str, Any]]]:
        self.lengths[split] = []
        for number, episode in enumerate(episodes):
            self._count(split, episode)
            example = dict(episode)
            if UNNAMED in example.get("actions", {}):
                example["actions"] = example["actions"][UNNAMED]
            yield number, example

    def _count(self, split: str, episode: Episode) -> None:
        self.lengths[split].append(len(episode["frames"]))
        labelled = "actions" in episode and bool(episode.get("labelled", True))
        self.labelled += labelled
        self.terminal += bool(np.any(episode.get("is_terminal", False)))
        arrays = {f"actions/{name}": array for name, array in episode["actions"].items()} if labelled else {}
        if "rewards" in episode:
            arrays["rewards"] = episode["rewards"]
        for name, array in arrays.items():
            values = np.asarray(array)[1:]
            if values.size:
                low, high = self.ranges.get(name, (np.inf, -np.inf))
                self.ranges[name] = (min(low, values.min().item()), max(high, values.max().item()))


def _exists(folder: Path, name: str, version: str) -> DataError:
    major, minor, patch = version.split(".")
    return DataError(
        f"The data set {name} {version} exists: {folder}. It is never overwritten: give another name "
        f"(--name={name}_2) or version (--version={major}.{int(minor) + 1}.{patch}), or remove that folder."
    )


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, from the innermost outwards, as long as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
