"""What lies in a run folder is data: reading it imports nothing and executes nothing, and no run leaves its place."""

import ast
import json
import pickle
from pathlib import Path

import pytest
from fault_runs import CONFIG, FIRST, ROOT, contents, error, result

from trainer.checkpoints.manifest import write_manifest

PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}


def dangers(source):
    """Places in a Python file that execute what they read, as "line: what"."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found = [name for name in names if name.split(".")[0].lstrip("_") in PICKLES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "builtins.eval", "builtins.exec", "__import__", "os.system"):
                found.append(called)
            if called.endswith("yaml.load") or called.endswith("read_pickle"):
                found.append(called)
            found += [
                "allow_pickle" for k in node.keywords
                if k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
            ]  # fmt: skip
        yield from (f"{node.lineno}: {name}" for name in found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import dill as json", "import joblib.pool", "import _pickle",
        "numpy.load(p, allow_pickle=True)", "numpy.load(p, allow_pickle=flag)", "eval(text)", "exec(text)",
        "yaml.load(text)", "def f():\n    import shelve", "os.system(text)",
    ],
)  # fmt: skip
def test_what_executes_data_is_recognised(source):
    assert list(dangers(source))


@pytest.mark.parametrize("package", ["trainer", "tasks", "models", "datasets", "configs", "examples", "benchmarks"])
def test_nothing_that_is_read_is_executed(package):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    assert [f"{path}:{found}" for path in files for found in dangers(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("name", ["../out", "a/../../out", "ABSOLUTE", "."])
def test_a_name_that_leads_out_of_the_root_is_refused(runs, name):
    name = str(runs.folder / "out") if name == "ABSOLUTE" else name
    before = contents(runs.folder)
    message = error(runs.run(CONFIG, f"--config.name={name}", code=1))
    assert f"the run name {name!r} does not name a folder below 'logs'" in message
    assert contents(runs.folder) == before


class Bomb:
    """Makes the file `executed` when it is unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


PICKLED = pickle.dumps(Bomb())
NESTED = b'{"a":' * 200_000 + b"1" + b"}" * 200_000
COMMAND = {"target": "os:system", "command": "touch executed"}


@pytest.fixture
def trap(runs, half):
    """Asserts at the end that nothing was executed; the module `trap` makes the file when it is imported."""
    (runs.folder / "trap.py").write_text("open('executed', 'w').close()\n")
    yield runs.folder / FIRST
    assert not (runs.folder / "executed").exists()


def test_the_traps_work(runs, trap, monkeypatch):
    monkeypatch.chdir(runs.folder)
    runs.run(CONFIG, "--config.callbacks.trap.target=trap:Absent", code=1)
    Path("executed").unlink()
    pickle.loads(PICKLED).close()
    Path("executed").unlink()


@pytest.mark.parametrize("name", ["meta.json", "data-0.json", "manifest.json"])
@pytest.mark.parametrize("data", [PICKLED, NESTED, b"[]"], ids=["pickle", "nested", "list"])
def test_a_hostile_file_in_a_checkpoint_is_damage_or_an_error(runs, trap, undisturbed, name, data):
    checkpoint = trap / "checkpoints/10"
    (checkpoint / name).write_bytes(data)
    if name != "manifest.json":
        (checkpoint / "manifest.json").unlink()
        write_manifest(checkpoint)
    process = runs.start()
    if process.end() == 0:
        assert f"{FIRST}/checkpoints/10 is damaged" in process.printed
        assert "continues at step 5" in process.printed
        assert result(trap) == undisturbed
    else:
        assert process.end() == 1
        assert "step 10" in error(process) or f"{FIRST}/checkpoints/10" in error(process)


def test_names_of_code_in_a_checkpoint_are_data(runs, trap, undisturbed):
    for step in (5, 10):
        path = trap / f"checkpoints/{step}/meta.json"
        meta = json.loads(path.read_text())
        meta["config"]["task"] = meta["config"]["data"] = COMMAND
        meta["config"]["callbacks"]["trap"] = {"target": "trap:Trap"}
        meta["__reduce__"] = meta["py/reduce"] = ["os:system", "touch executed"]
        meta["callbacks"]["Trap:trap"] = {"target": "trap:Trap"}
        meta["provenance"] = {"base": {"run": "logs/first", "config": "trap.py", "step": 3}}
        path.write_text(json.dumps(meta))
        (path.parent / "manifest.json").unlink()
        write_manifest(path.parent)
    assert "continues at step 10" in runs.run().printed
    assert result(trap) == undisturbed


@pytest.mark.parametrize(
    "data", [PICKLED, NESTED, b"[]", b'{"task": {"__reduce__": 1}}'], ids=["pickle", "nested", "list", "reduce"]
)
def test_a_hostile_file_in_the_place_of_the_stored_config_is_refused(runs, trap, data):
    (trap / "config.json").write_bytes(data)
    before = contents(trap)
    assert f"{FIRST}/config.json" in error(runs.run(code=1))
    assert contents(trap) == before


@pytest.mark.parametrize("group", ["task", "data", "evaluators"])
def test_names_of_code_in_a_stored_config_are_compared_not_called(runs, trap, group):
    path = trap / "config.json"
    stored = json.loads(path.read_text())
    entry = {"target": "trap:Trap", "reduce": ["os:system", "touch executed"]}
    stored["config"][group] = {"trap": entry, "command": COMMAND} if group == "evaluators" else entry
    path.write_text(json.dumps(stored))
    before = contents(trap)
    message = error(runs.run(code=1), lines=20)
    assert '"trap:Trap"' in message
    assert contents(trap) == before
    printed = json.loads(runs.run(f"--config={FIRST}/config.json", "--mode=print_config").printed)
    assert printed[group] == stored["config"][group]
