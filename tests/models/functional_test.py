import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from tiny import assert_close, make_transformer, normal, same, transformer_config

from models.functional import bind, init

MAKE = make_transformer(transformer_config())
RUN = jax.jit(lambda params, x: bind(MAKE, params)(x)[0])


def test_a_bound_module_is_the_one_that_was_initialised():
    x = normal(1, 1, 3, 3, 32)
    wanted = jax.jit(lambda: MAKE(nnx.Rngs(jax.random.key(3)))(x)[0])()
    assert_close(RUN(init(MAKE, jax.random.key(3)), x), wanted)


def test_parameters_go_through_a_module_unchanged():
    params = init(MAKE, jax.random.key(0))
    again = nnx.to_pure_dict(nnx.state(bind(MAKE, params), nnx.Param))
    flat = traverse_util.flatten_dict(again)
    assert {tuple(map(str, path)) for path in flat} == set(traverse_util.flatten_dict(params))
    for path, leaf in flat.items():
        assert same(leaf, traverse_util.flatten_dict(params)[tuple(map(str, path))])


def test_keys_are_strings_all_the_way():
    # Checkpoints and sharding rules address parameters by a path of strings.
    params = init(MAKE, jax.random.key(0))
    assert all(isinstance(key, str) for path in traverse_util.flatten_dict(params) for key in path)
    assert params["blocks"]["1"]["attention"]["q"]["kernel"].shape == (32, 32)


def test_the_key_decides_the_parameters():
    a, b, c = (jax.tree.leaves(init(MAKE, jax.random.key(seed))) for seed in (0, 0, 1))
    assert all(map(same, a, b))
    assert not all(map(same, a, c))


def test_a_missing_parameter_is_named():
    params = init(MAKE, jax.random.key(0))
    del params["blocks"]["0"]["mlp"]["gate"]
    with pytest.raises(KeyError, match=r"blocks.*0.*mlp.*gate.*kernel"):
        bind(MAKE, params)


def test_gradients_go_to_every_parameter():
    params = init(MAKE, jax.random.key(0))
    x = normal(1, 1, 3, 3, 32)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(bind(MAKE, p)(x)[0] * normal(2, 1, 3, 3, 32)))(params)

    gradients = gradient(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
