"""`resize`: one frame to another size."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def resize(frame: UInt8[np.ndarray, "..."], size: int | None) -> UInt8[np.ndarray, "..."]:
    """The frame [H, W] or [H, W, C] as size × size pixels, each the mean of those it covers; as it is where None.

    Raises:
      ValueError: it has neither 1, 3 nor 4 channels.
    """
    if size is None or frame.shape[:2] == (size, size):
        return frame
    if frame.ndim == 3 and frame.shape[-1] not in (1, 3, 4):
        raise ValueError(f"a frame of {frame.shape[-1]} channels cannot be resized: 1, 3 or 4 are expected")
    flat = frame[..., 0] if frame.ndim == 3 and frame.shape[-1] == 1 else frame
    small = np.asarray(Image.fromarray(np.ascontiguousarray(flat)).resize((size, size), Image.Resampling.BOX))
    return small.reshape(size, size, *frame.shape[2:])
