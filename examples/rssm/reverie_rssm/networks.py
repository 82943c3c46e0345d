"""Small networks: an MLP, and pictures to and from vectors by patches that are merged step by step."""

import itertools

import jax
from flax import nnx
from jaxtyping import Array, Float


class Mlp(nnx.Module):
    """Layers of Linear, RMSNorm and SiLU."""

    def __init__(self, inputs: int, units: int, layers: int, *, rngs: nnx.Rngs):
        sizes = [inputs, *[units] * layers]
        self.layers = nnx.List([nnx.Linear(a, b, use_bias=False, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.norms = nnx.List([nnx.RMSNorm(units, rngs=rngs) for _ in range(layers)])

    def __call__(self, x: Float[Array, "*lead inputs"]) -> Float[Array, "*lead units"]:
        """The last layer's output."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = jax.nn.silu(norm(layer(x)))
        return x


def merge(x: Float[Array, "N H W C"], size: int) -> Float[Array, "N H/size W/size size*size*C"]:
    """Patches of size × size places side by side in the channels."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // size, w // size, size * size * c)


def spread(x: Float[Array, "N H W size*size*C"], size: int) -> Float[Array, "N H*size W*size C"]:
    """The inverse of `merge`."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, size, size, c // size**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * size, w * size, c // size**2)


class Encoder(nnx.Module):
    """A picture as a vector: patches, then `stages` mergers of 2 × 2 neighbours, each twice as wide as the one before.

    These are convolutions whose stride is their size, that is matrix products, which CPUs do well.
    """

    def __init__(self, image: tuple[int, int, int], units: int, *, depth: int, patch: int, stages: int, rngs: nnx.Rngs):
        height, width, channels = image
        self.sizes = (patch, *[2] * stages)
        layers, norms = [], []
        for index, size in enumerate(self.sizes):
            layers.append(nnx.Linear(size**2 * channels, depth * 2**index, use_bias=False, rngs=rngs))
            channels, height, width = depth * 2**index, height // size, width // size
            norms.append(nnx.RMSNorm(channels, rngs=rngs))
        self.layers, self.norms = nnx.List(layers), nnx.List(norms)
        self.out = nnx.Linear(height * width * channels, units, rngs=rngs)

    def __call__(self, frames: Float[Array, "N H W C"]) -> Float[Array, "N units"]:
        """Of frames in [0, 1]."""
        x = (frames - 0.5).astype(self.out.kernel.dtype)
        for size, layer, norm in zip(self.sizes, self.layers, self.norms, strict=True):
            x = jax.nn.silu(norm(layer(merge(x, size))))
        return self.out(x.reshape(len(x), -1))


class Decoder(nnx.Module):
    """The mirror image of `Encoder`."""

    def __init__(
        self, inputs: int, units: int, image: tuple[int, int, int], *, depth: int, patch: int, stages: int,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        scale, width = patch * 2**stages, depth * 2**stages
        self.grid = (image[0] // scale, image[1] // scale, width)
        self.sizes = (*[2] * stages, patch)
        self.mlp = Mlp(inputs, units, 1, rngs=rngs)
        self.spread = nnx.Linear(units, self.grid[0] * self.grid[1] * width, rngs=rngs)
        layers, norms = [], []
        for index, size in enumerate(self.sizes):
            after = image[2] if index == stages else width // 2
            norms.append(nnx.RMSNorm(width, rngs=rngs))
            layers.append(nnx.Linear(width, size**2 * after, rngs=rngs))
            width = after
        self.layers, self.norms = nnx.List(layers), nnx.List(norms)

    def __call__(self, features: Float[Array, "N F"]) -> Float[Array, "N H W C"]:
        """Frames, about in [0, 1]."""
        x = self.spread(self.mlp(features)).reshape(len(features), *self.grid)
        for size, layer, norm in zip(self.sizes, self.layers, self.norms, strict=True):
            x = spread(layer(jax.nn.silu(norm(x))), size)
        return x + 0.5
