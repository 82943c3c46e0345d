"""The parts of attention, and the settings of a transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Transformer, assert_close, normal, transformer_config

from models.attention import attend, rope


@pytest.mark.parametrize("axes", [1, 2])
def test_rope_depends_on_differences_of_positions_only(axes):
    q, k = normal(1, 5, 16), normal(2, 5, 16)
    places = 3 * normal(3, 5, axes)

    def logits(shift):
        return jnp.einsum("qk,lk->ql", rope(q, places + shift, 100.0), rope(k, places + shift, 100.0))

    assert_close(logits(0.0), logits(7.0), 1e-4)
    assert_close(logits(0.0), logits(-jnp.arange(1.0, axes + 1.0)), 1e-4)
    plain = jnp.einsum("qk,lk->ql", q, k)
    assert_close(jnp.diag(logits(0.0)), jnp.diag(plain), 1e-4)
    assert np.abs(logits(0.0) - plain).max() > 0.1


def test_rope_tells_the_axes_of_the_plane_apart():
    q, k = normal(1, 1, 16), normal(2, 1, 16)
    origin = jnp.zeros((1, 2))

    def logit(place):
        return float(jnp.vdot(rope(q, origin, 100.0), rope(k, jnp.array([place]), 100.0)))

    values = [logit(place) for place in ((0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (2.0, 2.0), (-2.0, 0.0))]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 1e-2


def test_attention_is_a_softmax_over_what_the_mask_allows():
    q, k, v = normal(1, 1, 4, 8), normal(2, 1, 5, 8), normal(3, 1, 5, 8)
    mask = np.tril(np.ones((4, 5), bool))
    scores = np.where(mask, np.asarray(q)[0] @ np.asarray(k)[0].T / np.sqrt(8), -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    wanted = weights @ np.asarray(v)[0]
    assert_close(attend(q, [k], [v], jnp.asarray(mask), None)[0], wanted)
    # In parts, the same.
    assert_close(attend(q, [k[:, :2], k[:, 2:]], [v[:, :2], v[:, 2:]], jnp.asarray(mask), None)[0], wanted)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("masked", [True, False])
def test_the_gradient_of_attention_is_that_of_its_formula(soft_cap, masked):
    q, k, v, out = normal(1, 2, 4, 3, 8), normal(2, 2, 2, 5, 8), normal(3, 2, 2, 5, 8), normal(4, 2, 4, 3, 8)
    mask = jnp.asarray(np.tril(np.ones((3, 5), bool), 1)) if masked else jnp.ones((3, 5), bool)

    def formula(q, k, v):
        k, v = jnp.repeat(k, 2, axis=1), jnp.repeat(v, 2, axis=1)
        logits = jnp.einsum("bhqk,bhlk->bhql", q, k) / np.sqrt(8)
        logits = logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)
        return jnp.einsum("bhql,bhlk->bhqk", jax.nn.softmax(jnp.where(mask, logits, -jnp.inf)), v)

    def parts(q, k, v):
        given = mask if masked else None
        return attend(q, [k[:, :, :2], k[:, :, 2:]], [v[:, :, :2], v[:, :, 2:]], given, soft_cap)

    wanted, actual = (jax.vjp(f, q, k, v) for f in (formula, parts))
    assert_close(actual[0], wanted[0])
    for a, w in zip(actual[1](out), wanted[1](out), strict=True):
        assert_close(a, w)


def test_the_soft_cap_bounds_the_logits():
    q = jnp.full((1, 1, 4), 1e3)
    k = jnp.stack([jnp.full(4, 1e3), jnp.full(4, -1e3)])[None]
    v = jnp.eye(2)[None]
    weight = 1 / (1 + np.exp(-2 * 3.0))
    assert_close(attend(q, [k], [v], None, 3.0)[0, 0], [weight, 1 - weight])
    assert_close(attend(q, [k], [v], None, None)[0, 0], [1.0, 0.0])
    # Far below its bound it changes nothing.
    assert_close(attend(q / 1e5, [k / 1e3], [v], None, 50.0), attend(q / 1e5, [k / 1e3], [v], None, None), 1e-6)


def test_grouped_queries_are_full_heads_with_repeated_keys_and_values():
    config, full = transformer_config(heads=4, kv_heads=2), transformer_config(heads=4)
    grouped, repeated = Transformer(config), Transformer(full)
    x = normal(1, 1, 5, 3, 32)
    repeated.params = jax.tree.map(lambda p: p, grouped.params)
    for block in repeated.params["blocks"].values():
        for name in ("k", "v"):
            heads = block["attention"][name]["kernel"].reshape(32, 2, 8)
            block["attention"][name]["kernel"] = jnp.repeat(heads, 2, axis=1).reshape(32, 32)
    assert_close(repeated(x), grouped(x))


def test_keys_and_queries_are_normalised():
    # Logits, and with them the outputs, do not grow with the size of the projections.
    model = Transformer(transformer_config())
    x = normal(1, 1, 5, 3, 32)
    out = model(x)
    for block in model.params["blocks"].values():
        for name in ("q", "k"):
            block["attention"][name]["kernel"] = block["attention"][name]["kernel"] * 100.0
    assert_close(model(x), out, 1e-3)


def test_without_qk_norm_larger_keys_are_larger_logits():
    model, x = Transformer(transformer_config(qk_norm=False, soft_cap=None)), normal(1, 1, 5, 3, 32)
    out = model(x)
    for block in model.params["blocks"].values():
        assert set(block["attention"]) == {"q", "k", "v", "out"}
        block["attention"]["k"]["kernel"] = block["attention"]["k"]["kernel"] * 0.0
    even = model(x)  # all logits are 0: everything that may be seen counts the same
    for block in model.params["blocks"].values():
        block["attention"]["q"]["kernel"] = block["attention"]["q"]["kernel"] * 100.0
    assert_close(model(x), even)
    assert np.abs(np.asarray(out - even)).max() > 1e-2


def test_outputs_are_normalised_however_large_the_inputs():
    model = Transformer(transformer_config())
    scale = model.params["norm"]["scale"]
    x = normal(1, 1, 2, 3, 32)
    for size in (1.0, 1e3):
        assert_close(jnp.mean((model(size * x) / scale) ** 2, axis=-1), jnp.ones((1, 2, 3)), 1e-3)


@pytest.mark.parametrize(("layers", "every", "time"), [(8, 4, [2, 6]), (4, 2, [1, 3]), (3, 3, [1]), (2, 1, [0, 1])])
def test_time_layers_stand_amid_space_layers(layers, every, time):
    config = transformer_config(layers=layers, time_every=every)
    assert [layer for layer in range(layers) if config.is_time(layer)] == time


def test_the_time_layers_place_among_them_can_be_set():
    config = transformer_config(layers=6, time_every=3, time_offset=0)
    assert [layer for layer in range(6) if config.is_time(layer)] == [0, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "width=32, heads=3"),
        ({"heads": 4, "kv_heads": 3}, "heads=4, kv_heads=3"),
        ({"heads": 16}, "multiple of 4 for RoPE, got 32 / 16"),
        ({"window": 0}, "window=0"),
        ({"time_every": 0}, "time_every=0"),
        ({"layers": 2, "time_every": 4}, "no layer would attend over time"),
        ({"layers": 0}, "layers=0"),
        ({"time_every": 2, "time_offset": 2}, r"time_offset must be from 0 to time_every - 1 = 1, got 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        transformer_config(**changes)
