"""Small models with generic parameters, and the functions that run them."""

import jax
import jax.numpy as jnp
import numpy as np

from models.functional import bind, init
from models.transformer import SpaceTimeTransformer, TransformerConfig


def transformer_config(**changes):
    plain = dict(width=32, layers=2, heads=2, mlp_ratio=1.0, time_every=2, window=4)
    return TransformerConfig(**{**plain, **changes})


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def generic(make, seed=0):
    """Parameters of `make` without the zeros and ones of a fresh model, which would hide mistakes."""
    shapes = jax.eval_shape(lambda: init(make, jax.random.key(0)))
    numbers = np.random.default_rng(seed)

    def draw(path, leaf):
        size = leaf.shape[0] ** -0.5 if path[-1].key == "kernel" else 0.5
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(offset + size * numbers.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(draw, shapes)


def make_transformer(config, tokens=3, layout=None):
    """A constructor of a transformer over `tokens` tokens in a row that all see each other, or over a layout."""
    coordinates = np.stack([np.arange(tokens), np.zeros(tokens)], axis=-1) if layout is None else layout.coordinates()
    routing = None if layout is None else layout.routing()
    return lambda rngs: SpaceTimeTransformer(config, coordinates=coordinates, routing=routing, rngs=rngs)


class Transformer:
    """A transformer with generic parameters, compiled: all at once, or as a stream in chunks."""

    def __init__(self, config, **kwargs):
        self.make = make_transformer(config, **kwargs)
        self.params = generic(self.make)
        self.run = jax.jit(
            lambda params, x, independent, cache: bind(self.make, params)(x, independent=independent, cache=cache)
        )

    def empty_cache(self, batch):
        return bind(self.make, self.params).init_cache(batch)

    def __call__(self, x, independent=None):
        return self.run(self.params, x, independent, None)[0]

    def stream(self, x, chunks):
        """The outputs where `x` comes in pieces of the sizes `chunks`, through a cache."""
        assert sum(chunks) == x.shape[1]
        cache, outputs = self.empty_cache(x.shape[0]), []
        for chunk in np.split(np.asarray(x), np.cumsum(chunks)[:-1], axis=1):
            out, cache = self.run(self.params, chunk, None, cache)
            outputs.append(out)
        return jnp.concatenate(outputs, axis=1)


def assert_close(actual, wanted, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(actual, np.float32), np.asarray(wanted, np.float32), atol=tolerance, rtol=0)


def same(a, b):
    """Whether two arrays agree in every bit."""
    return np.array_equal(np.asarray(a), np.asarray(b))
