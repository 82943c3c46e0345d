"""Plugins with a mistake: the command says in one line which and what, and leaves no trace of a run."""

from pathlib import Path

import pytest
from acme_site import config, install, lay_out

from trainer import cli, plugins

TASK, DATA, CALLBACK = "--config.task.target=", "--config.data.target=", "--config.callbacks.mine.target="
WRITER, EVALUATOR, OPTIMIZER = (
    "--config.writers.mine.target=", "--config.evaluators.mine.target=", "--config.optimizer.name=",
)  # fmt: skip
LOSS = "It must be: def loss(self, params, frozen, batch, *, rng, step, extra, train)"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    return lay_out(tmp_path, monkeypatch)


@pytest.fixture
def refused(packages, capsys):
    """Asserts that a command fails with one line that has these parts, and leaves everything as it was."""

    def check(arguments, parts, without="nothing"):
        command = f"{config('place', 'acme_bare', without=without)}:acme_bare"
        before = {path for path in Path().rglob("*") if "__pycache__" not in path.parts}
        code = cli.main([command, *arguments])
        printed = capsys.readouterr().err
        assert code == 1, printed
        assert printed.startswith("error: "), printed
        assert printed.count("\n") == 1, printed
        for part in parts:
            assert part in printed
        assert {path for path in Path().rglob("*") if "__pycache__" not in path.parts} == before

    return check


@pytest.mark.parametrize(
    ("flag", "part", "parts"),
    [
        (TASK, "BareLoss", ["BareLoss.loss returned float32[]", "expected trainer.LossOutput(loss, metrics, extra)"]),
        (TASK, "TupleLoss", ["TupleLoss.loss returned a tuple", "expected trainer.LossOutput"]),
        (TASK, "LossOfRows", ["LossOfRows.loss returned float32[8] as the loss", "such as a mean"]),
        (TASK, "WholeLoss", ["WholeLoss.loss returned int32[] as the loss", "expected one float"]),
        (TASK, "MetricOfRows", ["MetricOfRows.loss: metrics must be scalars; 'errors' is float32[8, 1]"]),
        (TASK, "NoExtra", ["NoExtra.loss returned an extra of the form {}; expected {'scale': 'float32[]'}"]),
        (TASK, "LossWithoutTrain", ["tasks (broken_parts:LossWithoutTrain)", "unexpected keyword", "'train'", LOSS]),
        (TASK, "LossOfTwo", ["LossOfTwo.loss: too many positional arguments", LOSS]),
        (TASK, "OwnOptimizer", ["broken_parts:OwnOptimizer.optimizer returned a function", "init and update"]),
        (TASK, "OwnEvaluators", ["evaluator 'mean'", "is a function, which does not inherit from trainer.task"]),
        (TASK, "OwnEvaluatorWithoutStep", ["evaluator 'mean' (broken_parts:WithoutStep)", "argument 'step'"]),
        (DATA, "Generator", ["(broken_parts:Generator)", "is a generator without get_state, set_state"]),
        (DATA, "LostPosition", ["(broken_parts:LostPosition)", "get_state returned a NoneType", "expected a dict"]),
        (DATA, "ArrayPosition", ["get_state returned {'count': ", "int64 is not JSON serializable"]),
        (DATA, "FixedPosition", ["_Fixed.set_state: too many positional arguments", "def set_state(self, state)"]),
        (DATA, "Lists", ["(broken_parts:Lists): x/0/0 in a batch holds a float; expected numpy arrays"]),
        (DATA, "Pairs", ["(broken_parts:Pairs): a batch is a tuple; expected a dict of numpy arrays"]),
        (DATA, "Nowhere", ["is a NoneType without __next__, get_state, set_state"]),
        (DATA, "OneProcess", ["data (broken_parts:OneProcess)", "'process_index'", "def iterator(self, *, seed"]),
        (DATA, "ArrayFingerprint", ["fingerprint returned {'sides': array([0, 1, 2, 3])}", "JSON"]),
        (OPTIMIZER, "gradient_descent", ["'broken_parts:gradient_descent' returned a function", "optax.Gradient"]),
        (OPTIMIZER, "demanding", ["'broken_parts:demanding' cannot be built", "'momentum'"]),
        (OPTIMIZER, "choosy", ["'broken_parts:choosy' cannot be built: momentum = 0.5 must be below 0"]),
        (EVALUATOR, "WithoutStep", ["evaluators.mine", "unexpected keyword argument 'step'", "batches, step)"]),
        (CALLBACK, "Misspelt", ["callbacks.mine", "Misspelt.on_step_ends would never be called", "mean 'on_step_end'"]),
        (CALLBACK, "HookOfOne", ["HookOfOne.on_step_end: too many", "def on_step_end(self, run, metrics)"]),
        (CALLBACK, "StateOfTwo", ["StateOfTwo.load_state: missing", "def load_state(self, state)"]),
        (WRITER, "Unstepped", ["writers.mine", "Unstepped.write_scalars: too", "write_scalars(self, step, scalars)"]),
        (WRITER, "MisspeltWriter", ["MisspeltWriter.write_scalar would never be called", "mean 'write_scalars'"]),
    ],
)  # fmt: skip
def test_a_plugin_with_a_mistake_is_refused_before_anything_is_written(refused, flag, part, parts):
    refused([f"{flag}broken_parts:{part}"], parts, without="momentum" if flag == OPTIMIZER else "nothing")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([f"{TASK}import_error:Part"], ["'import_error:Part' cannot be imported", "No module named 'no_such_library'"]),
        ([f"{CALLBACK}bad"], ["callbacks plugin 'bad' cannot be imported", "No module named 'no_such_library'"]),
        ([f"{TASK}acme.parts:Bell"], ["is a Bell, which does not inherit from trainer.task.Task"]),
        ([f"{CALLBACK}acme.bare:Bare"], ["is a Bare, which does not inherit from trainer.callbacks.Callback"]),
        ([f"{EVALUATOR}acme.bare:Bare"], ["is a Bare, which does not inherit from trainer.task.Evaluator"]),
        ([f"{WRITER}acme.bare:Bare"], ["is a Bare without write_scalars"]),
        ([f"{DATA}broken_parts:NoSource"], ["is a NoSource without prepare, iterator, fingerprint"]),
        ([f"{TASK}trainer:Task"], ["lacks init_params, loss, which trainer.tasks needs"]),
        ([f"{EVALUATOR}trainer:Evaluator"], ["lacks evaluate, which trainer.evaluators needs"]),
        ([f"{CALLBACK}acme_bell", "--config.callbacks.mine.evry=2"], ["takes no argument 'evry'", "mean 'every'"]),
        (["--config.data.side=2"], ["no field 'data.side'", "Did you mean 'sides'"]),
        (["--config.optimizer.options.momentun=1"], ["takes no option 'momentun'", "Did you mean 'momentum'"]),
        (["--config.optimizer.options.momentum=x"], ["options.momentum=x: 'x' is not a number"]),
        ([f"{CALLBACK}acme_bel"], ["no plugin 'acme_bel'", "Did you mean 'acme_bell'"]),
        ([f"{CALLBACK}twice"], ["'twice'", "acme.parts:Bell (one)", "acme.parts:Other (two)"]),
    ],
)  # fmt: skip
def test_what_cannot_be_found_or_built_is_refused_before_anything_is_written(packages, refused, arguments, parts):
    (packages / "import_error.py").write_text("import no_such_library\nclass Part: ...\n")
    install(packages, "one", {"callbacks": {"twice": "acme.parts:Bell", "bad": "import_error:Part"}})
    install(packages, "two", {"callbacks": {"twice": "acme.parts:Other"}})
    refused(arguments, parts)


@pytest.mark.parametrize("part", ["ReturnsDict", "ReturnsRows"])
def test_what_an_evaluator_returns_is_refused_where_evaluators_are_tried_out(packages, refused, part, capsys):
    what = {"ReturnsDict": "returned a dict; expected trainer.Evaluation", "ReturnsRows": "the scalar 'mean' is array"}
    parts = [f"evaluator 'mine' (broken_parts:{part})", what[part], "--fast_dev_run"]
    flag = f"{EVALUATOR}broken_parts:{part}"
    command = f"{config('place', 'acme_bare')}:acme_bare"
    assert cli.main([command, flag, "--fast_dev_run"]) == 1
    printed = capsys.readouterr().err
    assert all(text in printed.splitlines()[-1] for text in parts), printed
    assert not Path("logs").exists()
    assert cli.main([command, flag, "--config.sanity_eval=1"]) == 1  # before the first step
    printed = capsys.readouterr().err
    assert all(text in printed.splitlines()[-1] for text in parts), printed
    assert not Path("logs/acme_bare/metrics.jsonl").exists()


CLASHES = {
    "callbacks": {"progress": "acme.parts:Bell", "time_limit": "acme.parts:Bell"},
    "writers": {"media": "acme.parts:Notebook"},
    "optimizers": {"adam": "acme.parts:sign_descent", "muon": "acme.parts:sign_descent"},
}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([f"{CALLBACK}time_limit"], ["acme.parts:Bell (rude)", "trainer.callbacks.time_limit:TimeLimit (built in)"]),
        ([f"{CALLBACK}progress"], ["acme.parts:Bell (rude)", "trainer.callbacks.progress:Progress (built in)"]),
        ([f"{WRITER}media"], ["acme.parts:Notebook (rude)", "trainer.writers.media:MediaWriter (built in)"]),
        ([f"{OPTIMIZER}muon"], ["acme.parts:sign_descent (rude)", "trainer.optimizers:muon (built in)"]),
    ],
)
def test_a_name_that_a_built_in_has_too_is_refused(packages, refused, arguments, parts):
    install(packages, "rude", CLASHES)
    refused(arguments, [*parts, "Give the one that you mean in its place, as module:Class"])


def test_a_package_that_takes_names_of_built_ins_leaves_configs_alone_that_do_not_ask_for_them(
    packages, capsys, caplog
):
    plugins._warn_once.cache_clear()
    install(packages, "rude", CLASHES)
    command = f"{config('place', 'acme_bare', without='momentum')}:acme_bare"
    entries = {"limit": "trainer.callbacks.time_limit:TimeLimit", "foreign": "acme.parts:Bell"}
    options = [f"--config.callbacks.{name}.target={place}" for name, place in entries.items()]
    options += ["--config.callbacks.limit.seconds=1000", "--config.steps=4", f"{OPTIMIZER}adam"]
    assert cli.main([command, *options]) == 0, capsys.readouterr().err
    assert list(Path("logs/acme_bare").glob("*tfevents*"))  # of the built-in writer
    said = [record.getMessage() for record in caplog.records if "'progress'" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith("The built-in one is used, as the config does not ask for another.")
    assert cli.main(["--mode=list"]) == 0
    listed = capsys.readouterr().out
    for name, theirs, ours in (
        ("progress", "acme.parts:Bell (rude)", "trainer.callbacks.progress:Progress (built in)"),
        ("adam", "acme.parts:sign_descent (rude)", "optax:adam (built in)"),
    ):
        assert f"! {name!r} is defined more than once: {theirs}, {ours}" in listed
