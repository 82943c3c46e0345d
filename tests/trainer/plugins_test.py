import pytest
import toy_parts
from ml_collections import ConfigDict

from trainer import plugins
from trainer.errors import ConfigError


def test_builds_with_nested_groups_as_dicts():
    task = plugins.build(ConfigDict({"target": "toy_parts:Line", "width": 3, "nested": {"a": {"b": (1, 2)}}}), "tasks")
    assert isinstance(task, toy_parts.Line)
    assert task.width == 3
    assert type(task.nested["a"]) is dict
    assert task.nested == {"a": {"b": (1, 2)}}


def test_offers_are_passed_only_where_they_are_named():
    task = toy_parts.Line(width=5)
    built = plugins.build({"target": "toy_parts:Constant", "value": 1.0}, "evaluators", task=task, workdir="x")
    assert built.task is task


@pytest.mark.parametrize(
    ("spec", "group", "parts"),
    [
        ({"target": "progres"}, "callbacks", ["'progres'", "trainer.callbacks", "Did you mean 'progress'", "summary"]),
        ({"target": "Line"}, "tasks", ["no plugin 'Line'", "module:Class"]),
        ({"target": ""}, "tasks", ["target = ''"]),
        ({"target": "toy_parts:Lien"}, "tasks", ["toy_parts has no 'Lien'", "Did you mean 'Line'"]),
        ({"target": "toy_prts:Line"}, "tasks", ["no module 'toy_prts'"]),
        ({"target": "toy_parts:not_callable"}, "tasks", ["is int, not a class or function"]),
        ({"target": "toy_parts:Line", "witdh": 3}, "tasks", ["tasks.x", "'witdh'", "Did you mean 'width'", "nested"]),
        ({"target": "toy_parts:Constant"}, "evaluators", ["evaluators.x", "needs 'value'"]),
        ({"target": "toy_parts:Line", "width": 0}, "tasks", ["tasks.x", "width = 0 must be at least 1"]),
        ({"target": "toy_parts:NoPlugin"}, "tasks", ["NoPlugin", "does not inherit from trainer.task.Task"]),
        ({"target": "toy_parts:NoPlugin"}, "evaluators", ["does not inherit from trainer.task.Evaluator"]),
        ({"target": "toy_parts:NoPlugin"}, "data", ["NoPlugin without prepare, iterator, fingerprint"]),
        ({"target": "toy_parts:NoPlugin"}, "writers", ["without write_scalars"]),
    ],
)
def test_a_wrong_part_gets_one_line(spec, group, parts):
    with pytest.raises(ConfigError) as e:
        plugins.build(ConfigDict(spec), group, "x")
    assert all(part in str(e.value) for part in parts), e.value
    assert "\n" not in str(e.value)


def test_a_failing_import_names_the_plugin_and_the_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_plugin.py").write_text("import no_such_library\n")
    with pytest.raises(ConfigError) as e:
        plugins.resolve("broken_plugin:Task", "tasks")
    assert "'broken_plugin:Task' cannot be imported" in str(e.value)
    assert "No module named 'no_such_library'" in str(e.value)


def test_entry_points_are_found_by_name_and_listed(tmp_path, monkeypatch):
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trainer.tasks]\nline = toy_parts:Line\nabsent = no_such_thing:Task\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.resolve("line", "tasks") is toy_parts.Line
    assert plugins.describe(plugins.available("tasks")["line"]).startswith("Fits y = x w")
    assert "no package 'no_such_thing'" in plugins.describe(plugins.available("tasks")["absent"])


def test_every_built_in_name_can_be_loaded_and_is_described():
    for group, names in plugins.BUILTIN.items():
        for name, location in names.items():
            plugins.resolve(name, group)
            assert plugins.describe(location) != "(not described)", name
