import jax.numpy as jnp
import numpy as np
import pytest

from models.metrics import psnr


def test_psnr_is_in_decibels_of_frames_in_zero_to_one():
    assert np.asarray(psnr(jnp.array([1.0, 0.01, 0.0005]))) == pytest.approx([0.0, 20.0, 33.0103], abs=1e-4)


def test_psnr_of_a_perfect_match_is_infinite():
    assert psnr(jnp.float32(0.0)) == np.inf
