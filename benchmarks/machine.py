"""The machine: what it is, how fast it moves memory, and how much of that a program took."""

import functools
import os
import platform
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp

_SECONDS = 0.3  # of the measurement of the bandwidth, besides the compilation


def describe() -> dict[str, Any]:
    """The machine, and how busy it is with other work (`load`: processes that want to run, mean of a minute)."""
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def memory_bytes_per_s() -> float:
    """Bytes per second that this process's first device reads and writes, in a large array changed in place.

    Measured at the first call, in a fraction of a second; later calls give the same number.
    """
    device = jax.local_devices()[0]
    size = 2**28 if device.platform == "cpu" else 2**30  # far beyond any cache
    change = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: new pages would cost more than the copy
    array = change(jax.device_put(jnp.zeros(size // 4, jnp.float32), device)).block_until_ready()
    best, passes = 0.0, 1
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(passes):
            array = change(array)
        array.block_until_ready()
        seconds = time.perf_counter() - began
        best = max(best, 2 * size * passes / seconds)
        passes = max(1, round(passes * _SECONDS / 5 / seconds))
    return best


def program_bytes(compiled: Any) -> int:
    """Device memory of a compiled program while it runs: arguments, outputs and temporaries."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def process_bytes() -> int:
    """The most memory of the host that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_figures(compiled: Any) -> dict[str, int]:
    """`peak_memory`: the device's peak in this process where it keeps count, else what the program needs.

    Beside it `program_memory`, what the program needs, and `process_peak_memory`, of the host.
    """
    counted = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    own = program_bytes(compiled)
    return {"peak_memory": counted or own, "program_memory": own, "process_peak_memory": process_bytes()}
