"""A task in bare JAX: parameters are a tuple."""

import jax
import jax.numpy as jnp

from trainer import LossOutput, Task


class Bare(Task):
    """Fits a line, without any library."""

    def __init__(self, outputs: int = 1):
        self.outputs = outputs

    def init_params(self, rng, batch):
        return (jax.random.normal(rng, (batch["x"].shape[-1], self.outputs)), [jnp.zeros(self.outputs)])

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        weight, (bias,) = params
        error = batch["x"] @ weight + bias - batch["x"].sum(axis=-1, keepdims=True)
        return LossOutput(jnp.mean(error**2), {"bias": bias.mean()}, extra)
