import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Tiny models take longer to compile than to run: XLA leaves most of its optimisations out."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
