"""`Episodes`: the episodes of a TFDS split by number, decoded, under the names that a batch uses."""

import functools
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
import numpy as np
import tensorflow_datasets as tfds

from datasets import tfrecords
from datasets.contents import checksum
from datasets.errors import DataError, near_matches, one_line
from datasets.features import PER_EPISODE, Names, Selection

Episode = dict[str, Any]  # Arrays [T, …] by batch name, or dicts of such arrays.
Alignment = Literal["before", "after"]
_JAX_TYPES = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}


class EpisodeSource(Protocol):
    """What batches are made of: episodes by number, with an entry per frame in every array.

    Attributes:
      label: the data set and its split, for messages.
    """

    label: str

    def __len__(self) -> int:
        """Episodes."""

    def __getitem__(self, index: int, /) -> Episode:
        """An episode, to cut clips from."""

    def apart(self, index: int, /) -> Episode:
        """An episode, to take single frames from that stand without their past."""


def frames_of(episode: Episode) -> int:
    """How many frames an episode has."""
    return len(jax.tree.leaves(episode)[0])


class Episodes:
    """Reads episodes at random; safe to use from several threads."""

    def __init__(
        self, builder: tfds.core.DatasetBuilder, split: str, *, keys: Mapping[str, Names], cache_bytes: int,
        alignment: Alignment | None = None, min_length: int = 1,
    ) -> None:  # fmt: skip
        """Opens a prepared data set.

        Args:
          builder: of the data set.
          split: in TFDS's notation: "train", "train[:90%]" …
          keys: feature names by batch name, where the two differ; see `datasets.features`.
          cache_bytes: decoded episodes are kept in memory up to this size. Nothing is ever evicted: under a random
            order no other rule keeps more of what comes next.
          alignment: whether the action and reward stored with a frame came before it ("before", also None) or after
            it ("after", as in RLDS). Must be given where they lie in a nested data set of steps.
          min_length: episodes of fewer frames are left out, and their number is told. A data set does not say how long
            its episodes are: above 1 each is opened once, without its pictures where it has anything else per frame.

        Raises:
          DataError: the data set has no such split or features, or is stored in a format without random access, its
            alignment must be given, or all its episodes are shorter.
        """
        info = builder.info
        self.label = f"{info.full_name}, split {split!r}"
        self._selection = Selection(info.full_name, info.features, keys)
        self._names = self._selection.names
        self._alignment = _checked(alignment, self._selection, info.full_name)
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
                f"Its splits: {', '.join(names)}; parts of them are written 'train[:90%]' (--config.data.split, "
                "--config.eval_data.split)."
            ) from error
        self._source = _open(builder, split, self._selection.decoders())
        self._kept = np.arange(len(self._source))
        if min_length > 1:
            self._leave_out(_lengths(builder, split, self._selection) < min_length, min_length)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Episode:
        """The episode: `frames` uint8 [T, H, W, C], and what the data set has of the rest, one entry per frame.

        `actions[t]` and `rewards[t]` led to and came with `frames[t]`, whatever the alignment in the data set. `task`
        (int32), `relevant` and `labelled` (bool) are the same at every frame: where the data set has them per step, as
        at the episode's first.

        Raises:
          DataError: a feature is not of the type or length that its name promises.
        """
        episode = self._cache.get(index)
        if episode is None:
            episode = self._read(int(self._kept[index]))
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(episode))
            with self._lock:
                if index not in self._cache and self.cached_bytes + size <= self._cache_bytes:
                    self._cache[index] = episode
                    self.cached_bytes += size
        return episode

    def apart(self, index: int) -> Episode:
        """The same: pictures know nothing of their past."""
        return self[index]

    def contents(self) -> dict[str, Any]:
        """What is read, as JSON-able data: the features in use, and a checksum of the record files; see `checksum`."""
        shifted = {"alignment": self._alignment} if self._alignment == "after" else {}
        return {"features": self._selection.types(), "checksum": self._checksum, **shifted}

    @functools.cached_property
    def _checksum(self) -> int:
        return checksum(dict.fromkeys(self._files))

    def _leave_out(self, short: np.ndarray, min_length: int) -> None:
        if short.size and short.all():
            raise DataError(
                f"All {len(short)} episodes of {self.label} have fewer than {min_length} frames. Lower the length of "
                "this data (--config.data.length, --config.eval_data.length)."
            )
        self._kept = np.flatnonzero(~short)
        if short.any():
            left_out = f"left out {short.sum()} of {len(short)} episodes of {self.label}"
            print(f"note: {left_out}, which have fewer than {min_length} frames", file=sys.stderr, flush=True)

    def _read(self, index: int) -> Episode:
        episode = self._selection.read(self._source[index])
        frames = episode["frames"]
        if not isinstance(frames, np.ndarray) or frames.ndim != 4 or frames.dtype != np.uint8:
            raise DataError(
                f"Frames must be uint8 arrays [T, H, W, C]; {self._names['frames']!r} of episode {index} of "
                f"{self.label} is {_shown(frames)}. Name another feature in the config: --config.data.keys.frames=NAME"
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
        for key in ("rewards", "is_first", "is_terminal"):
            if key in episode:
                episode[key] = self._numbers(key, episode[key], index, len(frames))
        if "actions" in episode:
            episode["actions"] = jax.tree.map(functools.partial(self._action, index), episode["actions"])
        return arrived(episode) if self._alignment == "after" else episode

    def _numbers(self, key: str, value: Any, index: int, length: int) -> np.ndarray:
        """A number per frame."""
        if not isinstance(value, np.ndarray) or value.size != length or value.dtype.kind not in "biuf":
            raise DataError(
                f"{key!r} must be one number per frame; {self._names[key]!r} of episode {index} of {self.label} is "
                f"{_shown(value)}. Name another feature in the config, or none: --config.data.keys.{key}="
            )
        return value.reshape(length)

    def _action(self, index: int, leaf: np.ndarray) -> np.ndarray:
        """An action's component, in a type that JAX has."""
        if leaf.dtype.kind not in "biuf":
            raise DataError(
                f"Actions must be numbers; {self._names['actions']!r} of episode {index} of {self.label} holds "
                f"{_shown(leaf)}. Name the components to use: --config.data.keys.actions.COMPONENT=NAME"
            )
        return leaf.astype(_JAX_TYPES.get(leaf.dtype, leaf.dtype), copy=False)

    def _repeat(self, key: str, value: Any, index: int, length: int) -> np.ndarray:
        """One entry per frame of what belongs to the whole episode."""
        given = value
        kinds = "iu" if key == "task" else "biu"
        if not isinstance(given, np.ndarray) or given.dtype.kind not in kinds or given.shape not in ((), (length,)):
            raise DataError(
                f"{key!r} must be {'an integer' if key == 'task' else 'a truth value'} per episode or per frame; "
                f"{self._names[key]!r} of episode {index} of {self.label} is {_shown(given)}. "
                f"Name another feature in the config, or none: data.keys = {{{key!r}: ''}}."
            )
        # `broadcast_to` and not an index: an episode may be empty.
        return np.broadcast_to(given[:1] if given.ndim else given, length).astype(PER_EPISODE[key])


def _open(builder: tfds.core.DatasetBuilder, split: str, decoders: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The examples of a split, decoded so."""
    info = builder.info
    if tfrecords.only(info):
        return tfrecords.TfRecords(info, split, decoders)
    try:
        source = builder.as_data_source(split, decoders=decoders)
        # TFDS reads the files of a Parquet split as wholes, also of a part such as train[:90%].
        return _Part(source, info, split) if info.file_format == tfds.core.FileFormat.PARQUET else source
    except NotImplementedError as error:
        raise DataError(
            f"The data set {info.full_name} is stored as {info.file_format.value} in {builder.data_dir}, which "
            "cannot be read at random. Convert it to array_record (`tfds convert_format`), or give another folder "
            "with --config.data.data_dir=FOLDER."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{info.full_name}, split {split!r}, cannot be read: {one_line(error)} Copy it again."
        ) from error


class _Part:
    """The examples of a split among all those of its files."""

    def __init__(self, source: Sequence[Mapping[str, Any]], info: tfds.core.DatasetInfo, split: str):
        self._source = source
        files = info.splits[split].file_instructions
        starts = np.cumsum([0, *(file.examples_in_shard for file in files)])
        self._places = [
            start + file.skip + i for start, file in zip(starts, files, strict=False) for i in range(file.take)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._source[self._places[index]]


def _lengths(builder: tfds.core.DatasetBuilder, split: str, selection: Selection) -> np.ndarray:
    """The frames of every episode of a split."""
    key = selection.smallest
    source = _open(builder, split, selection.decoders([key]))
    first = (jax.tree.leaves(selection.read(source[i], [key])[key])[0] for i in range(len(source)))
    # What has no entry per frame is refused with its place where the whole episode is read.
    return np.array([len(leaf) if leaf.ndim else sys.maxsize for leaf in first])


def _checked(alignment: Alignment | None, selection: Selection, label: str) -> Alignment:
    """The alignment; it has no default where the RLDS convention is likely, since a wrong one would go unseen."""
    if alignment is None and selection.by_step & {"actions", "rewards"}:
        raise DataError(
            f"The data set {label} holds its steps as a nested data set, as RLDS does: say whether a step's action and "
            "reward come after its frame, --config.data.alignment=after (RLDS), or led to it, "
            "--config.data.alignment=before."
        )
    return alignment or "before"


def arrived(episode: Episode) -> Episode:
    """From RLDS's convention to the batch's: what came after frame t - 1 led to frame t.

    The last step's action and reward, which RLDS calls invalid, are dropped. Nothing led to a frame after a reset:
    zeros stand there. The flags speak of the frame itself in both conventions.
    """
    length = len(episode["frames"])
    reset = np.asarray(episode.get("is_first", np.arange(length) == 0), bool) | (np.arange(length) == 0)

    def shift(leaf: np.ndarray) -> np.ndarray:
        out = np.roll(leaf, 1, axis=0)
        out[reset] = 0
        return out

    return {
        key: jax.tree.map(shift, value) if key in ("actions", "rewards") else value for key, value in episode.items()
    }


def _shown(value: Any) -> str:
    """Type and shape, for messages."""
    if isinstance(value, Mapping):
        return f"a group of features: {', '.join(value)}"
    return f"{value.dtype} {list(value.shape)}"
