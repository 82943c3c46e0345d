import pytest
from ml_collections import ConfigDict
from toy_config import get_config

from trainer.config import complete
from trainer.config_json import config_hash, diff, from_json, to_json
from trainer.errors import ConfigError
from trainer.overrides import override


@pytest.fixture
def config() -> ConfigDict:
    return complete(get_config("second"), "toy")


def test_json_round_trip(config, tmp_path):
    override(config, "task.nested.sizes", "(1, 2, 3)")
    data = to_json(config)
    back = complete(from_json(data), "json")
    assert to_json(back) == data
    assert back.task.nested.sizes == (1, 2, 3)
    assert back.task.nested.limit is None
    assert diff(config, back) == []
    assert config_hash(config) == config_hash(back)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_json_cannot_hold_is_refused_by_name(config, value):
    config.task.nested.odd = value
    with pytest.raises(ConfigError, match=r"config\.task\.nested\.odd = "):
        to_json(config)


def test_diff_names_fields_in_both_directions(config):
    other = config.copy_and_resolve_references()
    override(other, "steps", "9")
    override(other, "callbacks.limit.target", "time_limit")
    del other.task.nested["word"]
    assert diff(config, other) == [
        'callbacks.limit.target: (absent) → "time_limit"',
        "steps: 4 → 9",
        'task.nested.word: "a" → (absent)',
    ]
    assert diff(config, other, ("steps", "callbacks", "task")) == []


def test_the_hash_ignores_what_cannot_change_the_run(config):
    before = config_hash(config)
    override(config, "name", "other")
    override(config, "upstream_autotrain", "false")
    assert config_hash(config) == before
    override(config, "seed", "1")
    assert config_hash(config) != before
