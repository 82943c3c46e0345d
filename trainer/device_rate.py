"""How fast the devices multiply matrices, measured here and now: what utilisation is a share of."""

import functools
import logging
import math
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SECONDS = 0.15  # of the measurement, besides the compilation


@functools.cache
def matmul_flops_per_s(dtype: Any = "float32") -> float:
    """Floating-point operations per second of this process's first device in products of large matrices.

    Measured at the first call, in a fraction of a second; later calls give the same number.

    Args:
      dtype: of the matrices, such as "bfloat16"; products have JAX's default precision.
    """
    device = jax.local_devices()[0]
    size = 768 if device.platform == "cpu" else 4096
    values = np.random.default_rng(0).random((size, size), np.float32) - 0.5
    matrix = jax.device_put((values * math.sqrt(12 / size)).astype(jnp.dtype(dtype)), device)
    multiply = jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()  # compiles
    best, products = 0.0, 1
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        began, result = time.perf_counter(), matrix
        for _ in range(products):
            result = multiply(result, matrix)
        result.block_until_ready()
        seconds = time.perf_counter() - began
        best = max(best, 2 * size**3 * products / seconds)
        # Many at a time, so that starting them and waiting for them does not count.
        products = max(1, round(products * _SECONDS / 5 / seconds))
    return best


def utilization(flops_per_s: float, devices: Iterable[jax.Device], dtype: Any = "float32") -> float | None:
    """The share of the devices' matrix-product rate that `flops_per_s` is; None where that cannot be measured."""
    rate = _rate(dtype)
    # The CPU devices of a process share its cores, and the rate is that of all cores.
    units = {device.process_index if device.platform == "cpu" else device for device in devices}
    return None if rate is None else flops_per_s / (len(units) * rate)


@functools.cache
def _rate(dtype: Any) -> float | None:
    try:
        return matmul_flops_per_s(dtype)
    except jax.errors.JaxRuntimeError as error:  # such as too little memory left; no reason to end a run
        logging.getLogger(__name__).warning("The device's matrix-product rate cannot be measured: %s", error)
        return None
