"""What XLA is told before it is first used."""

import contextlib
import os
import platform
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax

from trainer.hosts import say


def use_compilation_cache(setting: str) -> None:
    """Keeps compiled programs on disk, in a folder for each kind of processor: code for another one crashes."""
    if not setting:
        return
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        processor = platform.processor()
    folder = Path(setting).expanduser() / f"{platform.machine()}-{zlib.crc32(processor.encode()):08x}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        say(f"compilation_cache = {setting!r} cannot be used ({e.strerror}); everything is compiled anew.")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # also the many small ones that a start needs


@contextlib.contextmanager
def compiling(quickly: bool) -> Iterator[None]:
    """Leaves most of XLA's optimisations out of what is compiled meanwhile, if so wanted."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", before or quickly)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def use_deterministic_kernels(wanted: bool) -> None:
    """Tells XLA so; it reads its flags once, when JAX is first used."""
    flag = "--xla_gpu_deterministic_ops=true"
    flags = os.environ.get("XLA_FLAGS", "")
    if wanted and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def simulate_devices(count: int) -> None:
    """Makes JAX pretend that there are so many devices: programs for them can be compiled, and run, slowly, on the CPU.

    Tells the compiler, too, to order operations so that they need little memory, as those of accelerators do.
    """
    frugal = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    flags = f"--xla_force_host_platform_device_count={count} {frugal}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    jax.config.update("jax_platforms", "cpu")
