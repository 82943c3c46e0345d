import time

import jax
import jax.numpy as jnp
import pytest

from trainer.errors import ConfigError
from trainer.metrics import Clock, StepMetrics, Window


def test_a_window_saved_half_way_gives_the_same_bits():
    values = [0.1 * (i % 7) + 1e-3 / (i + 1) for i in range(50)]
    whole, first, second = Window(), Window(), Window()
    for i, value in enumerate(values):
        metrics = StepMetrics.pack({"a": jnp.float32(value), **({"b": jnp.int32(i)} if i % 2 else {})})
        whole.add(metrics, frames=3)
        (first if i < 23 else second).add(metrics, frames=3)
        if i == 22:
            second.load_state(first.state())
    assert second.means() == whole.means()
    assert second.means()["b"] == 25.0  # the odd numbers below 50
    assert (second.steps, second.frames) == (50, 150)


def test_names_travel_with_the_values_through_jit():
    packed = jax.jit(StepMetrics.pack)({"b": jnp.float32(2), "a": jnp.int32(1)})
    assert packed.names == ("a", "b")
    assert packed.values.tolist() == [1.0, 2.0]


def test_only_scalars_are_metrics():
    with pytest.raises(ConfigError, match="'vector' has the shape"):
        StepMetrics.pack({"vector": jnp.ones(2)})


def test_the_clock_stands_still_while_paused():
    clock = Clock()
    clock.start(100.0)
    with clock.paused():
        before = clock.seconds
        time.sleep(0.05)
        assert clock.seconds == before
    assert 100.0 <= clock.seconds < 100.05
