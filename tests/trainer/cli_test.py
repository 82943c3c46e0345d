import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gone import python_path

from trainer import cli
from trainer.errors import add_place
from trainer.run_folder import has_results

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMIT = ["--config.callbacks.limit.target=time_limit"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_config.py").write_text((HERE / "toy_config.py").read_text())
    return tmp_path


@pytest.fixture
def main(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return call


def trainer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = python_path(ROOT, HERE)
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ([], 2, ["give a config", "--config=configs/NAME.py:PRESET"]),
        (["--confg=x"], 2, ["unknown flag --confg", "'--config'"]),
        (["--steps=3", "--config=x"], 2, ["unknown flag --steps", "--config.steps="]),
        (["toy_config.py"], 2, ["unexpected argument 'toy_config.py'"]),
        (["--config"], 2, ["--config needs a value"]),
        (["--config=a", "--config=b"], 2, ["--config is given twice"]),
        (
            ["--config=toy_config.py", "--config.seed=1", "--config.seed=2"],
            2,
            ["--config.seed is given twice, as 1 and as 2"],
        ),
        (["--config=toy_config.py", "--mode=fti"], 2, ["no mode 'fti'", "Did you mean 'fit'"]),
        (["--config=toy_config.py", "--fast_dev_run", "--mode=csv"], 2, ["--fast_dev_run is for --mode=fit", "csv"]),
        (["--config=toy_config.py", "--fast_dev_run", "--mode=eval"], 2, ["--fast_dev_run is for --mode=fit", "eval"]),
        (["--config=toy_config.py", "--checkpoint=best"], 2, ["--checkpoint is for --mode=eval, not for --mode=fit"]),
        (["--config=toy_config.py", "--distributed=a:1,2"], 2, ["expected auto, or HOST:PORT,COUNT,INDEX"]),
        (["--config=toy_config.py", "--distributed=a:b,1,0"], 2, ["'a:b' is no HOST:PORT", "1 to 65535"]),
        (["--config=toy_config.py", "--distributed=a:65536,1,0"], 2, ["'a:65536' is no HOST:PORT"]),
        (["--config=toy_config.py", "--distributed=:1234,1,0"], 2, ["':1234' is no HOST:PORT"]),
        (["--config=toy_config.py", "--distributed=a:1234,0,0"], 2, ["number of processes is 0", "1 or more"]),
        (["--config=toy_config.py", "--distributed=a:1234,2,2"], 2, ["has the number 2; of 2, expected 0 to 1"]),
        (["--config=toy_config.py:frist"], 1, ["no preset 'frist'", "Did you mean 'first'"]),
        (["--config=toy_config.py", "--config.stpes=3"], 1, ["'stpes'", "Did you mean 'steps'"]),
        (["--config=toy_config.py", "--config.steps=x"], 1, ["--config.steps=x", "a whole number"]),
        (["--config=toy_config.py", "--config.steps=0"], 1, ["steps = 0", "--config.steps=1000"]),
        (["--config=toy_config.py", "--config.name="], 1, ["no run name", "--config.name=NAME"]),
        (["--config=toy_config.py", "--config.name=../x"], 1, ["'../x'", "below 'logs'", "--workdir"]),
        (["--config=toy_config.py", "--config.name=a\\b"], 1, ["backslash", "plain name"]),
        (["--config=toy_config.py", "--config.name=a\nb"], 1, ["control character", "plain name"]),
        (["--config=toy_config.py", "--config.name=."], 1, ["'.'", "below 'logs'"]),
        (["--config=toy_config.py", f"--config.name={300 * 'x'}"], 1, ["'xxx", "has 300 bytes", "a shorter one"]),
        (["--config=toy_config.py", "--config.task.target=toy_parts:Lien"], 1, ["no 'Lien'", "'Line'"]),
        (["--config=toy_config.py", "--config.callbacks.a.target=progres"], 1, ["'progres'", "'progress'"]),
        (["--config=toy_config.py", "--config.callbacks.a.b=1"], 1, ["callbacks.a", "'target'"]),
        (["--config=toy_config.py", "--config.upstream.a.run=x"], 1, ["no run in x", "upstream.a.config"]),
        (["--config=toy_config.py", "--config.upstream.a.rnu=x"], 1, ["upstream.a", "'run'"]),
        (
            ["--config=toy_config.py", "--config.data.target=toy_parts:Absent"],
            1,
            ["no such data set 'absent'", "`make data`"],
        ),
        (["--config=toy_config.py", "--config.optimizer.name=addam"], 1, ["'addam'", "'adam'"]),
        (
            ["--config=toy_config.py", "--config.sharding_rules=(a,b)"],
            1,
            ["sharding_rules has 'a'", "(REGEX, (AXIS, …))"],
        ),
        (
            ["--config=toy_config.py", "--config.sharding_rules=(('[wv](a|b)?', ('fdsp', none)),)"],
            1,
            ["'[wv](a|b)?' → ('fdsp', None)", "no axis 'fdsp'", "Did you mean 'fsdp'"],
        ),
        (
            ["--config=toy_config.py", *LIMIT, "--config.callbacks.limit.seconds=nan"],
            1,
            ["callbacks.limit (time_limit): seconds must be a number, not 'nan'"],
        ),
        (
            ["--config=toy_config.py", "--config.accumulate=3"],
            1,
            ["training data has batches of 8 rows", "into accumulate = 3 parts", "a multiple of 3"],
        ),
        (
            ["--config=toy_config.py", "--config.accumulate=3", "--mode=dry_run"],
            1,
            ["training data has batches of 8 rows", "into accumulate = 3 parts", "a multiple of 3"],
        ),
        (
            ["--config=toy_config.py:second", "--config.data.batch_size=9", "--config.accumulate=2"],
            1,
            ["training data has batches of 9 rows", "into accumulate = 2 parts"],
        ),
        (["--config=toy_config.py", "--config.task.width=0"], 1, ["tasks", "width = 0"]),
        (["--config=toy_config.py", "--mode=eval"], 1, ["nothing to evaluate in logs/first", "--mode=fit"]),
        (["--config=logs/first/config.json"], 1, ["no config 'logs/first/config.json'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(main, folder, arguments, code, parts):
    returned, out, error = main(*arguments)
    assert (returned, out) == (code, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert all(part in error for part in parts), error
    assert [p.name for p in folder.iterdir()] == ["toy_config.py"]


def test_debug_shows_the_traceback(folder):
    with pytest.raises(cli.UserError):
        cli.main(["--config=toy_config.py", "--config.stpes=3", "--debug"])


def test_a_bug_keeps_its_traceback_and_ctrl_c_gives_130(monkeypatch, main):
    def raises(error):
        def load(_):
            raise error

        return load

    monkeypatch.setattr(cli, "load_config", raises(KeyboardInterrupt()))
    assert main("--config=x") == (130, "", "interrupted\n")
    monkeypatch.setattr(cli, "load_config", raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["--config=x"])


def test_only_notes_of_our_own_are_shown(monkeypatch, main):
    def load(_):
        error = cli.UserError("it cannot work.")
        error.add_note("For simplicity, JAX has removed its internal frames.")
        add_place(error, "the evaluator 'mine' at step 3")
        raise error

    monkeypatch.setattr(cli, "load_config", load)
    assert main("--config=x")[2] == "error: it cannot work. (raised in the evaluator 'mine' at step 3)\n"


def test_values_may_stand_apart_from_their_flags(main):
    out = json.loads(main("--config", "toy_config.py:first", "--config.seed", "-3", "--mode", "print_config")[1])
    assert out["seed"] == -3


def test_print_config_shows_overrides_and_can_be_used_as_a_config(main, folder):
    code, out, error = main("--config=toy_config.py:second", "--config.task.nested.limit=3", "--mode=print_config")
    assert (code, error) == (0, "")
    config = json.loads(out)
    assert config["task"]["nested"]["limit"] == 3
    assert config["upstream"]["base"]["run"] == "logs/first"
    (folder / "mine.json").write_text(out)
    assert json.loads(main("--config=mine.json", "--mode=print_config")[1]) == config


def test_help_and_list_do_not_import_jax_and_touch_nothing(folder):
    for flag, parts in [
        ("--help", ["usage:", "optimizer.learning_rate", "examples:", "75"]),
        (
            "--mode=list",
            [
                "callbacks (trainer.callbacks):",
                "progress",
                "A bar on a terminal",
                "writers",
                "jsonl",
                "configs:",
                "what tasks evaluate by themselves:",
            ],
        ),
    ]:
        code = (
            "import sys\nfrom trainer.cli import main\n"
            f"assert main([{flag!r}]) == 0\n"
            "heavy = {'jax', 'optax', 'orbax', 'numpy.random', 'grain'} & set(sys.modules)\nassert not heavy, heavy\n"
        )
        path = {**os.environ, "PYTHONPATH": python_path(ROOT)}
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path).stdout
        assert all(part in out for part in parts), out
    assert [p.name for p in folder.iterdir()] == ["toy_config.py"]


def test_a_run_is_trained_continued_evaluated_and_protected_from_other_configs(main, folder):
    first = ["--config=toy_config.py:first"]
    assert main(*first)[0] == 0
    run = folder / "logs" / "first"
    stored = json.loads((run / "config.json").read_text())
    assert stored["config"]["steps"] == 4
    assert stored["version"]
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [2, 4]

    assert main(*first)[0] == 0  # finished: nothing to do
    assert main(*first, "--config.root=./logs", "--config.upstream_autotrain=false")[0] == 0
    assert (run / "config.json").read_bytes() == before[run / "config.json"]

    code, _, error = main(*first, "--config.seed=1", "--config.steps=8")
    assert code == 1
    assert "seed: 0 → 1" in error
    assert "steps: 4 → 8" in error
    assert "length is part of its config" in error
    assert "python -m trainer --config=logs/first/config.json" in error
    assert "--config.name=NAME" in error
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before

    # The way out that the message names, and an evaluation that measures something else.
    assert main("--config=logs/first/config.json")[0] == 0
    code, _, error = main(
        "--config=logs/first/config.json", "--mode=eval", "--config.writers.console.target=console",
        "--config.evaluators.c.target=toy_parts:Constant", "--config.evaluators.c.value=7.0",
    )  # fmt: skip
    assert code == 0
    assert "constant/value 7" in error
    assert "constant/width 4" in error
    assert "eval/loss" in error
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert main("--config=logs/first/config.json", "--mode=eval", "--config.seed=1")[0] == 1


def test_the_best_checkpoint_is_evaluated_as_it_was_in_training(main, folder):
    best = ["--config.best_metric=eval/loss", "--config.best_mode=max", "--config.keep_best=1", "--config.eval_every=1"]
    run = ["--config=toy_config.py:first", "--config.steps=9", "--config.keep_checkpoints=1", *best]
    assert main(*run)[0] == 0
    lines = [json.loads(line) for line in (folder / "logs/first/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}
    step = max(losses, key=losses.get)
    assert step != 9
    for which, wanted in (("best", losses[step]), ("last", losses[9]), (str(step), losses[step])):
        code, _, printed = main(*run, "--mode=eval", f"--checkpoint={which}", "--config.writers.console.target=console")
        assert code == 0
        assert f"eval/loss {wanted:.5g}" in printed
    code, _, error = main(*run, "--mode=eval", "--checkpoint=5")
    assert (code, error.count("\n")) == (1, 1)
    assert "5" in error


def test_a_stored_config_has_no_presets(main, folder):
    assert main("--config=toy_config.py:first")[0] == 0
    assert main("--config=logs/first/config.json:first")[::2] == (
        1, "error: logs/first/config.json:first: a stored config has no presets; give it without :first.\n",
    )  # fmt: skip


def test_workdir_is_the_run_folder(main, folder):
    assert main("--config=toy_config.py:first", "--workdir=elsewhere/deep")[0] == 0
    assert has_results(folder / "elsewhere" / "deep")
    assert not (folder / "logs").exists()


def test_a_config_that_never_ran_may_be_corrected(main, folder):
    run = folder / "logs" / "first"
    run.mkdir(parents=True)
    out = main("--config=toy_config.py:first", "--config.seed=5", "--mode=print_config")[1]
    (run / "config.json").write_text(out)
    assert main("--config=toy_config.py:first")[0] == 0
    assert json.loads((run / "config.json").read_text())["config"]["seed"] == 0


@pytest.mark.parametrize("kind", ["foreign", "file", "unwritable", "damaged"])
def test_a_folder_that_cannot_be_used_is_left_alone(main, folder, kind):
    place = folder / "place"
    arguments = ["--config=toy_config.py:first", "--workdir=place"]
    if kind == "foreign":
        place.mkdir()
        (place / "thesis.tex").write_text("mine")
        expected = ["holds files but no config.json", "thesis.tex", "--workdir"]
    elif kind == "file":
        place.write_text("mine")
        expected = ["the run folder place is a file"]
    elif kind == "unwritable":
        place.write_text("mine")
        arguments[1] = "--workdir=place/below"
        expected = ["run folder place/below", "Not a directory"]
    else:
        place.mkdir()
        (place / "config.json").write_text("{")
        expected = ["place/config.json is not JSON"]
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out, error = main(*arguments)
    assert (code, out, error.count("\n")) == (1, "", 1), error
    assert all(part in error for part in expected), error
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_run_that_another_process_uses_is_refused(main, folder):
    import fcntl

    run = folder / "logs" / "first"
    run.mkdir(parents=True)
    with (run / ".lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        code, _, error = main("--config=toy_config.py:first")
    assert code == 1
    assert "Another process" in error
    assert not (run / "config.json").exists()


def test_dry_run_reports_sizes_and_writes_nothing(main, folder):
    code, out, error = main("--config=toy_config.py:second", "--mode=dry_run")
    assert code == 0, error
    assert json.loads(out)["parameters"] == 12
    assert [p.name for p in folder.iterdir()] == ["toy_config.py"]


def test_dry_run_compiles_for_devices_that_are_not_there(folder):
    done = trainer("--config=toy_config.py", "--mode=dry_run", "--simulated_devices=4", "--config.mesh_shape=(2,2)")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["devices"], report["mesh"]) == ("4 × cpu", {"data": 2, "fsdp": 2})
    assert report["collectives"]["all-reduce"]["count"] >= 1  # the gradient, summed over the batch's parts
    assert report["memory_bytes"]["argument"] < 2 * report["state_bytes"]
    refused = trainer("--config=toy_config.py", "--mode=dry_run", "--simulated_devices=four")
    message = "error: --simulated_devices=four: expected a number of devices, 1 or more.\n"
    assert (refused.returncode, refused.stderr) == (2, message)


def test_the_command_line_as_a_process(folder):
    done = trainer("--config=toy_config.py:first")
    assert (done.returncode, done.stdout) == (0, "")
    refused = trainer("--config=toy_config.py:first", "--config.steps=x")
    assert refused.returncode == 1
    assert refused.stderr == "error: --config.steps=x: 'x' is not a whole number.\n"
