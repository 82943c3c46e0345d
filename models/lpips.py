"""LPIPS: a distance between pictures that is near human judgement; the tokenizer's optional perceptual loss.

Zhang et al., arXiv:1801.03924, version 0.1 with the VGG16 backbone (arXiv:1409.1556). The published weights are the
user's to supply, as one `.npz` file of float arrays:

  `conv1_1_kernel` [3, 3, 3, 64], `conv1_1_bias` [64], … `conv5_3_kernel` [3, 3, 512, 512], `conv5_3_bias` [512]
      the 13 convolutions of VGG16, `conv{stage}_{number}`, kernels [height, width, in, out];
  `lin1` [64], `lin2` [128], `lin3` [256], `lin4` [512], `lin5` [512]
      LPIPS's non-negative weight of each channel of each stage's last features.

Where torchvision and the `lpips` package are installed, this writes it:

    def convert(path):
        layers = {                        # places of the convolutions in torchvision's vgg16().features
            "1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14,
            "4_1": 17, "4_2": 19, "4_3": 21, "5_1": 24, "5_2": 26, "5_3": 28,
        }
        vgg = torchvision.models.vgg16(weights="IMAGENET1K_V1").state_dict()
        lin = lpips.LPIPS(net="vgg").state_dict()
        arrays = {f"lin{i + 1}": lin[f"lin{i}.model.1.weight"].numpy().reshape(-1) for i in range(5)}
        for name, i in layers.items():    # torch's kernels are [out, in, height, width]
            arrays[f"conv{name}_kernel"] = vgg[f"features.{i}.weight"].numpy().transpose(2, 3, 1, 0)
            arrays[f"conv{name}_bias"] = vgg[f"features.{i}.bias"].numpy()
        numpy.savez(path, **arrays)
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions of each stage
SMALLEST = 2 ** (len(STAGES) - 1)  # px: every stage but the first halves the picture
# LPIPS's mean and deviation per channel, of pictures in [-1, 1].
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)

Weights = Mapping[str, Float[Array, "..."]]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a weights file."""
    shapes: dict[str, tuple[int, ...]] = {}
    previous = 3
    for stage, (channels, convolutions) in enumerate(STAGES, start=1):
        for number in range(1, convolutions + 1):
            shapes[f"conv{stage}_{number}_kernel"] = (3, 3, previous, channels)
            shapes[f"conv{stage}_{number}_bias"] = (channels,)
            previous = channels
        shapes[f"lin{stage}"] = (channels,)
    return shapes


def load(path: str | Path) -> dict[str, Float[Array, "..."]]:
    """Reads a weights file; hand its arrays to jit as an argument, they are 59 MB.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no `.npz` file, or an array is missing or has another shape.
    """
    hint = "see models/lpips.py for how to write the file; lpips_weight=0 trains without it"
    if not Path(path).is_file():
        raise FileNotFoundError(f"no LPIPS weights at {path}: expected an .npz file with VGG16's arrays; {hint}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"LPIPS weights {path} are no .npz file; {hint}")
    wanted = expected_shapes()
    with np.load(path) as file:
        missing = [name for name in wanted if name not in file]
        if missing:
            raise ValueError(f"LPIPS weights {path} lack {', '.join(missing)}; the file has {sorted(file)}; {hint}")
        arrays = {name: file[name] for name in wanted}
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise ValueError(f"LPIPS weights {path}: {name} should be {shape}, got {arrays[name].shape}; {hint}")
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def _features(weights: Weights, x: Float[Array, "B H W 3"]) -> list[Float[Array, "B h w c"]]:
    """The last features of each stage, of unit length at every place."""
    features = []
    for stage, (_, convolutions) in enumerate(STAGES, start=1):
        if stage > 1:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for number in range(1, convolutions + 1):
            kernel, bias = weights[f"conv{stage}_{number}_kernel"], weights[f"conv{stage}_{number}_bias"]
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x + bias)
        # The offset lies under the root, so that the gradient is finite where all channels are zero.
        features.append(x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-20))
    return features


def lpips(weights: Weights, a: Float[Array, "*lead H W 3"], b: Float[Array, "*lead H W 3"]) -> Float[Array, "*lead"]:
    """The perceptual distance of pictures in [0, 1]; zero for equal ones.

    Args:
      weights: of `load`.
      a: pictures, at least 16 px high and wide.
      b: pictures to compare with.

    Raises:
      ValueError: the pictures have other than three channels, are too small, or differ in shape.
    """
    *lead, height, width, channels = a.shape
    if a.shape != b.shape or channels != 3 or min(height, width) < SMALLEST:
        raise ValueError(
            f"LPIPS compares pictures [..., H, W, 3] of at least {SMALLEST} × {SMALLEST} px, got {a.shape} and "
            f"{b.shape}; lpips_weight=0 trains without it"
        )
    pictures = jnp.stack([a, b]).astype(jnp.float32).reshape(-1, height, width, 3)
    distance = jnp.zeros(int(np.prod(lead)))
    for stage, features in enumerate(_features(weights, ((2 * pictures - 1) - SHIFT) / SCALE), start=1):
        of_a, of_b = jnp.split(features, 2)
        distance += jnp.mean(jnp.square(of_a - of_b) @ weights[f"lin{stage}"], axis=(1, 2))
    return distance.reshape(lead)
