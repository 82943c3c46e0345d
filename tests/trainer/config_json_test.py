import functools
import json
import operator

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


@pytest.mark.parametrize(
    ("key", "default", "other"),
    [
        ("task.scale", 1.0, 2.0),
        ("eval_data.width", 3, 4),
        ("callbacks.stop.marker", "stopped", "elsewhere"),
        ("task.nested.limit", None, 3),
        ("task.nested.on", None, False),
    ],
)
def test_a_field_of_a_plugin_that_one_config_lacks_stands_for_its_default(config, key, default, other):
    config.callbacks.stop = {"target": "toy_parts:StopAt", "step": 1}
    *groups, name = key.split(".")

    def having(**field):
        changed = config.copy_and_resolve_references()
        group = functools.reduce(operator.getitem, groups, changed)
        if name in group:
            del group[name]
        group.update(field)
        return changed

    lacking = having()
    assert diff(lacking, having(**{name: default})) == diff(having(**{name: default}), lacking) == []
    shown = json.dumps(other)
    assert diff(lacking, having(**{name: other})) == [f"{key}: (absent) → {shown}"]
    assert diff(having(**{name: other}), lacking) == [f"{key}: {shown} → (absent)"]


def test_what_is_stored_may_lack_the_trainers_new_defaults(config):
    older, newer = config.copy_and_resolve_references(), config.copy_and_resolve_references()
    newer.callbacks.progress = {"target": "progress"}
    del older["keep_checkpoints"]
    assert diff(older, newer) == []
    assert diff(newer, older) == [
        'callbacks.progress.target: "progress" → (absent)',
        "keep_checkpoints: 3 → (absent)",
    ]
    newer.callbacks.progress = {"target": "progress", "order": 7}
    newer.keep_checkpoints = 4
    assert diff(older, newer) == ["callbacks.progress.order: (absent) → 7", "keep_checkpoints: (absent) → 4"]


def test_defaults_are_those_of_the_same_plugin(config):
    other = config.copy_and_resolve_references()
    other.eval_data = {}
    assert diff(config, other) == [
        "eval_data.batch_size: 8 → (absent)",
        'eval_data.target: "toy_parts:Numbers" → (absent)',
    ]
