"""Local latents: each begins as what is in its cell of the image, and is what the patches of its cell begin as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, generic, normal, same, transformer_config

from models.functional import bind
from models.tokenizer import Tokenizer, TokenizerConfig, from_patches, to_patches

CONFIG = TokenizerConfig(
    image=(8, 16, 3), patch=2, latents=4, channels=3, local=True,
    encoder=transformer_config(layers=3, window=3), decoder=transformer_config(layers=3, window=3),
)  # fmt: skip
PARAMS = generic(lambda rngs: Tokenizer(CONFIG, rngs=rngs))
FRAMES = jax.random.uniform(jax.random.key(0), (2, 6, 8, 16, 3))
CELLS = [(slice(4 * row, 4 * row + 4), slice(8 * column, 8 * column + 8)) for row in (0, 1) for column in (0, 1)]


def model(params=PARAMS):
    return bind(lambda rngs: Tokenizer(CONFIG, rngs=rngs), params)


def without_layers():
    """Parameters whose layers add nothing: tokens come out as they begin, but for the norm."""
    params = jax.tree.map(lambda leaf: leaf, PARAMS)
    for half in ("encoder", "decoder"):
        params[half]["blocks"] = jax.tree.map(jnp.zeros_like, params[half]["blocks"])
    return params


@pytest.mark.parametrize("latent", range(4))
def test_a_latent_begins_as_its_cell_and_its_cell_as_the_latent(latent):
    tokenizer, rows_columns = model(without_layers()), CELLS[latent]
    encode = jax.jit(lambda frames: tokenizer.encode(frames)[0])
    moved = np.abs(encode(FRAMES) - encode(FRAMES.at[(..., *rows_columns, slice(None))].multiply(0.5))).max(
        axis=(0, 1, 3)
    )
    assert (moved > 1e-4).tolist() == [n == latent for n in range(4)]
    decode = jax.jit(lambda latents: tokenizer.decode(latents)[0])
    latents = normal(1, 2, 6, 4, 3)
    moved = np.abs(decode(latents) - decode(latents.at[:, :, latent].add(1.0))).max(axis=(0, 1, 4))
    expected = np.zeros((8, 16), bool)
    expected[rows_columns] = True
    assert ((moved > 1e-4) == expected).mean() > 0.99  # single pixels may hardly move
    assert (moved[~expected] == 0).all()


def test_frame_by_frame_is_all_at_once():
    encode = jax.jit(lambda x, cache: model().encode(x, cache=cache))
    decode = jax.jit(lambda z, cache: model().decode(z, cache=cache))
    caches = model().encoder.init_cache(2), model().decoder.init_cache(2)
    for function, x, cache in zip((encode, decode), (FRAMES, jnp.tanh(normal(1, 2, 6, 4, 3))), caches, strict=True):
        whole, outputs = function(x, None)[0], []
        for t in range(6):
            out, cache = function(x[:, t : t + 1], cache)
            outputs.append(out)
        assert_close(jnp.concatenate(outputs, axis=1), whole)


def test_what_is_hidden_cannot_be_known():
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, (2, 6, 32))
    others = jax.random.uniform(jax.random.key(3), (2, 6, 32, 12))
    patches = to_patches(FRAMES, 2)
    encode = jax.jit(lambda patches: model().encode(from_patches(patches, (8, 16, 3)), mask=mask)[0])
    assert same(encode(patches), encode(jnp.where(mask[..., None], others, patches)))


def test_cells_of_parts_of_patches_are_refused():
    with pytest.raises(ValueError, match=r"4 latents on a grid of 2 × 2 do not divide 2 × 3 patches"):
        TokenizerConfig(image=(8, 12, 3), patch=4, latents=4, local=True)
