"""TensorBoard events without TensorFlow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from trainer.writers.base import Writer, as_uint8, utf8
from trainer.writers.media import gif_bytes, png_bytes, rate


class TensorBoardWriter(Writer):
    """Writes event files; videos appear as animated pictures.

    Args:
      folder: where the event files go; TensorBoard shows everything below the folder that it is given.
      fps: frames per second of videos.
    """

    def __init__(self, folder: Path, fps: float = 8.0) -> None:
        self._folder = Path(folder)
        self._fps = rate(fps)
        self._purge_step: int | None = None
        self._opened: SummaryWriter | None = None

    @property
    def _writer(self) -> SummaryWriter:
        if self._opened is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._opened = SummaryWriter(str(self._folder), purge_step=self._purge_step)
        return self._opened

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars, as one event: each event wakes the thread that writes the file."""
        self._add([Summary.Value(tag=utf8(name), simple_value=float(value)) for name, value in scalars.items()], step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures; N images are put one under the other."""
        for name, image in images.items():
            n, height, width, _ = as_uint8(image, 4).shape
            self._add_picture(name, step, n * height, width, png_bytes(image))

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray]) -> None:
        """Writes animated GIFs; N videos are put one under the other."""
        for name, video in videos.items():
            n, _, height, width, _ = as_uint8(video, 5).shape
            self._add_picture(name, step, n * height, width, gif_bytes(video, self._fps))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes Markdown."""
        for name, text in texts.items():
            self._writer.add_text(utf8(name), utf8(text), step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the config as text."""
        self._writer.add_text("config", f"```json\n{json.dumps(hparams, indent=2)}\n```", 0)

    def resume(self, step: int) -> None:
        """Tells TensorBoard to forget what earlier event files say after `step`."""
        self.close()
        events = self._folder.glob("*tfevents*") if self._folder.exists() else iter(())
        self._purge_step = step + 1 if any(events) else None

    def flush(self) -> None:
        """Flushes the event file."""
        if self._opened is not None:
            self._opened.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _add_picture(self, name: str, step: int, height: int, width: int, encoded: bytes) -> None:
        # tensorboardX would encode the array itself, and videos only with moviepy and ffmpeg.
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
        self._add([Summary.Value(tag=utf8(name), image=image)], step)

    def _add(self, values: list[Summary.Value], step: int) -> None:
        self._writer.file_writer.add_summary(Summary(value=values), step)
