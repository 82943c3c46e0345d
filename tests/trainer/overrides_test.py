import pytest
from ml_collections import ConfigDict
from toy_config import get_config

from trainer.config import complete
from trainer.config_json import to_json
from trainer.errors import ConfigError
from trainer.overrides import override, override_all


@pytest.fixture
def config() -> ConfigDict:
    return complete(get_config("second"), "toy")


def get(config: ConfigDict, key: str):
    for name in key.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "1e4", 10_000),
        ("steps", "2_000", 2_000),
        ("seed", "-3", -3),
        ("ema_decay", "0.99", 0.99),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.learning_rate", "3e-5", 3e-5),
        ("name", "1e4", "1e4"),
        ("root", "/a b=c", "/a b=c"),
        ("upstream_autotrain", "false", False),
        ("task.nested.on", "True", True),
        ("task.nested.sizes", "3,4,5", (3, 4, 5)),
        ("task.nested.sizes", "(3,)", (3,)),
        ("task.nested.sizes", "()", ()),
        ("task.nested.limit", "7", 7),
        ("task.nested.limit", "none", None),
        ("optimizer.muon_exclude", "embed,head", ("embed", "head")),
        ("optimizer.muon_exclude", "('embed', \"head\")", ("embed", "head")),
        ("optimizer.muon_exclude", "embed[0-9],(up|down)$", ("embed[0-9]", "(up|down)$")),
        (
            "optimizer.muon_exclude",
            "('[(,]\\d', \"it's\", it's, '3', 'none')",
            ("[(,]\\d", "it's", "it's", "3", "none"),
        ),
        ("sharding_rules", "(('mlp', (none, 'fsdp')),)", (("mlp", (None, "fsdp")),)),
        (
            "sharding_rules",
            "(('.*mlp[0-9]/(up|down)', ('fsdp', None)),)",
            ((".*mlp[0-9]/(up|down)", ("fsdp", None)),),
        ),
        (
            "sharding_rules",
            "('[^)]', ('data',)), [w, [[data, fsdp]]]",
            (("[^)]", ("data",)), ("w", (("data", "fsdp"),))),
        ),
        ("callbacks.limit.target", "time_limit", "time_limit"),
        ("optimizer.options.momentum", "0.5", 0.5),
        ("upstream.base.run", "logs/other", "logs/other"),
    ],
)
def test_an_override_is_read_as_the_type_of_its_field(config, key, text, value):
    override(config, key, text)
    assert get(config, key) == value
    assert type(get(config, key)) is type(value)


def test_features_of_the_data_can_be_named(config):
    config.data["keys"] = {}
    override(config, "data.keys.frames", "video")
    override(config, "data.keys.rewards", "score")
    assert config.data["keys"].to_dict() == {"frames": "video", "rewards": "score"}


def test_overrides_add_and_remove_entries_of_open_groups(config):
    override(config, "callbacks.limit.target", "time_limit")
    override(config, "callbacks.limit.seconds", "60")
    override(config, "writers.jsonl", "none")
    assert config.callbacks.to_dict() == {"limit": {"target": "time_limit", "seconds": 60}}
    assert not config.writers


@pytest.mark.parametrize(
    ("key", "text", "parts"),
    [
        ("stpes", "3", ["'stpes'", "Did you mean 'steps'", "log_every"]),
        ("learning_rate", "3", ["'learning_rate'", "Did you mean 'optimizer.learning_rate'"]),
        ("optimizer.learning_rte", "1", ["'optimizer.learning_rte'", "'learning_rate'", "Fields of optimizer: b1"]),
        ("task.witdh", "1", ["'task.witdh'", "'width'", "nested, prepares, scale, target, width"]),
        ("callbacks.sumary", "none", ["'callbacks.sumary'"]),
        ("callbacks.limit", "3", ["--config.callbacks.limit=3", "--config.callbacks.limit.target="]),
        ("steps", "many", ["--config.steps=many", "'many'", "a whole number"]),
        ("steps", "1.5", ["--config.steps=1.5", "a whole number"]),
        ("ema_decay", "nan", ["--config.ema_decay=nan", "a number"]),
        ("ema_decay", "big", ["--config.ema_decay=big", "a number"]),
        ("upstream_autotrain", "maybe", ["'maybe'", "true or false"]),
        ("task.nested.sizes", "1,x", ["'1,x'", "a tuple of int"]),
        ("sharding_rules", "(('w', ('fsdp'),)", ["(('w', ('fsdp'),)", "a tuple"]),
        ("sharding_rules", "('w', ('fsdp'])", ["('w', ('fsdp'])", "a tuple"]),
        ("sharding_rules", "('w, (fsdp))", ["('w, (fsdp))", "a tuple"]),
        ("task.nested.limit", "x", ["'x'", "a whole number"]),
        ("steps.x", "3", ["steps = 4", "not a group"]),
        ("optimizer", "adam", ["group of fields", "--config.optimizer.name="]),
    ],
)
def test_a_wrong_override_gets_one_line_and_changes_nothing(config, key, text, parts):
    before = to_json(config)
    with pytest.raises(ConfigError) as e:
        override(config, key, text)
    assert all(part in str(e.value) for part in parts), e.value
    assert "\n" not in str(e.value)
    assert to_json(config) == before


@pytest.mark.parametrize("order", [1, -1])
def test_parts_with_names_of_their_own_may_be_added_and_left_out(config, order):
    config.task["wheels"] = {"left": {"kind": "round", "size": 4}}
    settings = [
        ("task.wheels.right.kind", "square"), ("task.wheels.left", "none"), ("task.wheels.spare.kind", "none"),
        ("task.wheels.right.size", "2"), ("task.wheels.spare.size", "'7'"),
    ]  # fmt: skip
    override_all(config, settings[::order])
    wheels = {"right": {"kind": "square", "size": 2}, "spare": {"kind": None, "size": "7"}}
    assert config.task.wheels.to_dict() == wheels


@pytest.mark.parametrize(
    ("key", "text", "parts"),
    [
        ("task.wheels.left.sise", "3", ["'task.wheels.left.sise'", "Did you mean 'size'"]),
        ("task.wheels.right", "3", ["'task.wheels.right'", "Fields of task.wheels: left"]),
        ("task.wheels.rigth", "none", ["'task.wheels.rigth'"]),
        ("task.nestde.word", "b", ["'task.nestde.word'", "Did you mean 'task.nested.word'"]),
        ("task.nested", "none", ["group of fields"]),
    ],
)
def test_fields_of_parts_and_groups_beside_values_are_fixed(config, key, text, parts):
    config.task["wheels"] = {"left": {"kind": "round", "size": 4}}
    before = to_json(config)
    with pytest.raises(ConfigError) as e:
        override_all(config, [(key, text)])
    assert all(part in str(e.value) for part in parts), e.value
    assert to_json(config) == before
