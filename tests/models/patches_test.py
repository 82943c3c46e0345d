"""Patches of frames, and the masks that hide them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import same

from models.tokenizer import from_patches, random_patch_mask, to_float, to_patches


@pytest.mark.parametrize("image", [(8, 12, 3), (4, 4, 1), (8, 4, 2)])
def test_frames_come_back_from_their_patches(image):
    frames = np.random.default_rng(0).random((2, 3, *image), np.float32)
    assert same(from_patches(to_patches(frames, 4), image), frames)


def test_patches_are_squares_row_by_row():
    frames = np.arange(8 * 12 * 2).reshape(8, 12, 2)
    patches = to_patches(frames, 4)
    assert patches.shape == (6, 32)
    assert same(patches[4].reshape(4, 4, 2), frames[4:8, 4:8])


def test_pixels_span_zero_to_one():
    assert to_float(np.array([0, 51, 255], np.uint8)).tolist() == [0.0, pytest.approx(0.2), 1.0]


def test_the_hidden_share_of_a_frame_is_uniform():
    mask = random_patch_mask(jax.random.key(0), (32, 64, 256), 0.9)
    share = np.sort(np.asarray(mask).mean(axis=-1).ravel())
    # Quantiles of U(0, 0.9); 2048 frames of 256 patches place them to about 0.03.
    assert np.abs(share - 0.9 * (np.arange(2048) + 0.5) / 2048).max() < 0.05
    # Every frame has its own probability, every patch its own draw.
    assert np.asarray(mask).mean(axis=-1).std(axis=1).min() > 0.2
    assert np.abs(np.asarray(mask).mean(axis=(0, 1)) - 0.45).max() < 0.05


@pytest.mark.parametrize("masked_share", [0.0, 0.5, 1.0])
def test_some_frames_stay_whole(masked_share):
    mask = np.asarray(random_patch_mask(jax.random.key(1), (32, 64, 64), 0.9, masked_share))
    assert abs(mask.mean() - 0.45 * masked_share) < 0.02
    touched = mask.any(axis=-1).mean()
    assert touched == 0 if masked_share == 0 else abs(touched - masked_share) < 0.05


def test_nothing_is_hidden_where_the_probability_is_zero():
    assert not jnp.any(random_patch_mask(jax.random.key(2), (4, 4, 64), 0.0))
