"""`LatentData`: a TFDS data set whose frames a frozen tokenizer has encoded, once, for all runs that build on it."""

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from datasets.pipeline import TfdsData
from models import functional
from models.tokenizer import Tokenizer, to_float
from trainer import hosts
from trainer.errors import DataError
from trainer.task import parameters_hash

FRAMES, ROWS, CPU_ROWS = 64, 16, 2  # encoded at a time: so many frames of so many episodes, few where caches are small
FLUSH_EVERY = 1024  # episodes, after which a restart can go on from there
_FILES = {"latents": False, "stills": True}  # Whether frames are encoded without their past.
_ABOUT, _STARTS = "about.json", "starts.npy"


class LatentData:
    """The batches of a TFDS data set with `latents` float32 [B, T, N, Z] in place of `frames`.

    Each episode is encoded from its first frame on, as in a rollout: the latents of a clip know what came before it. In
    rows of unrelated frames each is encoded alone. All of it lies in two files in a folder whose name is a hash of
    what decides them: the data, the tokenizer's sizes and parameters. Interrupted, the next call goes on from there.

    Args:
      source: the data set, prepared.
      tokenizer: its sizes decide the shapes.
      params: the tokenizer's parameters.
      folder: where such folders lie.
    """

    def __init__(
        self, source: TfdsData, tokenizer: Callable[[functional.Params], Tokenizer], params: functional.Params,
        folder: Path,
    ):  # fmt: skip
        self.source, self._tokenizer, self._params = source, tokenizer, params
        self.about = _about(source, tokenizer(params), params)
        self.folder = folder / hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]

    def prepare(self) -> None:
        """Encodes what is not there yet.

        Raises:
          DataError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "lock", "w", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be encoding the same: waits, and finds it there
                for name, alone in self._wanted.items():
                    if not self._is_whole(self.folder / f"{name}.npy"):
                        self._write(name, alone)
                (self.folder / _ABOUT).write_text(json.dumps(self.about, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"The latents of {self.source.episodes.label} cannot be kept in {self.folder}: {error.strerror}. Make "
                "room, or encode frames at every step: --config.task.cache_latents=false."
            ) from error

    def iterator(self, *, seed: int, process_index: int = 0, process_count: int = 1) -> Any:
        """As `TfdsData.iterator`."""
        return self.source.iterate(self._episodes, seed, process_index, process_count)

    def fingerprint(self) -> dict[str, Any]:
        """The data set's, and whose latents these are."""
        return {**self.source.fingerprint(), "latents": self.about["tokenizer"]}

    @property
    def _wanted(self) -> dict[str, bool]:
        return {name: alone for name, alone in _FILES.items() if not alone or self.source.independent_share}

    @property
    def _episodes(self) -> "_Encoded":
        arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self._wanted}
        return _Encoded(self.source.episodes, arrays, np.load(self.folder / _STARTS))

    def _checked(self, number: int) -> int:
        """The length of an episode that the tokenizer can read."""
        label, frames = self.source.episodes.label, self.source.episodes[number]["frames"]
        image = tuple(self.about["tokenizer"]["image"])
        if frames.shape[1:] != image:
            raise DataError(
                f"episode {number} of {label} has frames of {frames.shape[1:]}, the tokenizer takes {image}."
            )
        return len(frames)

    def _is_whole(self, file: Path) -> bool:
        """Whether it is there; says so where it is, but cannot be read."""
        if not file.exists():
            return False
        try:
            np.load(file, mmap_mode="r"), np.load(self.folder / _STARTS)
        except (OSError, ValueError, EOFError):
            hosts.say(f"{file} is damaged: encoding it again")
            return False
        return True

    def _write(self, name: str, alone: bool) -> None:
        """Writes a file beside its place, from where an earlier process was stopped, and moves it there."""
        episodes = self.source.episodes
        lengths = [self._checked(number) for number in range(len(episodes))]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        np.save(self.folder / _STARTS, starts)
        encode = _encoder(self._tokenizer, alone)
        unfinished, done_file = self.folder / f"{name}.part", self.folder / f"{name}.done"
        done = int(done_file.read_text() or 0) if unfinished.exists() and done_file.exists() else 0
        shape = self.about["tokenizer"]["latents"]
        out = np.lib.format.open_memmap(
            unfinished, mode="r+" if done else "w+", dtype=np.float32, shape=(int(starts[-1]), *shape)
        )
        at_once = _rows()
        for first in range(done, len(lengths), at_once):
            numbers = range(first, min(first + at_once, len(lengths)))
            rows = [episodes[number]["frames"] for number in numbers]
            for number, latents in zip(numbers, encode(self._params, rows), strict=True):
                out[starts[number] : starts[number + 1]] = latents
            if numbers.stop // FLUSH_EVERY > first // FLUSH_EVERY:
                out.flush()
                done_file.write_text(str(numbers.stop))
                hosts.say(f"encoding {episodes.label}: {numbers.stop} of {len(lengths)} episodes")
        out.flush()
        del out
        os.replace(unfinished, self.folder / f"{name}.npy")
        done_file.unlink(missing_ok=True)


class _Encoded:
    """Episodes with latents in place of frames."""

    def __init__(self, episodes: Any, arrays: Mapping[str, np.ndarray], starts: np.ndarray) -> None:
        self.label, self._episodes, self._arrays, self._starts = episodes.label, episodes, arrays, starts

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._read(index, "latents")

    def apart(self, index: int) -> dict[str, Any]:
        return self._read(index, "stills")

    def _read(self, index: int, name: str) -> dict[str, Any]:
        rest = {key: value for key, value in self._episodes[index].items() if key != "frames"}
        return {**rest, "latents": self._arrays[name][self._starts[index] : self._starts[index + 1]]}


def _about(source: TfdsData, model: Tokenizer, params: functional.Params) -> dict[str, Any]:
    """All that decides what the latents are, as JSON."""
    known = source.fingerprint()
    data = {key: known[key] for key in ("name", "split", "num_episodes", "checksum")}
    data |= {"frames": known["keys"].get("frames")} | ({"length": source.length} if source.skip_short else {})
    sizes = {"config": _changed(model.config), "latents": [model.config.latents, model.config.channels]}
    sizes["image"] = model.config.image
    about = {"data": data, "tokenizer": sizes | {"parameters": parameters_hash(params)}}
    return json.loads(json.dumps(about))  # tuples as checkpoints will give them back


def _rows() -> int:
    return CPU_ROWS if jax.default_backend() == "cpu" else ROWS


def _changed(config: Any) -> dict[str, Any]:
    """The fields of a config that are not at their defaults, so that new fields change nothing for old latents.

    Those that decide how a transformer is computed, and nothing of the result, are left out.
    """
    out = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out[field.name] = _changed(value)
        elif value != field.default and field.name not in ("remat", "space_frames", "scan"):
            out[field.name] = value
    return out


def _encoder(tokenizer: Callable[[functional.Params], Tokenizer], alone: bool) -> Callable[..., Iterator[np.ndarray]]:
    """(parameters, episodes' frames) → their latents, an array [T, N, Z] each; of every frame alone, or in order."""

    @jax.jit
    def stills(params: functional.Params, frames: jax.Array) -> jax.Array:
        latents, _ = tokenizer(params).encode(to_float(frames).reshape(-1, 1, *frames.shape[2:]))
        return latents.reshape(*frames.shape[:2], *latents.shape[2:])

    @jax.jit
    def whole(params: functional.Params, frames: jax.Array) -> jax.Array:
        return tokenizer(params).encode(to_float(frames))[0]

    @jax.jit
    def part(params: functional.Params, frames: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        return tokenizer(params).encode(to_float(frames), cache=cache)

    def encode(params: functional.Params, episodes: list[np.ndarray]) -> Iterator[np.ndarray]:
        longest = max(map(len, episodes))
        size = min(FRAMES, 1 << (longest - 1).bit_length())  # few shapes, few compilations
        frames = np.zeros((_rows(), -(-longest // size) * size, *episodes[0].shape[1:]), np.uint8)
        for row, episode in zip(frames, episodes, strict=False):
            row[: len(episode)] = episode  # what follows changes nothing before it
        parts = np.split(frames, frames.shape[1] // size, axis=1)
        if alone:
            out = [stills(params, part_) for part_ in parts]
        elif len(parts) == 1:
            out = [whole(params, frames)]
        else:
            cache, out = tokenizer(params).encoder.init_cache(len(frames)), []
            for frames_ in parts:
                latents, cache = part(params, frames_, cache)
                out.append(latents)
        joined = np.concatenate([np.asarray(latents) for latents in out], axis=1)
        return (latents[: len(episode)] for latents, episode in zip(joined, episodes, strict=False))

    return encode
