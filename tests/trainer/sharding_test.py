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
    params = {"encoder": {"w": jnp.ones((8, 4))}, "decoder": {"w": jnp.ones((3, 8))}}
    with pytest.raises(ConfigError, match=r"params/encoder/w\(6, 4\): 6 cannot be split in 4 \(fsdp\)"):
        specs({"params": {**params, "encoder": {"w": jnp.ones((6, 4))}}})
    # A factored statistic of another shape under the same name is replicated.
    factored = specs({"params": params, "opt_state": {"encoder": {"w": jnp.ones((1,))}}})
    assert factored["opt_state"]["encoder"]["w"] == PartitionSpec()


def test_a_mesh_of_another_size_is_refused():
    for shape in ((jax.device_count() + 1, 1), (-1, -jax.device_count()), (1,), ("1", 1)):
        with pytest.raises(ConfigError, match="mesh_shape"):
            make_mesh(shape)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("w$", PartitionSpec("fdsp"))], r"'w\$' → \('fdsp',\): the mesh has no axis 'fdsp'. Did you mean 'fsdp'\?"),
        ([("w$", PartitionSpec((3, "data")))], "no axis 3. Axes: data, fsdp."),
        ([("w$", PartitionSpec("fsdp", "fsdp"))], "'fsdp' can split one dimension only"),
        ([("w[", PartitionSpec("fsdp"))], r"'w\[' is no regular expression"),
        ([("w$", PartitionSpec("data", None, None))], "the rule has 3 dimensions, the array 2"),
        (
            [("decodr/w", PartitionSpec())],
            "matches no parameter. Did you mean 'decoder' .*: b, decoder, encoder, w.",
        ),
        (
            [("coder", PartitionSpec()), ("encoder/w", PartitionSpec("fsdp"))],
            "'encoder/w' .* decides about nothing: .*'coder' for one params/encoder/w",
        ),
    ],
)
def test_a_rule_that_cannot_work_or_does_nothing_is_refused(rules, message):
    params = {"encoder": {"w": jnp.ones((8, 4))}, "decoder": {"w": jnp.ones((4, 8))}, "b": jnp.ones(3)}
    with pytest.raises(ConfigError, match=message) as error:
        state_sharding(MESH, rules, {"params": params})
    assert "\n" not in str(error.value)


def test_a_rule_may_be_for_running_state_alone():
    state = {"params": {"w": jnp.ones(8)}, "extra": {"target": jnp.ones(8)}}
    placed = state_sharding(MESH, [("target", PartitionSpec("data"))], state)
    assert placed["extra"]["target"].spec == PartitionSpec("data")
