"""Plugins of every kind from somebody else's package: by entry point, by module:Class, and refused with help."""

import json
from pathlib import Path

import pytest
from acme_site import KINDS, config, install, lay_out

from trainer import cli, plugins
from trainer.errors import ConfigError


@pytest.fixture
def packages(tmp_path, monkeypatch):
    return lay_out(tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", ["name", "place"])
@pytest.mark.parametrize("task", KINDS["tasks"])
def test_a_run_of_foreign_parts_alone_learns_and_continues(packages, kind, task, capsys):
    command = config(kind, *KINDS["tasks"])
    assert cli.main([f"{command}:{task}"]) == 0, capsys.readouterr().err
    run = Path("logs") / task
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {name: value for line in lines for name, value in line.items()}
    assert last["train/loss"] < lines[0]["train/loss"] / 2
    assert last["bell/rung"] == 10.0
    assert last["ruler/length"] > 0.5
    assert f"40,eval/loss,{last['eval/loss']}" in (run / "notebook.csv").read_text()
    assert (run / "report.html").exists()
    assert cli.main([f"{command}:{task}"]) == 0  # nothing left to do
    assert cli.main([f"{command}:{task}", "--mode=eval"]) == 0


def test_all_of_them_are_listed_with_a_line_each(packages, capsys):
    assert cli.main(["--mode=list"]) == 0
    listed = capsys.readouterr().out
    for names in KINDS.values():
        for name, (_, about) in names.items():
            assert any(line.split()[0] == name and line.endswith(about) for line in listed.splitlines() if line), name


def test_the_list_has_configs_evaluators_of_tasks_and_kinds_of_plugins_that_tasks_look_up(packages, capsys):
    install(
        packages, "zoo",
        {"animals": {"cat": "zoo:Cat"}, "tasks": {"feed": "zoo:Feed", "rest": "zoo:Cat"}},
    )  # fmt: skip
    (packages / "zoo.py").write_text(
        'raise RuntimeError("imported")\n'
        'class Cat:\n    """Purrs."""\n'
        'class Feed:\n    """Feeds."""\n    def evaluators(self):\n        """Who is still hungry."""\n'
    )
    Path("configs").mkdir()
    Path("configs/lunch.py").write_text('"""A light lunch.\n\nAt noon."""\ndef get_config(preset): ...\n')
    Path("configs/plain.py").write_text("def get_config(preset): ...\n")
    assert cli.main(["--mode=list"]) == 0
    blocks = {block.splitlines()[0]: block.splitlines()[1:] for block in capsys.readouterr().out.split("\n\n")}
    assert blocks["animals (trainer.animals):"] == ["  cat  Purrs."]
    own = [line.split(None, 1) for line in blocks["what tasks evaluate by themselves:"]]
    assert ["feed", "Who is still hungry."] in own
    assert "rest" not in dict(own)
    configs = {name: rest for name, rest in (line.split(None, 1) for line in blocks["configs:"])}
    assert configs["configs/lunch.py"] == "A light lunch."
    assert configs["configs/plain.py"] == "(not described)"
    with pytest.raises(ConfigError, match=r"no plugin 'catt' in trainer\.animals\. Did you mean 'cat'"):
        plugins.resolve("catt", "animals")


BROKEN = {
    "import_error.py": "import no_such_library\nclass Part: ...\n",
    "wrong_base.py": "class Part:\n    def __init__(self, **_): ...\n",
    "missing_method.py": (
        "from trainer import Evaluator, Task\nclass Part(Task):\n    def init_params(self, rng, batch): ...\n"
        "class Measure(Evaluator): ...\n"
        "class Source:\n    def prepare(self): ...\n    def fingerprint(self): ...\n"
        "class Paper:\n    def write_scalars(self, step, scalars): ...\n"
    ),
    "arguments.py": (
        "from trainer import Callback\nclass Part(Callback):\n"
        "    def __init__(self, volume: int):\n        super().__init__()\n"
        "def descent(learning_rate, momentum=0.9): ...\ndef no_rate(momentum=0.9): ...\n"
    ),
}


@pytest.mark.parametrize(
    ("group", "spec", "parts"),
    [
        ("tasks", {"target": "import_error:Part"}, ["cannot be imported", "No module named 'no_such_library'"]),
        ("callbacks", {"target": "bad"}, ["'bad' cannot be imported", "import_error: ModuleNotFoundError"]),
        ("tasks", {"target": "wrong_base:Part"}, ["does not inherit from trainer.task.Task"]),
        ("callbacks", {"target": "wrong_base:Part"}, ["does not inherit from trainer.callbacks.Callback"]),
        ("evaluators", {"target": "wrong_base:Part"}, ["does not inherit from trainer.task.Evaluator"]),
        ("tasks", {"target": "missing_method:Part"}, ["Part lacks loss, which trainer.tasks needs"]),
        ("evaluators", {"target": "missing_method:Measure"}, ["Measure lacks evaluate"]),
        ("data", {"target": "missing_method:Source"}, ["Source without iterator"]),
        ("writers", {"target": "missing_method:Paper"}, ["Paper without write_images"]),
        ("callbacks", {"target": "arguments:Part", "volum": 3}, ["takes no argument 'volum'", "Did you mean 'volume'"]),
        ("callbacks", {"target": "arguments:Part"}, ["needs 'volume': give it in the config"]),
        ("tasks", {"target": "acme_bear"}, ["no plugin 'acme_bear'", "Did you mean 'acme_bare'"]),
        ("tasks", {"target": "twice"}, ["'twice' is defined more than once", "acme.bare:Bare (one)",
                                        "acme.linen_task:Linen (two)", "in its place, as module:Class"]),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_refused_with_what_is_wrong_with_it(packages, group, spec, parts):
    for name, text in BROKEN.items():
        (packages / name).write_text(text)
    install(packages, "one", {"tasks": {"twice": "acme.bare:Bare"}, "callbacks": {"bad": "import_error:Part"}})
    install(packages, "two", {"tasks": {"twice": "acme.linen_task:Linen"}})
    with pytest.raises(ConfigError) as error:
        plugins.build(spec, group, "x")
    assert all(part in str(error.value) for part in parts), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("arguments:no_rate", {}, "has no argument 'learning_rate'"),
        ("arguments:descent", {"momentun": 1}, "Did you mean 'momentum'"),
        ("acme_sing", {}, "Did you mean 'acme_sign'"),
    ],
)
def test_a_wrong_optimizer_is_refused(packages, name, options, part):
    from trainer.config import base_config
    from trainer.optimizers import build_optimizer

    (packages / "arguments.py").write_text(BROKEN["arguments.py"])
    settings = base_config().optimizer
    settings.name = name
    settings.options = options
    with pytest.raises(ConfigError, match=part):
        build_optimizer(settings, 10)
