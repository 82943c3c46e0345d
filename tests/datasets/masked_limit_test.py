"""The limit of a masked reconstruction, against cases that can be worked out by hand."""

import numpy as np
import pytest

from datasets.bouncing_square import masked_limit as limits
from datasets.bouncing_square import rules
from datasets.bouncing_square.masked_limit import masked_limit

SIZE = rules.FRAME_SIZE


def test_whole_frames_are_hidden_or_not():
    errors, hidden = masked_limit(rules.REFERENCE, patch=SIZE, length=6, episodes=400)
    assert 0.3 < hidden.sum() / (400 * 6 * SIZE**2) < 0.6  # p is 0.45 in the mean
    variance = (256**2 - 1) / 12 / 255**2  # of a colour that nobody has seen
    assert errors[0] / hidden[0] == pytest.approx(variance, rel=0.1)
    assert errors[1] > 0  # the first action is not known
    assert not errors[2:5].any()  # it is held for at least four steps
    assert errors[5] > 0


def test_what_can_be_seen_whole_leaves_no_doubt():
    square = np.zeros((SIZE, SIZE), bool)
    square[9:16, 10:17] = True
    visible = np.ones((SIZE, SIZE), bool)
    visible[24:, 24:] = False
    red, blue = np.array([255.0, 0, 0]), np.array([0, 0, 255.0])
    guess = limits._guess_colors(limits._all_squares(), square, visible, red, blue)
    np.testing.assert_allclose(guess, np.where(square[..., None], blue, red))


def test_a_hidden_side_is_the_mean_of_all_that_fit():
    square = np.zeros((SIZE, SIZE), bool)
    square[6:16, 6:16] = True
    visible = np.zeros((SIZE, SIZE), bool)
    visible[:8, :8] = True  # the upper left corner; the side may be anything from 6 to 14
    guess = limits._guess_colors(limits._all_squares(), square, visible, np.zeros(3), np.full(3, 90.0))
    np.testing.assert_allclose(guess[11, 6:8], 90)  # the sixth row: every side has it
    np.testing.assert_allclose(guess[13, 13], 70)  # seven of nine do
    np.testing.assert_allclose(guess[19, 19], 10)
    np.testing.assert_allclose(guess[20, 20], 0)


def test_more_is_known_of_smaller_patches():
    def decibels(patch):
        errors, hidden = masked_limit(rules.REFERENCE, patch=patch, length=8, episodes=200)
        return -10 * np.log10(errors.sum() / hidden.sum())

    assert decibels(4) > decibels(8) + 2


def test_other_first_frames_are_refused():
    with pytest.raises(ValueError, match="reference"):
        masked_limit(rules.CLEAN, patch=8, length=2)
