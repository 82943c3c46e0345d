"""Settings that save memory or compilation change no result, nor does leaving out tokens that nobody reads."""

import jax
import jax.numpy as jnp
import pytest
from tiny import Transformer, assert_close, normal, same, transformer_config

from models.functional import bind

SHAPES = [{"layers": 8, "time_every": 2}, {"layers": 7, "time_every": 3}, {"layers": 4, "time_every": 1}]


def everything(config, params, x):
    """Outputs at once and as a stream, and the gradient."""
    model = Transformer(config)
    model.params = params
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(jnp.sin(bind(model.make, params)(x)[0]))))(params)
    return model(x), model.stream(x, [3, 1, 5]), gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("setting", [{"remat": True}, {"scan": True}, {"scan": True, "remat": True, "space_frames": 3}])
def test_remat_scan_and_parts_change_no_result(shape, setting):
    plain, x = transformer_config(**shape), normal(1, 2, 9, 3, 32)
    params = Transformer(plain).params
    wanted, actual = (everything(config, params, x) for config in (plain, transformer_config(**shape, **setting)))
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
