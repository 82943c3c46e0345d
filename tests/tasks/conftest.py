"""Compiles fast: these programs run for milliseconds."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def without_optimizations():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
