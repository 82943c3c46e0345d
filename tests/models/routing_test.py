"""Space attention: who sees whom within a frame."""

import numpy as np
import pytest
from tiny import Transformer, assert_close, normal, same, transformer_config

from models.tokens import Layout, grid, grid_shape, packed_grid_shape

SIZES = {"action": 1, "image": 4, "note": 2, "agent": 1}
SEES = {
    "action": ("action",),
    "image": ("action", "image"),
    "note": ("image", "note"),
    "agent": ("action", "image", "note", "agent"),
}
LAYOUT = Layout(SIZES, SEES, {"image": (2, 2)})


@pytest.fixture(scope="module")
def routed():
    """Space layers before and after time layers: what a token has seen, it passes on."""
    return Transformer(transformer_config(layers=5, kv_heads=1), layout=LAYOUT)


def reached(seen_by, start):
    """The modalities that `start` reaches through any number of layers."""
    found = {start}
    while True:
        more = found | {own for own, others in seen_by.items() if found & set(others)}
        if more == found:
            return found
        found = more


@pytest.mark.parametrize("modality", SIZES)
@pytest.mark.parametrize("chunks", [None, [3, 1, 1]])
def test_a_modality_reaches_those_that_see_it_and_no_others(routed, modality, chunks):
    def run(x):
        return np.asarray(routed(x) if chunks is None else routed.stream(x, chunks))

    x = normal(1, 1, 5, 8, 32)
    out, changed = run(x), run(x.at[:, :, LAYOUT.slice(modality)].add(1.0))
    for other in SIZES:
        a, b = out[:, :, LAYOUT.slice(other)], changed[:, :, LAYOUT.slice(other)]
        if other in reached(SEES, modality):
            assert (np.abs(a - b).max(axis=-1) > 1e-4).all(), f"{other} should see {modality}"
        else:
            assert same(a, b), f"{other} should not see {modality}"


def test_nobody_sees_the_agent_whatever_it_holds(routed):
    x = normal(2, 1, 5, 8, 32)
    others = slice(0, 7)
    assert LAYOUT.slice("agent") == slice(7, 8)
    for value in (0.0, 1e4, -1e4):
        assert same(routed(x.at[:, :, 7].set(value))[:, :, others], routed(x)[:, :, others])


def test_a_layout_that_lets_all_see_all_is_no_routing():
    everybody = Layout(SIZES, dict.fromkeys(SIZES, tuple(SIZES)))
    nowhere = np.zeros((8, 2))
    assert everybody.routing().all()
    assert same(everybody.coordinates(), nowhere)


def test_layout_places_modalities_in_order():
    assert [LAYOUT.slice(name) for name in SIZES] == [slice(0, 1), slice(1, 5), slice(5, 7), slice(7, 8)]
    routing = LAYOUT.routing()
    assert routing[0].tolist() == [True] + [False] * 7
    assert routing[5].tolist() == [False] + [True] * 6 + [False]
    assert_close(LAYOUT.coordinates()[1:5], [[-2, -2], [-2, 2], [2, -2], [2, 2]])
    assert_close(LAYOUT.coordinates()[[0, 5, 6, 7]], np.zeros((4, 2)))


def test_grids_of_any_fineness_span_the_same_image():
    # A cell of a coarse grid lies in the middle of the fine cells that it covers.
    fine, coarse = grid(4, 6).reshape(2, 2, 3, 2, 2), grid(2, 3).reshape(2, 3, 2)
    assert_close(fine.mean(axis=(1, 3)), coarse)


@pytest.mark.parametrize(("tokens", "shape"), [(1, (1, 1)), (4, (2, 2)), (8, (4, 2)), (7, (7, 1)), (12, (4, 3))])
def test_tokens_lie_on_the_most_nearly_square_grid(tokens, shape):
    assert grid_shape(tokens) == shape


@pytest.mark.parametrize(("tokens", "packing"), [(16, 2), (16, 4), (8, 2), (32, 4), (512, 2), (8, 1)])
def test_a_packed_token_lies_amid_the_tokens_that_it_joins(tokens, packing):
    places = grid(*grid_shape(tokens)).reshape(tokens // packing, packing, 2)
    assert_close(grid(*packed_grid_shape(tokens, packing)), places.mean(axis=1), 1e-6)


def test_tokens_that_do_not_pack_along_rows_still_have_a_grid():
    assert packed_grid_shape(12, 2) == (6, 1)
