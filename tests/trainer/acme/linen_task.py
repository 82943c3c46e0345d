"""A task in flax linen."""

import jax.numpy as jnp
from flax import linen as nn

from trainer import LossOutput, Task


class Net(nn.Module):
    """Two layers and dropout."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.gelu(nn.Dense(self.width)(x))
        return nn.Dense(1)(nn.Dropout(0.1, deterministic=not train)(x))


class Linen(Task):
    """Fits a sum with a flax linen network."""

    def __init__(self, width: int = 16):
        self.net = Net(width)

    def init_params(self, rng, batch):
        return self.net.init(rng, batch["x"], train=False)["params"]

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        out = self.net.apply({"params": params}, batch["x"], train=train, rngs={"dropout": rng})
        return LossOutput(jnp.mean((out - batch["x"].sum(axis=-1, keepdims=True)) ** 2), {}, extra)
