"""Pictures of frames for evaluators: enlarged, framed, labelled, tiled; numpy and pillow only."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

CONTEXT_COLOR = (46, 160, 67)
IMAGINED_COLOR = (218, 54, 51)
BACKGROUND = 245


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as bytes, clipped; bytes as they are; grey as RGB."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8:
        frames = np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8)
    return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames[..., :3]


def enlarge(frames: np.ndarray, height: int = 64) -> np.ndarray:
    """Whole-number enlargement of [..., H, W, 3] to about `height` pixels."""
    factor = max(1, round(height / frames.shape[-3]))
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def frame_color(frames: np.ndarray, color: tuple[int, int, int], width: int = 2) -> np.ndarray:
    """Draws a border around [..., H, W, 3], outside the picture."""
    padding = [(0, 0)] * (frames.ndim - 3) + [(width, width), (width, width), (0, 0)]
    out = np.pad(frames, padding)
    out[..., :width, :, :] = out[..., -width:, :, :] = color
    out[..., :, :width, :] = out[..., :, -width:, :] = color
    return out


def grid(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], gap: int = 4, margin: int = 84) -> np.ndarray:
    """Tiles pictures of one size into labelled rows; uint8 [H, W, 3]."""
    height, width, _ = rows[0][0].shape
    columns = max(map(len, rows))
    canvas = np.full((len(rows) * (height + gap) + gap, margin + columns * (width + gap), 3), BACKGROUND, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = gap + r * (height + gap), margin + c * (width + gap)
            canvas[y : y + height, x : x + width] = picture
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for r, label in enumerate(labels):
        draw.text((6, gap + r * (height + gap) + height // 2 - 6), label, fill=(30, 30, 30))
    return np.asarray(image)


def comparison(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """One labelled row per entry, frames [N, H, W, C] side by side."""
    pictures = [list(enlarge(to_uint8(frames))) for frames in rows.values()]
    return grid(pictures, list(rows))


def rollout_rows(truth: np.ndarray, prediction: np.ndarray, context: int) -> dict[str, np.ndarray]:
    """The rows of a rollout picture, [T, h, w, 3] each: context, truth, prediction, error.

    A green border means given, a red one imagined; errors are |prediction - truth|, and what was not given is blank.
    """
    truth, prediction = to_uint8(truth), to_uint8(prediction)
    error = np.abs(prediction.astype(np.int16) - truth).astype(np.uint8)
    given = truth.copy()
    given[context:] = BACKGROUND
    rows = {"context": given, "truth": truth, "prediction": prediction, "error": error}
    imagined = np.arange(len(truth)) >= context

    def mark(frames: np.ndarray) -> np.ndarray:
        frames = enlarge(frames)
        green, red = frame_color(frames, CONTEXT_COLOR), frame_color(frames, IMAGINED_COLOR)
        return np.where(imagined[:, None, None, None], red, green)

    return {name: mark(frames) for name, frames in rows.items()}


def rollout_strip(truth: np.ndarray, prediction: np.ndarray, context: int, columns: int = 12) -> np.ndarray:
    """A rollout as one picture, time to the right: the last third of the context columns, then the dream."""
    before = max(1, columns // 4) if context else 0
    times = np.r_[
        np.linspace(max(0, context - 4 * before), context - 1, before).round().astype(int)[:before],
        np.linspace(context, len(truth) - 1, columns - before).round().astype(int),
    ]
    rows = rollout_rows(truth, prediction, context)
    picture = grid([list(frames[times]) for frames in rows.values()], list(rows))
    return with_times(picture, times)


def with_times(picture: np.ndarray, times: Sequence[int] | np.ndarray, margin: int = 84) -> np.ndarray:
    """A line above a grid that says which frame each column is."""
    header = Image.new("RGB", (picture.shape[1], 16), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(header)
    step = (picture.shape[1] - margin) / len(times)
    for column, t in enumerate(times):
        draw.text((margin + column * step + 4, 2), f"t={t}", fill=(30, 30, 30))
    return np.concatenate([np.asarray(header), picture])


def rollout_video(truth: np.ndarray, prediction: np.ndarray, context: int) -> np.ndarray:
    """Rollouts of several clips [B, T, H, W, C] as one video [T, h, w, 3], a column a clip."""
    clips = [rollout_rows(t, p, context) for t, p in zip(truth, prediction, strict=True)]
    labels = list(clips[0])
    return np.stack(
        [grid([[clip[label][t] for clip in clips] for label in labels], labels) for t in range(truth.shape[1])]
    )


def episodes_video(frames: Mapping[str, np.ndarray]) -> np.ndarray:
    """Episodes [B, T, H, W, C] under several policies as one video [T, h, w, 3]: a row per policy."""
    big = {name: enlarge(to_uint8(clips)) for name, clips in frames.items()}
    length = min(clips.shape[1] for clips in big.values())
    return np.stack([grid([list(clips[:, t]) for clips in big.values()], list(big)) for t in range(length)])


def episodes_strip(frames: Mapping[str, np.ndarray], columns: int = 12) -> np.ndarray:
    """The first of those episodes as one picture, time to the right."""
    first = {name: enlarge(to_uint8(clips[0])) for name, clips in frames.items()}
    length = min(len(clip) for clip in first.values())
    times = np.linspace(0, length - 1, min(columns, length)).round().astype(int)
    return with_times(grid([list(clip[times]) for clip in first.values()], list(first)), times)
