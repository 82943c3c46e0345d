"""The example as if it were installed, and programs that compile fast: they run for milliseconds."""

import sys
from pathlib import Path

import jax
import pytest

sys.path.append(str(Path(__file__).parents[2] / "examples" / "rssm"))


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def compiled_programs(tmp_path):
    """Where runs keep compiled programs, as an argument."""
    before = jax.config.jax_compilation_cache_dir
    yield f"--config.compilation_cache={tmp_path / 'cache'}"
    jax.config.update("jax_compilation_cache_dir", before)
