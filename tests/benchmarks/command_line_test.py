import json
import subprocess

import jax
import pytest

from benchmarks import __main__ as command_line
from benchmarks import runner
from benchmarks.machine import describe
from benchmarks.options import Options

NAMES = (
    "tokenizer_train_step", "dynamics_train_step", "heads_train_step", "rl_train_step", "generate", "data_pipeline",
    "startup", "trainer_overhead",
)  # fmt: skip


def fake(options):
    return {"frames_per_s": 2.0, "rows": options.rows, "keys": dict(options.overrides)}


@pytest.fixture
def fakes(monkeypatch):
    """All benchmarks, each a constant."""
    for name in NAMES:
        monkeypatch.setitem(runner.BENCHMARKS, name, fake)


def test_the_names_are_those_that_tools_rely_on():
    assert tuple(runner.BENCHMARKS) == NAMES


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--only=tokeniser", "invalid choice: 'tokeniser' (choose from"),
        ("--onlyy=generate", "unexpected argument '--onlyy=generate'"),
        ("--batch=0", "--batch=0: expected 1 or more"),
    ],
)
def test_what_is_no_argument_is_refused(argument, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line.main([argument])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--preset=tpu", "configs/dynamics.py:tpu has no preset 'tpu'"),
        ("--config.data.lenght=8", "the config has no field 'data.lenght'. Did you mean 'length'"),
    ],
)
def test_a_config_that_is_none_is_told_in_a_line(argument, said, capsys):
    assert command_line.main(["--only=dynamics_train_step", argument]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


def test_one_benchmark_prints_json_and_a_table_and_writes_a_file(fakes, tmp_path, capsys):
    file = tmp_path / "figures.json"
    overrides = ["--config.data.length=32", "--config.seed=1"]
    assert command_line.main(["--only=generate", f"--json={file}", *overrides]) == 0
    printed, table = capsys.readouterr().out.split("\n\n")
    expected = {"frames_per_s": 2.0, "rows": 8, "keys": {"data.length": "32", "seed": "1"}}
    assert json.loads(printed) == {"generate": expected}
    assert [line.split()[0] for line in table.splitlines()] == ["benchmark", "generate"]
    stored = json.loads(file.read_text())
    assert stored["generate"] == expected
    assert stored["machine"]["devices"] == jax.device_count()
    assert stored["machine"].keys() == describe().keys()


def test_all_benchmarks_run_apart_and_one_that_fails_keeps_no_other_from_it(monkeypatch, tmp_path, capsys):
    def apart(name, options):
        return {name: {"error": "no device"}} if name == "generate" else {"machine": {"cores": 2}, name: fake(options)}

    monkeypatch.setattr(runner, "run_apart", apart)
    file = tmp_path / "figures.json"
    assert command_line.main([f"--json={file}", "--preset=cpu", "--batch=3"]) == 1
    stored = json.loads(file.read_text())
    assert tuple(stored) == ("machine", *NAMES)
    assert stored["machine"] == {"cores": 2}
    assert stored["generate"] == {"error": "no device"}
    assert stored["startup"]["rows"] == 3
    assert "\ngenerate: no device\n" in capsys.readouterr().out


def test_an_error_comes_back_from_another_process():
    assert "has no preset 'tpu'" in runner.run_apart("data_pipeline", Options(preset="tpu"))["data_pipeline"]["error"]


def test_a_benchmark_that_was_killed_is_not_taken_for_what_it_said_last(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, stderr="Prepared bouncing_square\n")
    monkeypatch.setattr(runner.subprocess, "run", lambda *args, **kwargs: killed)
    assert runner.run_apart("startup", Options()) == {"startup": {"error": "ended with -9: Prepared bouncing_square"}}
