"""`Writer`: where scalars, pictures and texts go, with clu's method names."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.errors import add_place

# What is reported where no writer takes it; the run's config is in its folder and in its checkpoints anyway.
_KINDS = {"write_scalars": "scalars", "write_images": "images", "write_videos": "videos", "write_texts": "texts"}


class Writer:
    """A place that results are written to (group `trainer.writers`); a writer defines the methods for what it takes.

    Any `clu.metric_writers.MetricWriter` can stand in its place.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers; they may be NaN or infinite."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes uint8 images [N, H, W, 3]."""

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray]) -> None:
        """Writes uint8 videos [N, T, H, W, 3]."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes Markdown."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the run's config."""

    def resume(self, step: int) -> None:
        """Forgets what was written after `step`; called once before the first write, with 0 for a new run."""

    def flush(self) -> None:
        """Brings everything to the disk."""

    def close(self) -> None:
        """Flushes and frees everything."""


class MultiWriter(Writer):
    """Writes to several writers; an exception gets a note with the writer's name.

    A scalar, picture, video or text that no writer takes is reported once.

    Args:
      writers: in the order in which they are called.
      clock: gives the `time` that is added to every line of scalars, in seconds.
    """

    def __init__(self, writers: Sequence[Any], clock: Callable[[], float] | None = None) -> None:
        self._writers = list(writers)
        self._clock = clock
        self._reported: set[str] = set()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers to all.

        Raises:
          ValueError: a name stands for something else in every line.
        """
        if taken := {"step", "time"} & scalars.keys():
            raise ValueError(f"no scalar may be called {' or '.join(sorted(taken))}: every line has its own")
        time = {"time": self._clock()} if self._clock else {}
        self._call("write_scalars", step, {**time, **{name: float(value) for name, value in scalars.items()}})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images to all."""
        self._call("write_images", step, images)

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray]) -> None:
        """Writes videos to all."""
        self._call("write_videos", step, videos)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts to all."""
        self._call("write_texts", step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the config to all."""
        self._call("write_hparams", hparams)

    def resume(self, step: int) -> None:
        """Cuts all back."""
        self._call("resume", step)

    def flush(self) -> None:
        """Flushes all."""
        self._call("flush")

    def close(self) -> None:
        """Closes all, also when one of them fails."""
        errors = []
        for writer in self._writers:
            try:
                writer.close()
            except Exception as error:
                add_place(error, f"{type(writer).__name__}.close")
                errors.append(error)
        if errors:
            raise errors[0]

    def _call(self, method: str, *args: Any) -> None:
        if method in _KINDS and not args[-1]:
            return
        taken = [w for w in self._writers if _takes(w, method)]
        for writer in taken:
            try:
                getattr(writer, method)(*args)
            except Exception as error:
                add_place(error, f"{type(writer).__name__}.{method}")
                raise
        if method in _KINDS and self._writers and not taken and method not in self._reported:
            self._reported.add(method)
            names = ", ".join(type(w).__name__ for w in self._writers)
            logging.getLogger(__name__).warning(
                "%s (%s …) are not written: none of %s takes them.", _KINDS[method], next(iter(args[-1])), names
            )


def keeps_record(writer: Any) -> bool:
    """Whether a writer holds one record of the whole run, to which a step must be added only once."""
    return _takes(writer, "resume")


def _takes(writer: Any, method: str) -> bool:
    found = getattr(type(writer), method, None)
    return found is not None and found is not getattr(Writer, method)


def utf8(text: str) -> str:
    """The text as it can be written in UTF-8: halves of surrogate pairs, as in odd file names, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_uint8(array: np.ndarray, rank: int) -> np.ndarray:
    """Checks a picture or video: uint8 with three channels and `rank` axes, a leading one added where it is missing.

    Raises:
      ValueError: it is something else.
    """
    array = np.asarray(array)
    if array.ndim == rank - 1:
        array = array[None]
    if array.ndim != rank or array.shape[-1] != 3 or array.dtype != np.uint8:
        axes = "[N, H, W, 3]" if rank == 4 else "[N, T, H, W, 3]"
        raise ValueError(f"expected uint8 {axes}, got {array.dtype} {list(array.shape)}")
    return array
