import pytest
import toy_parts
from ml_collections import ConfigDict

from trainer import plugins
from trainer.errors import ConfigError
from trainer.listing import describe


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


@pytest.mark.parametrize(
    ("group", "spec", "parts"),
    [
        (
            "callbacks",
            {"target": "time_limit", "seconds": "abc"},
            ["(time_limit)", "seconds must be a number, not 'abc'"],
        ),
        ("callbacks", {"target": "time_limit", "seconds": True}, ["seconds must be a number, not True"]),
        (
            "callbacks",
            {"target": "early_stopping", "metric": "a", "patience": "x"},
            ["patience must be a whole number"],
        ),
        ("callbacks", {"target": "early_stopping", "metric": "a", "patience": 1.5}, ["a whole number, not 1.5"]),
        ("callbacks", {"target": "early_stopping", "metric": "a", "mode": "down"}, ["'min' or 'max', not 'down'"]),
        ("callbacks", {"target": "profiler", "steps": "a"}, ["steps must be a whole number, not 'a'"]),
        ("writers", {"target": "media", "fps": "fast"}, ["fps must be a number, not 'fast'"]),
        ("writers", {"target": "media", "fps": 0}, ["fps = 0 must be above 0"]),
        ("writers", {"target": "tensorboard", "fps": -1.0}, ["fps = -1.0 must be above 0"]),
        ("evaluators", {"target": "toy_parts:Constant", "value": "x"}, ["evaluators.x", "value must be a number"]),
        ("tasks", {"target": "toy_parts:Line", "scale": None}, ["scale must be a number, not None"]),
        ("tasks", {"target": "toy_parts:Line", "nested": 3}, ["cannot be built", "--debug"]),
        ("tasks", {"target": "toy_parts:Later", "width": "x"}, ["cannot be built: '<' not supported", "--debug"]),
    ],
)
def test_a_setting_of_another_type_gets_one_line(tmp_path, group, spec, parts):
    with pytest.raises(ConfigError) as e:
        plugins.build(ConfigDict(spec), group, "x", folder=tmp_path)
    assert all(part in str(e.value) for part in parts), e.value
    assert "\n" not in str(e.value)


def test_settings_that_fit_pass(tmp_path):
    assert plugins.build({"target": "time_limit", "seconds": 3}, "callbacks").seconds == 3
    assert plugins.build({"target": "toy_parts:Line", "scale": 2}, "tasks").scale == 2
    assert plugins.build({"target": "toy_parts:Later", "width": None, "other": object()}, "tasks").width == 4


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
    assert describe(plugins.available("tasks")["line"]).startswith("Fits y = x w")
    assert "no package 'no_such_thing'" in describe(plugins.available("tasks")["absent"])


def test_every_built_in_name_can_be_loaded_and_is_described():
    for group, names in plugins.BUILTIN.items():
        for name, location in names.items():
            plugins.resolve(name, group)
            assert describe(location) != "(not described)", name
