"""Hand-made models whose figures can be computed by hand, and the tasks that train real ones of the smallest size."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models.dynamics import Prediction
from models.tokenizer import from_patches, to_patches
from tasks.dynamics import DynamicsTask
from tasks.tokenizer import TokenizerTask
from trainer.task import Upstream

TRANSFORMER = {"width": 8, "heads": 2, "layers": 2, "time_every": 2, "window": 4, "mlp_ratio": 1.0}
TOKENIZER = {"patch": 4, "latents": 2, "channels": 4, "encoder": TRANSFORMER, "decoder": TRANSFORMER}


def shapes(batch):
    """What `setup` gets."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), dict(batch))


def generic(task, batch, seed=0):
    """Parameters of a real task in which nothing is zero: outputs start at zero and would hide everything."""
    start = jax.eval_shape(task.init_params, jax.random.key(0), batch)
    numbers = np.random.default_rng(seed)

    def draw(path, leaf):
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(offset + 0.6 * numbers.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(draw, start)


class ErringTokenizer:
    """Latents are the patches, wrong by `whole` of themselves; with a mask by `hidden` or `seen`, absolutely."""

    def __init__(self, config, params):
        self.config, self.params = config, params

    def encode(self, frames, *, mask=None, independent=None, cache=None):
        patches = to_patches(frames, self.config.patch)
        if mask is None:
            return patches * (1 + self.params["whole"]), None
        return patches + jnp.where(mask[..., None], self.params["hidden"], self.params["seen"]), None

    def decode(self, latents, *, independent=None, cache=None):
        return from_patches(latents, self.config.image), None


class ErringTokenizerTask(TokenizerTask):
    def model(self, params):
        return ErringTokenizer(self.config, params)


class FlatTokenizer:
    """Latents are the means of patches, times `gain`; decoding paints them flat."""

    def __init__(self, config, params, calls):
        self.config, self.params, self.calls = config, params, calls

    def encode(self, frames, *, mask=None, independent=None, cache=None):
        self.calls.append(independent)
        means = jnp.mean(to_patches(frames, self.config.patch), axis=-1, keepdims=True)
        return means * self.params["gain"], None

    def decode(self, latents, *, independent=None, cache=None):
        size = self.config.patch**2 * self.config.image[-1]
        return from_patches(jnp.repeat(latents / self.params["gain"], size, axis=-1), self.config.image), None


class FlatTokenizerTask(TokenizerTask):
    """A tokenizer of 4×4 frames; `calls` holds what each `encode` was told of independent rows."""

    def __init__(self):
        super().__init__(model={"patch": 2, "latents": 4, "channels": 1})
        self.calls = []
        self.setup({}, {"frames": np.zeros((1, 1, 4, 4, 3), np.uint8)})

    def model(self, params):
        return FlatTokenizer(self.config, params, self.calls)


class HandMadeDynamicsTask(DynamicsTask):
    """Its model is a function: (config, params, noisy, halvings, actions, labelled, independent, past) → prediction."""

    def __init__(self, predict, **kwargs):
        super().__init__(**kwargs)
        self._predict = predict

    def model(self, params):
        def apply(noisy, signal, halvings, actions, labelled, *, independent=None, cache=None, **others):
            out = self._predict(self.config, params, noisy, halvings, actions, labelled, independent, cache)
            return Prediction(out, None, noisy[:, -1:])  # the past of a frame is the frame before

        def init_cache(batch):
            return jnp.zeros((batch, 1, self.config.spatial_tokens, self.config.spatial_channels))

        def remember(finished, signal, halvings, actions, labelled, *, independent=None):
            return finished  # so that a test can see whose they are

        apply.remember = remember
        apply.config, apply.init_cache, apply.recall = self.config, init_cache, lambda cache: cache
        return apply


def upstream(task, params):
    """What `setup` gets for a finished tokenizer run."""
    run = Upstream(task=task, params=params, run=Path("logs/tokens"), step=1)
    return {"tokenizer": run}


def flat_upstream():
    return upstream(FlatTokenizerTask(), {"gain": jnp.float32(1)})


def tile(picture, row, column, size, enlarged=64, gap=4, margin=84, top=0):
    """The picture at a place of a grid, at its own size."""
    y, x = top + gap + row * (enlarged + gap), margin + column * (enlarged + gap)
    return picture[y : y + enlarged, x : x + enlarged][:: enlarged // size, :: enlarged // size]
