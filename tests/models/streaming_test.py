"""Time attention: causal, exact at the edge of its window, relative, and the same through a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Transformer, assert_close, normal, same, transformer_config


@pytest.fixture(scope="module")
def deep():
    """Two time layers, a window of 4 frames."""
    return Transformer(transformer_config(layers=4, kv_heads=1))


@pytest.fixture(scope="module")
def shallow():
    """One time layer, a window of 4 frames."""
    return Transformer(transformer_config())


@pytest.mark.parametrize(
    "chunks",
    [
        [1] * 19,  # frame by frame; the ring of 4 slots wraps four times
        [5, 3, 1, 5, 3, 1, 1],  # odd chunks, shorter and longer than the window
        [19],  # one chunk longer than the window, into an empty cache
    ],
)
def test_a_stream_gives_what_the_whole_clip_gives(deep, chunks):
    x = normal(1, 2, 19, 3, 32)
    assert_close(deep.stream(x, chunks), deep(x))


def test_a_cache_that_is_not_kept_stays_as_it_was(deep):
    # So a denoising pass may look at the past as often as it likes.
    x = normal(2, 2, 19, 3, 32)
    _, cache = deep.run(deep.params, x[:, :18], None, deep.empty_cache(2))
    before = jax.tree.map(np.asarray, cache)
    deep.run(deep.params, x[:, 18:] + 1, None, cache)
    out, _ = deep.run(deep.params, x[:, 18:], None, cache)
    assert all(map(same, jax.tree.leaves(before), jax.tree.leaves(cache)))
    assert_close(out, deep(x)[:, 18:])


def test_a_frame_changes_no_output_before_it(deep):
    x = normal(3, 2, 19, 3, 32)
    out, changed = deep(x), deep(x.at[:, 6].add(1.0))
    assert same(out[:, :6], changed[:, :6])
    # Every token of the frame and, through time attention, of the next one is another.
    assert (np.abs(out - changed)[:, 6:8].max(axis=-1) > 1e-3).all()


def test_the_window_ends_exactly_where_it_should(shallow):
    x, t = normal(4, 1, 9, 3, 32), 7
    out = shallow(x)[:, t]
    assert same(shallow(x.at[:, t - 4].add(1.0))[:, t], out)
    assert np.abs(shallow(x.at[:, t - 3].add(1.0))[:, t] - out).max() > 1e-3


def test_the_window_ends_at_the_same_frame_in_a_stream(shallow):
    x, t = normal(4, 1, 9, 3, 32), 7
    out = shallow.stream(x, [1] * 9)[:, t]
    assert same(shallow.stream(x.at[:, t - 4].add(1.0), [1] * 9)[:, t], out)
    assert np.abs(shallow.stream(x.at[:, t - 3].add(1.0), [1] * 9)[:, t] - out).max() > 1e-3


def test_a_clip_gives_the_same_wherever_it_stands_in_a_stream(deep):
    # Two layers with a window of 4 look 6 frames back: from the second repetition on, every repetition sees the same.
    x = jnp.tile(normal(5, 1, 7, 3, 32), (1, 4, 1, 1))
    for out in (deep(x), deep.stream(x, [1] * 28)):
        repetitions = out.reshape(4, 7, 3, 32)
        assert_close(repetitions[2], repetitions[1])
        assert_close(repetitions[3], repetitions[1])
        assert np.abs(repetitions[0] - repetitions[1]).max() > 1e-3  # a start is another thing


def test_the_order_of_past_frames_matters(shallow):
    x = normal(6, 1, 9, 3, 32)
    assert np.abs(shallow(x)[:, 3] - shallow(x.at[:, :2].set(x[:, 1::-1]))[:, 3]).max() > 1e-3


def test_the_place_of_a_token_matters(shallow):
    # A frame with two tokens swapped gives a token at the third place something else: places enter space attention.
    x = normal(7, 1, 9, 3, 32)
    assert np.abs(shallow(x)[:, 0, 2] - shallow(x[:, :, jnp.array([1, 0, 2])])[:, 0, 2]).max() > 1e-3


def test_independent_rows_are_clips_of_one_frame(deep):
    x = normal(8, 2, 5, 3, 32)
    out = deep(x, jnp.array([True, False]))
    alone = deep(x.reshape(10, 1, 3, 32)).reshape(2, 5, 3, 32)
    assert_close(out[0], alone[0])
    assert_close(out[1], deep(x)[1])
    assert np.abs(out[1] - alone[1]).max() > 1e-3


def test_independent_rows_see_no_other_frame(deep):
    x, independent = normal(9, 2, 5, 3, 32), jnp.array([True, False])
    out, changed = deep(x, independent), deep(x.at[:, 1].add(1.0), independent)
    assert same(out[0, 2:], changed[0, 2:])
    assert not same(out[1, 2:], changed[1, 2:])


def test_bfloat16_is_near_float32(shallow):
    x = normal(10, 1, 9, 3, 32)
    half = Transformer(transformer_config())
    half.params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), half.params)
    for out in (half(x.astype(jnp.bfloat16)), half.stream(x.astype(jnp.bfloat16), [1] * 9)):
        assert out.dtype == jnp.bfloat16
        assert np.sqrt(np.mean((out.astype(jnp.float32) - shallow(x)) ** 2)) < 0.03  # outputs have a size of about 1
