"""The tokenizer: what its latents know, and that it runs frame by frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny import assert_close, generic, normal, same, transformer_config

from models.functional import bind
from models.tokenizer import Tokenizer, TokenizerConfig, from_patches, to_patches

CONFIG = TokenizerConfig(
    image=(8, 12, 3), patch=4, latents=4, channels=3,
    encoder=transformer_config(layers=3, window=3), decoder=transformer_config(layers=3, window=3, kv_heads=1),
)  # fmt: skip
PARAMS = generic(lambda rngs: Tokenizer(CONFIG, rngs=rngs))


def model(params=PARAMS):
    return bind(lambda rngs: Tokenizer(CONFIG, rngs=rngs), params)


ENCODE = jax.jit(lambda frames, mask, cache: model().encode(frames, mask=mask, cache=cache))
DECODE = jax.jit(lambda latents, cache: model().decode(latents, cache=cache))
FRAMES = jax.random.uniform(jax.random.key(0), (2, 8, 8, 12, 3))
LATENTS = jnp.tanh(normal(1, 2, 8, 4, 3))


def frame_by_frame(function, x, cache):
    outputs = []
    for t in range(x.shape[1]):
        out, cache = function(x[:, t : t + 1], cache)
        outputs.append(out)
    return jnp.concatenate(outputs, axis=1)


def test_encoding_frame_by_frame_is_encoding_all_at_once():
    whole, _ = ENCODE(FRAMES, None, None)
    assert_close(frame_by_frame(lambda x, cache: ENCODE(x, None, cache), FRAMES, model().encoder.init_cache(2)), whole)


def test_decoding_frame_by_frame_is_decoding_all_at_once():
    whole, _ = DECODE(LATENTS, None)
    assert_close(frame_by_frame(DECODE, LATENTS, model().decoder.init_cache(2)), whole)


def test_the_encoder_does_not_see_the_future():
    out, changed = ENCODE(FRAMES, None, None)[0], ENCODE(FRAMES.at[:, 4].set(0.0), None, None)[0]
    assert same(out[:, :4], changed[:, :4])
    assert (np.abs(out - changed)[:, 4:6].max(axis=(2, 3)) > 1e-4).all()


def test_the_decoder_does_not_see_the_future():
    out, changed = DECODE(LATENTS, None)[0], DECODE(LATENTS.at[:, 4].set(0.0), None)[0]
    assert same(out[:, :4], changed[:, :4])
    assert (np.abs(out - changed)[:, 4:6].max(axis=(2, 3, 4)) > 1e-4).all()


def test_what_is_hidden_cannot_be_known():
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, (2, 8, 6))
    others = jax.random.uniform(jax.random.key(3), (2, 8, 6, 48))
    patches = to_patches(FRAMES, 4)

    def encode(patches):
        return ENCODE(from_patches(patches, (8, 12, 3)), mask, None)[0]

    assert same(encode(patches), encode(jnp.where(mask[..., None], others, patches)))
    assert not same(encode(patches), encode(jnp.where(mask[..., None], patches, others)))


def test_no_mask_hides_nothing():
    nothing = jnp.zeros((2, 8, 6), bool)
    assert same(ENCODE(FRAMES, nothing, None)[0], ENCODE(FRAMES, None, None)[0])
    assert not same(ENCODE(FRAMES, nothing.at[:, 0, 0].set(True), None)[0], ENCODE(FRAMES, nothing, None)[0])


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_information_flows_one_way_through_a_frame(part):
    # Encoder: patches → latents, so that latents gather a frame; decoder: latents → patch queries, so that all a
    # queried patch knows comes from latents.
    half = getattr(model(), part)
    layout = getattr(model(), f"{part}_layout")
    source, sink = ("patches", "latents") if part == "encoder" else ("latents", "patches")
    run = jax.jit(lambda x: half(x)[0])
    x = normal(4, 1, 5, 10, 32)
    out = run(x)
    changed = run(x.at[:, :, layout.slice(sink)].add(1.0))
    assert same(out[:, :, layout.slice(source)], changed[:, :, layout.slice(source)])
    changed = run(x.at[:, :, layout.slice(source)].add(1.0))
    assert (np.abs(out - changed)[:, :, layout.slice(sink)].max(axis=-1) > 1e-4).all()


def test_latents_are_bounded():
    latents, _ = ENCODE(FRAMES, None, None)
    assert np.abs(latents).max() <= 1.0
    assert np.std(latents) > 0.1


def test_unrelated_frames_are_clips_of_one_frame():
    independent = jnp.array([True, False])
    run = jax.jit(lambda x, i: model().decode(model().encode(x, independent=i)[0], independent=i)[0])
    out = run(FRAMES, independent)
    assert_close(out[0], run(FRAMES[0][:, None], jnp.zeros(8, bool))[:, 0])
    assert not same(out[1], run(FRAMES, jnp.array([True, True]))[1])


def test_a_fresh_tokenizer_gives_grey_frames():
    # The readout starts at zero: the first loss is the same for every seed and size.
    fresh = jax.tree.map(lambda p: p, PARAMS)
    fresh["patch_out"] = jax.tree.map(jnp.zeros_like, fresh["patch_out"])
    assert same(jax.jit(lambda: model(fresh).decode(LATENTS[:, :1])[0])(), jnp.full((2, 1, 8, 12, 3), 0.5))


def test_gradients_go_to_every_parameter():
    mask = jnp.zeros((2, 8, 6), bool).at[:, :, 0].set(True)

    @jax.jit
    def gradient(params):
        def loss(params):
            tokenizer = model(params)
            return jnp.mean((tokenizer.decode(tokenizer.encode(FRAMES, mask=mask)[0])[0] - FRAMES) ** 2)

        return jax.grad(loss)(params)

    for path, leaf in traverse_util.flatten_dict(gradient(PARAMS), sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_settings_come_from_plain_data():
    config = TokenizerConfig.from_dict({"image": [8, 12, 3], "latents": 4, "encoder": {"width": 64}})
    assert config.image == (8, 12, 3)
    assert config.patches == 6
    assert (config.encoder.width, config.decoder.width) == (64, 128)


def test_frames_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="8 × 10 px do not divide into patches of 4 px"):
        TokenizerConfig(image=(8, 10, 3), patch=4)
