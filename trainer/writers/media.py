"""Pictures and videos as files that open with a double click."""

import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.writers.base import Writer, as_uint8, utf8


class MediaWriter(Writer):
    """Writes `<name>_<step>.png` or `.gif`, and `<name>.png` or `.gif` with the newest one.

    Args:
      folder: `media/` of the run folder.
      fps: frames per second of videos.
    """

    def __init__(self, folder: Path, fps: float = 8.0) -> None:
        self._folder = Path(folder)
        self._fps = rate(fps)
        self._names: dict[str, str] = {}

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes PNG files; N images are put one under the other."""
        for name, image in images.items():
            self._write(name, step, ".png", png_bytes(image))

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray]) -> None:
        """Writes animated GIF files; N videos are put one under the other."""
        for name, video in videos.items():
            self._write(name, step, ".gif", gif_bytes(video, self._fps))

    def _write(self, name: str, step: int, suffix: str, data: bytes) -> None:
        stem = file_name(name)
        if self._names.setdefault(stem, name) != name:  # another name has become the same file name
            stem += "-" + _digest(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in (self._folder / f"{stem}_{step}{suffix}", self._folder / f"{stem}{suffix}"):
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(data)
            os.replace(temporary, path)  # a report that is open never sees half a file


def file_name(name: str) -> str:
    """A file name for `name` that stays in its folder: `rollout/video` → `rollout_video`."""
    safe = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_"
    return safe if len(safe.encode()) <= 100 else safe.encode()[:90].decode(errors="ignore") + "-" + _digest(name)


def rate(fps: float) -> float:
    """Frames per second; raises ValueError where a video cannot be shown so."""
    if not fps > 0:
        raise ValueError(f"fps = {fps} must be above 0")
    return fps


def png_bytes(image: np.ndarray) -> bytes:
    """An image [N, H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(as_uint8(image, 4), axis=0)).save(buffer, "PNG")
    return buffer.getvalue()


def gif_bytes(video: np.ndarray, fps: float) -> bytes:
    """A video [N, T, H, W, 3] as an endless animated GIF."""
    frames = [Image.fromarray(frame) for frame in np.concatenate(as_uint8(video, 5), axis=1)]
    if not frames:
        raise ValueError("a video needs at least one frame")
    buffer = io.BytesIO()
    # GIF counts in hundredths of a second; readers show anything below two of them slowly.
    duration = max(20, round(100 / fps) * 10)
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return buffer.getvalue()


def _digest(name: str) -> str:
    return hashlib.sha256(utf8(name).encode()).hexdigest()[:8]
