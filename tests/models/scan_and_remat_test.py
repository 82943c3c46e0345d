"""Settings that save memory or compilation change no result, nor does leaving out tokens that nobody reads."""

import functools

import jax
import jax.numpy as jnp
import pytest
from tiny import Transformer, assert_close, normal, same, transformer_config

from models.functional import bind

SHAPES = [
    {"layers": 6, "time_every": 2},
    {"layers": 7, "time_every": 3},
    {"layers": 4, "time_every": 1},
    {"layers": 6, "time_every": 3, "time_offset": 0},
]


def everything(config, params, x):
    """Outputs at once and as a stream, and the gradient."""
    model = Transformer(config)
    model.params = params
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(jnp.sin(bind(model.make, params)(x)[0]))))(params)
    return model(x), model.stream(x, [3, 1, 5]), gradient


@functools.cache
def plainly(index):
    """Parameters and input of a shape, and everything without any setting."""
    config, x = transformer_config(**SHAPES[index]), normal(1, 2, 9, 3, 32)
    params = Transformer(config).params
    return params, x, everything(config, params, x)


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=lambda index: str(SHAPES[index]))
@pytest.mark.parametrize("setting", [{"remat": True}, {"scan": True}, {"scan": True, "remat": True, "space_frames": 3}])
def test_remat_scan_and_parts_change_no_result(shape, setting):
    params, x, wanted = plainly(shape)
    actual = everything(transformer_config(**SHAPES[shape], **setting), params, x)
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert_close(a, w)


def test_a_scanned_model_is_as_large_a_program_whatever_its_depth():
    def lines(layers, **settings):
        model = Transformer(transformer_config(layers=layers, **settings))
        traced = jax.make_jaxpr(lambda x: bind(model.make, model.params)(x)[0])(normal(1, 1, 4, 3, 32))
        return len(str(traced).splitlines())

    assert lines(12) > 1.7 * lines(6)
    assert lines(12, scan=True) < 1.2 * lines(6, scan=True)


def test_remat_computes_the_forward_pass_again_in_the_gradient():
    def tanhs(**settings):
        model = Transformer(transformer_config(**settings))
        loss = lambda params, x: jnp.sum(bind(model.make, params)(x)[0])  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(model.params, normal(1, 1, 4, 3, 32))).count(" tanh ")

    assert tanhs(remat=True) == 2 * tanhs() > 0


@pytest.mark.parametrize(("layers", "every"), [(3, 2), (2, 2)], ids=["space-last", "time-last"])
def test_the_tokens_that_are_wanted_come_out_as_if_all_were(layers, every):
    model, x = Transformer(transformer_config(layers=layers, time_every=every)), normal(1, 2, 5, 3, 32)
    cache = model.empty_cache(2)
    whole, written = bind(model.make, model.params)(x, cache=cache)
    part, same_written = bind(model.make, model.params)(x, cache=cache, wanted=slice(1, 3))
    assert_close(part, whole[:, :, 1:3])
    assert all(map(same, jax.tree.leaves(written), jax.tree.leaves(same_written)))
