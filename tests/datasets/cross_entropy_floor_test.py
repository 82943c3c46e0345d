import numpy as np
import pytest

from datasets.bouncing_square import rules
from datasets.bouncing_square.cross_entropy_floor import cross_entropy_floor


def test_the_floors_are_those_computed_independently():
    floor = cross_entropy_floor(rules.REFERENCE, 64, 8)
    np.testing.assert_allclose(floor[[0, 1, 7]], [0.4407, 0.5702, 1.0225], atol=1e-4)


def test_the_first_actions_worked_by_hand():
    # Two frames: only the first action, one of three, or of five. Three: the second is the first again, for certain.
    assert cross_entropy_floor(rules.REFERENCE, 2, 1)[0] == pytest.approx(np.log(3))
    assert cross_entropy_floor(rules.CLEAN, 2, 1)[0] == pytest.approx(np.log(5))
    assert cross_entropy_floor(rules.REFERENCE, 3, 1)[0] == pytest.approx(np.log(3) / 2)
    # Pairs (0, 1), (1, 1) and (0, 2): the last is as uncertain as the first.
    assert cross_entropy_floor(rules.REFERENCE, 3, 2)[1] == pytest.approx(np.log(3) * 2 / 3)
