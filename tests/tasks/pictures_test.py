import io

import numpy as np
import pytest
from fakes import tile
from PIL import Image

from tasks import pictures
from trainer.writers.media import MediaWriter, gif_bytes

GREEN, RED, BLANK = pictures.CONTEXT_COLOR, pictures.IMAGINED_COLOR, pictures.BACKGROUND


def clip(frames=6, size=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("context", [0, 1, 4, 6])
def test_rows_of_a_rollout(context):
    truth, prediction = clip(seed=0), clip(seed=1)
    rows = pictures.rollout_rows(truth, prediction, context)
    assert list(rows) == ["context", "truth", "prediction", "error"]
    for frames in rows.values():
        assert frames.shape == (6, 68, 68, 3)
        for t, frame in enumerate(frames):
            border = np.concatenate([frame[:2].reshape(-1, 3), frame[:, -2:].reshape(-1, 3)])
            assert {tuple(color) for color in border} == {GREEN if t < context else RED}
    inside = {name: frames[:, 2:-2, 2:-2][:, ::16, ::16] for name, frames in rows.items()}
    np.testing.assert_array_equal(inside["truth"], truth)
    np.testing.assert_array_equal(inside["prediction"], prediction)
    np.testing.assert_array_equal(inside["error"], np.abs(prediction.astype(int) - truth.astype(int)))
    np.testing.assert_array_equal(inside["context"][:context], truth[:context])
    assert (inside["context"][context:] == BLANK).all()


def test_floats_bytes_and_grey_become_bytes_in_color():
    np.testing.assert_array_equal(
        pictures.to_uint8(np.array([-0.5, 0, 0.5, 1, 1.5])[:, None, None, None])[:, 0, 0],
        np.array([0, 0, 128, 255, 255])[:, None].repeat(3, 1),
    )
    frames = clip()
    np.testing.assert_array_equal(pictures.to_uint8(frames), frames)
    np.testing.assert_array_equal(pictures.to_uint8(frames / 255), frames)


@pytest.mark.parametrize(("height", "shown"), [(4, 64), (32, 64), (48, 48), (84, 84), (384, 384)])
def test_small_frames_are_enlarged_by_whole_numbers(height, shown):
    frames = np.zeros((2, height, 2 * height, 3), np.uint8)
    assert pictures.enlarge(frames).shape == (2, shown, 2 * shown, 3)


def test_a_comparison_has_a_labelled_row_per_entry():
    first, second = clip(3, seed=0), clip(3, seed=1)
    picture = pictures.comparison({"first": first, "second": second / 255})
    assert picture.shape == (4 + 2 * 68, 84 + 3 * 68, 3)
    for column in range(3):
        np.testing.assert_array_equal(tile(picture, 0, column, 4), first[column])
        np.testing.assert_array_equal(tile(picture, 1, column, 4), second[column])
    assert (picture[:, :84] != BLANK).any()
    unlabelled = pictures.grid([list(pictures.enlarge(first))], [])
    assert (unlabelled[:, :84] == BLANK).all()


@pytest.mark.parametrize(("frames", "context"), [(64, 32), (64, 1), (5, 2), (20, 0)])
def test_a_strip_shows_the_end_of_the_context_and_the_whole_dream(frames, context):
    truth = np.arange(frames, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    prediction = truth + 100
    strip = pictures.rollout_strip(truth, prediction, context)
    assert strip.shape == (16 + 4 + 4 * 72, 84 + 12 * 72, 3)
    # The middle of each tile says which frame it is.
    middle = [16 + 4 + row * 72 + 34 for row in range(4)], [84 + column * 72 + 34 for column in range(12)]
    values = strip[np.ix_(*middle)][..., 0].astype(int)
    times = values[1]
    np.testing.assert_array_equal(values[2], times + 100)
    np.testing.assert_array_equal(values[3], 100)
    np.testing.assert_array_equal(values[0], np.where(times < context, times, BLANK))
    assert (np.diff(times) >= 0).all()
    assert times[-1] == frames - 1
    given = times[times < context]
    assert len(given) == (3 if context else 0)
    assert {context} <= set(times)
    if context:
        assert given[-1] == context - 1


def test_a_video_has_a_column_per_clip_and_a_frame_per_moment():
    truth, prediction = np.stack([clip(5, seed=0), clip(5, seed=1)]), np.stack([clip(5, seed=2), clip(5, seed=3)])
    video = pictures.rollout_video(truth, prediction, 2)
    assert video.shape == (5, 4 + 4 * 72, 84 + 2 * 72, 3)
    for t in range(5):
        for column in range(2):
            shown = tile(video[t], 2, column, 68, enlarged=68)
            assert tuple(shown[0, 0]) == (GREEN if t < 2 else RED)
            np.testing.assert_array_equal(shown[2:-2, 2:-2][::16, ::16], prediction[column, t])


def test_the_gif_of_a_rollout_has_every_frame(tmp_path):
    truth, prediction = clip(9)[None], clip(9, seed=1)[None]
    video = pictures.rollout_video(truth, prediction, 3)
    MediaWriter(tmp_path, fps=10).write_videos(7, {"rollout": video[None]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rollout.gif", "rollout_7.gif"]
    with Image.open(tmp_path / "rollout.gif") as gif:
        assert (gif.n_frames, gif.size) == (9, video.shape[2:0:-1])
        assert gif.info["duration"] == 100


def test_a_gif_that_stands_still_takes_as_long():
    video = np.repeat(clip(1), 8, axis=0)
    video[4:] = 255 - video[4:]
    with Image.open(io.BytesIO(gif_bytes(video[None], 10))) as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
    assert sum(durations) == 800
