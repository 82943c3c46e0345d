import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close

from models import lpips as module
from models.lpips import expected_shapes, load, lpips

NARROW = {3: 3, 64: 4, 128: 5, 256: 6, 512: 7}  # the same network with few channels


@pytest.fixture(scope="module")
def weights():
    numbers = np.random.default_rng(0)

    def draw(name, shape):
        shape = tuple(NARROW[n] if n > 3 else n for n in shape)
        if name.startswith("lin"):
            return numbers.random(shape, np.float32)
        return numbers.normal(0, (2 / np.prod(shape[:3])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)

    return {name: draw(name, shape) for name, shape in expected_shapes().items()}


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).random((2, 2, 3, 20, 16, 3), np.float32)


def reference(weights, a, b):
    """LPIPS of two pictures [H, W, 3] by loops over kernel taps and stages, in float64."""

    def convolve(x, kernel, bias):
        h, w, _ = x.shape
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        return bias + sum(padded[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))

    def features(x):
        x = (2 * x.astype(np.float64) - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        for stage, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
            if stage > 1:
                h, w, c = x.shape
                x = x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c).max(axis=(1, 3))
            for n in range(1, convolutions + 1):
                x = np.maximum(convolve(x, weights[f"conv{stage}_{n}_kernel"], weights[f"conv{stage}_{n}_bias"]), 0)
            yield x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)

    pairs = zip(features(a), features(b), strict=True)
    return sum(np.mean((x - y) ** 2 @ weights[f"lin{i}"]) for i, (x, y) in enumerate(pairs, start=1))


def test_the_distance_is_that_of_the_paper(weights, pictures):
    wanted = [[reference(weights, pictures[0, i, j], pictures[1, i, j]) for j in range(3)] for i in range(2)]
    assert_close(jax.jit(lpips)(weights, *pictures), wanted, 1e-4)
    assert np.min(wanted) > 0.01


def test_equal_pictures_have_no_distance(weights, pictures):
    assert_close(jax.jit(lpips)(weights, pictures[0], pictures[0]), np.zeros((2, 3)), 0.0)


def test_the_gradient_leads_from_one_picture_to_the_other(weights, pictures):
    a, b = pictures[0, 0, 0], pictures[1, 0, 0]
    value_and_gradient = jax.jit(jax.value_and_grad(lambda x: lpips(weights, x, b)))
    before, gradient = value_and_gradient(a)
    after, _ = value_and_gradient(a - 1e-3 * gradient / np.abs(gradient).max())
    assert np.isfinite(gradient).all()
    assert after < before


def test_the_gradient_is_finite_where_no_feature_fires(weights):
    dead = {name: -10 + 0 * array if name.endswith("bias") else array for name, array in weights.items()}
    picture = jnp.full((16, 16, 3), 0.5)
    gradient = jax.jit(jax.grad(lambda x, of, other: lpips(of, x, other)))
    for of in (weights, dead):
        for other in (picture, jnp.zeros((16, 16, 3))):
            assert np.isfinite(gradient(picture, of, other)).all()


@pytest.mark.parametrize(("a", "b"), [((16, 16, 1), (16, 16, 1)), ((8, 16, 3), (8, 16, 3)), ((16, 16, 3), (32, 16, 3))])
def test_pictures_that_cannot_be_compared_are_refused(a, b):
    with pytest.raises(ValueError, match=re.escape(f"at least 16 × 16 px, got {a} and {b}")):
        lpips({}, jnp.zeros(a), jnp.zeros(b))


def test_a_weights_file_is_read(tmp_path, weights, pictures, monkeypatch):
    monkeypatch.setattr(module, "STAGES", tuple((NARROW[c], n) for c, n in module.STAGES))
    np.savez(tmp_path / "vgg.npz", **{name: array.astype(np.float16) for name, array in weights.items()})
    read = load(tmp_path / "vgg.npz")
    assert {array.dtype for array in read.values()} == {np.dtype("float32")}
    a, b = pictures[:, 0, 0]
    assert_close(jax.jit(lpips)(read, a, b), reference(weights, a, b), 1e-2)


def test_the_file_holds_vgg16():
    shapes = expected_shapes()
    assert len(shapes) == 13 * 2 + 5
    assert sum(np.prod(shape) for name, shape in shapes.items() if name.startswith("conv")) == 14_714_688
    assert shapes["conv3_1_kernel"] == (3, 3, 128, 256)
    assert shapes["lin5"] == (512,)


def test_a_missing_file_is_named_with_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vgg\.npz.*VGG16.*lpips_weight=0"):
        load(tmp_path / "vgg.npz")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"\x80\x02 a pickle")
    with pytest.raises(ValueError, match=r"vgg\.pth are no \.npz file.*lpips_weight=0"):
        load(tmp_path / "vgg.pth")


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "vgg.npz", conv1_1_kernel=np.zeros((3, 3, 3, 64)), other=np.zeros(1))
    with pytest.raises(ValueError, match=r"lack conv1_1_bias, .*lin5; the file has .*other.*lpips_weight=0"):
        load(tmp_path / "vgg.npz")


def test_an_array_of_another_shape_is_named(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(module, "STAGES", tuple((NARROW[c], n) for c, n in module.STAGES))
    torch_order = {**weights, "conv2_1_kernel": weights["conv2_1_kernel"].transpose(3, 2, 0, 1)}
    np.savez(tmp_path / "vgg.npz", **torch_order)
    with pytest.raises(
        ValueError, match=r"conv2_1_kernel should be \(3, 3, 4, 5\), got \(5, 4, 3, 3\).*lpips_weight=0"
    ):
        load(tmp_path / "vgg.npz")
