import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from trainer.errors import ConfigError
from trainer.sharding import make_mesh, state_sharding

MESH = AbstractMesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
RULES = [("decoder/w$", PartitionSpec(None, "fsdp")), ("w$", PartitionSpec("fsdp"))]


def specs(state):
    return jax.tree.map(lambda s: s.spec, state_sharding(MESH, RULES, state))


def test_the_first_rule_that_is_found_decides_for_moments_too():
    params = {"encoder": {"w": jnp.ones((8, 4))}, "decoder": {"w": jnp.ones((3, 8))}, "b": jnp.ones(3)}
    found = specs({"params": params, "opt_state": [{"mu": params, "count": jnp.ones(())}]})
    assert found["params"]["encoder"]["w"] == PartitionSpec("fsdp")
    assert found["params"]["decoder"]["w"] == PartitionSpec(None, "fsdp")
    assert found["params"]["b"] == PartitionSpec()
    assert found["opt_state"][0]["mu"] == found["params"]
    assert found["opt_state"][0]["count"] == PartitionSpec()


def test_a_parameter_that_cannot_be_split_is_named():
    with pytest.raises(ConfigError, match=r"params/encoder/w\(6, 4\): 6 cannot be split in 4"):
        specs({"params": {"encoder": {"w": jnp.ones((6, 4))}}})
    # A factored statistic of another shape under the same name is replicated.
    assert specs({"opt_state": {"encoder": {"w": jnp.ones((1,))}}})["opt_state"]["encoder"]["w"] == PartitionSpec()


def test_a_mesh_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="mesh_shape"):
        make_mesh((jax.device_count() + 1, 1))
