"""A data set of these tests' own, and programs that compile fast."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def data(tmp_path_factory):
    """Where data sets are prepared, once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield


@pytest.fixture(autouse=True)
def jax_settings():
    """Compiles fast, and undoes what a benchmark sets."""
    optimizations = jax.config.read("jax_disable_most_optimizations")
    cache = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", optimizations)
    jax.config.update("jax_enable_compilation_cache", cache)
