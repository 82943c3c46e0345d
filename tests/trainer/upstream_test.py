import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_parts

from trainer import checkpoints, cli, config, load_upstream
from trainer.errors import CheckpointError

HERE = Path(__file__).parent
SECOND = "--config=toy_config.py:second"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_config.py").write_text((HERE / "toy_config.py").read_text())
    return tmp_path


@pytest.fixture
def main(capsys):
    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(arguments)
        return code, capsys.readouterr().err

    return call


def steps(run: str) -> int:
    status = checkpoints.finished(Path(run))
    return status.step if status else 0


def test_a_missing_upstream_is_trained_first_then_used(main):
    code, error = main(SECOND)
    assert code == 0
    announced = [line for line in error.splitlines() if "upstream" in line]
    assert announced == ["upstream 'base': the run in logs/first is missing; training it first (toy_config.py:first)."]
    assert (steps("logs/first"), steps("logs/second")) == (4, 4)

    provenance = json.loads(Path("logs/second/config.json").read_text())["upstream"]["base"]
    assert (provenance["run"], provenance["step"]) == ("logs/first", 4)
    assert checkpoints.read_params(Path("logs/second")).meta["provenance"]["base"] == provenance

    before = Path("logs/first/metrics.jsonl").read_bytes()
    code, error = main(SECOND)  # all is there: nothing is announced or trained
    assert (code, "upstream" in error) == (0, False)
    assert Path("logs/first/metrics.jsonl").read_bytes() == before


def test_the_second_phase_trains_on_the_parameters_of_the_first(main):
    main(SECOND)
    second = load_upstream("logs/second")
    base = second.task.upstream["base"]
    stored = checkpoints.read_params(Path("logs/first")).params["w"]
    np.testing.assert_array_equal(base.params["w"], stored)
    np.testing.assert_array_equal(second.frozen["base"]["w"], stored)
    assert (second.step, base.step, str(base.run)) == (4, 4, "logs/first")
    batch = {"x": np.ones((2, 3), np.float32)}
    rng = jax.random.key(0)
    out = second.task.loss(second.params, second.frozen, batch, rng=rng, step=0, extra={}, train=False)
    both = np.asarray(second.params["w"]) + stored
    np.testing.assert_allclose(out.loss, np.mean((batch["x"] @ both - 1) ** 2), rtol=1e-5)


def test_upstream_is_loaded_without_its_data(main):
    main("--config=toy_config.py:first", "--config.data.log=log.txt")
    Path("log.txt").unlink()
    assert load_upstream("logs/first").task.example["x"].shape == (8, 3)
    assert not Path("log.txt").exists()


def test_without_autotrain_the_exact_command_is_given_and_it_works(main):
    code, error = main(SECOND, "--config.upstream_autotrain=false")
    assert code == 1
    assert "upstream 'base': the run in logs/first is missing" in error
    command = error.splitlines()[-1].strip()
    assert command == "python -m trainer --config=toy_config.py:first"
    assert not Path("logs").exists()
    assert main(*command.split()[3:])[0] == 0
    assert main(SECOND, "--config.upstream_autotrain=false")[0] == 0

    code, error = main(
        SECOND, "--config.name=third", "--config.upstream.base.run=other/place", "--config.upstream_autotrain=false"
    )
    assert error.splitlines()[-1].strip() == "python -m trainer --config=toy_config.py:first --workdir=other/place"


def stop_at(step: int) -> list[str]:
    return [
        "--config.callbacks.stop.target=toy_parts:StopAt", f"--config.callbacks.stop.step={step}",
        "--config.callbacks.stop.marker=stopped",
    ]  # fmt: skip


def test_an_unfinished_upstream_is_continued(main):
    assert main("--config=toy_config.py:first", "--config.eval_batches=3", *stop_at(3))[0] == 75
    assert steps("logs/first") == 3
    code, error = main(SECOND, "--config.upstream_autotrain=false")
    assert code == 1
    assert "logs/first is unfinished" in error
    command = error.splitlines()[-1].strip()
    assert command == "python -m trainer --config=logs/first/config.json"

    code, error = main(SECOND)
    assert code == 0
    assert "logs/first is unfinished; continuing it first (logs/first/config.json)" in error
    assert "differs from toy_config.py:first" in error  # in eval_batches; it is used as it is
    lines = Path("logs/first/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 4]


def test_a_resumable_stop_of_an_upstream_ends_the_program_with_75_and_both_continue(main, folder):
    text = (folder / "toy_config.py").read_text()
    stop = "{'stop': {'target': 'toy_parts:StopAt', 'step': 2, 'marker': preset}}"
    (folder / "toy_config.py").write_text(text.replace("config.callbacks = {}", f"config.callbacks = {stop}"))
    assert main(SECOND)[0] == 75
    assert (steps("logs/first"), steps("logs/second")) == (2, 0)
    assert not Path("logs/second").exists()
    assert main(SECOND)[0] == 75
    assert (steps("logs/first"), steps("logs/second")) == (4, 2)
    assert main(SECOND)[0] == 0
    assert steps("logs/second") == 4


def test_the_time_limit_covers_the_upstream_runs_of_the_command(main):
    limit = ["--config.callbacks.limit.target=time_limit", "--config.callbacks.limit.seconds=0"]
    for done in range(1, 5):
        assert main(SECOND, *limit)[0] == 75
        assert steps("logs/first") == done
        assert not Path("logs/second").exists() or done == 4
    assert main("--config=logs/first/config.json")[0] == 0
    assert main(SECOND, *limit)[0] == 75
    assert json.loads(Path("logs/first/config.json").read_text())["config"]["callbacks"] == {}
    assert main(SECOND)[0] == 0
    assert steps("logs/second") == 4


def test_an_upstream_run_that_stops_for_good_ends_neither_the_command_nor_the_next_run(main, folder):
    text = (folder / "toy_config.py").read_text()
    stop = "{'stop': {'target': 'toy_parts:StopForGood', 'step': 2}} if preset == 'first' else {}"
    (folder / "toy_config.py").write_text(text.replace("config.callbacks = {}", f"config.callbacks = {stop}"))
    code, error = main(SECOND)
    assert code == 0, error
    assert (steps("logs/first"), steps("logs/second")) == (2, 4)


def test_a_customised_upstream_is_used_as_it_is_with_a_note(main):
    main("--config=toy_config.py:first", "--config.steps=2", "--config.seed=3")
    code, error = main(SECOND)
    assert code == 0
    note = [line for line in error.splitlines() if line.startswith("upstream")]
    assert len(note) == 1
    assert "logs/first differs from toy_config.py:first (seed: 0 → 3; steps: 4 → 2)" in note[0]
    assert steps("logs/first") == 2


def test_a_parameter_of_another_shape_is_named(main, folder):
    main("--config=toy_config.py:first")
    stored = json.loads(Path("logs/first/config.json").read_text())
    stored["config"]["task"]["width"] = 5
    Path("logs/first/config.json").write_text(json.dumps(stored))
    code, error = main(SECOND)
    assert code == 1
    assert "params/w" in error
    assert "[3, 4]" in error
    assert "[3, 5]" in error
    assert not Path("logs/second").exists()


def test_runs_that_need_each_other_are_refused(main):
    code, error = main("--config=toy_config.py:second", "--config.name=first", "--config.upstream.base.run=logs/first")
    assert code == 1
    assert "circle: logs/first → logs/first" in error
    Path("a.py").write_text(Path("toy_config.py").read_text().replace("toy_config.py:first", "a.py:second"))
    code, error = main("--config=a.py:second")
    assert code == 1
    assert "circle: logs/first → logs/first" in error
    assert not Path("logs").exists()


def test_a_run_without_the_upstream_it_was_trained_on_is_refused(main):
    main(SECOND)
    Path("logs/first").rename("moved")
    code, error = main(SECOND)
    assert code == 1
    assert "logs/second was trained on logs/first, which is now missing" in error
    assert not Path("logs/first").exists()

    main("--config=toy_config.py:first", "--config.steps=2")
    code, error = main(SECOND)
    assert code == 1
    assert "logs/second was trained on logs/first at step 4" in error
    assert "is now at step 2" in error
    with pytest.raises(CheckpointError, match="was trained on logs/first at step 4"):
        load_upstream("logs/second")

    shutil.rmtree("logs/first")
    Path("moved").rename("logs/first")
    assert main(SECOND)[0] == 0


def test_parts_of_an_upstream_are_checked_before_anything_is_trained(main, folder):
    text = (folder / "toy_config.py").read_text()
    (folder / "toy_config.py").write_text(text.replace('"width": 4,', '"witdh": 4,'))
    code, error = main(SECOND, "--config.task.target=toy_parts:Line")
    assert code == 1
    assert "'witdh'" in error
    assert not Path("logs").exists()


def test_missing_data_shows_before_an_upstream_is_trained(main):
    code, error = main(SECOND, "--config.data.target=toy_parts:Absent")
    assert code == 1
    assert "no such data set 'absent'" in error
    assert not Path("logs").exists()


EVALUATOR = ["--config.evaluators.c.target=toy_parts:Constant", "--config.evaluators.c.value=1.0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--config.task.width=5"], "error: the task has width 5, the run in logs/first width 4"),
        ([*EVALUATOR, "--config.evaluators.c.rows=9"], "error: needs batches of 9 rows, not 8"),
        (["--config.sharding_rules=(('w', ('x', 'y', 'z')),)"], "The sharding rule 'w'"),
    ],
)
def test_a_setting_that_does_not_fit_shows_before_an_upstream_is_trained(main, settings, message):
    code, error = main(SECOND, *settings)
    assert code == 1
    assert message in error
    assert not Path("logs").exists()


def test_a_setting_that_does_not_fit_shows_before_the_first_of_many_phases_is_trained(main, folder):
    text = (folder / "toy_config.py").read_text()
    (folder / "wide.py").write_text(
        text.replace("    return config", "        config.task.width = 5\n    return config")
    )
    third = ["--config.name=third", "--config.task.width=5", "--config.upstream.base.run=logs/second"]
    code, error = main(SECOND, *third, "--config.upstream.base.config=wide.py:second")
    assert code == 1
    assert error == "error: upstream 'base' (wide.py:second): the task has width 5, the run in logs/first width 4\n"
    assert not Path("logs").exists()


def test_only_a_run_in_training_needs_the_files_of_its_frozen_parameters(main, folder):
    text = (folder / "toy_config.py").read_text()
    (folder / "toy_config.py").write_text(text.replace('"width": 4,', '"width": 4, "teacher": f"{preset}.npz",'))
    Path("second.npz").touch()
    code, error = main(SECOND)
    assert (code, error) == (1, "error: upstream 'base' (toy_config.py:first): there is no teacher at first.npz\n")
    assert not Path("logs").exists()
    Path("first.npz").touch()
    assert main("--config=toy_config.py:first")[0] == 0
    Path("first.npz").unlink()
    assert main(SECOND, "--mode=dry_run")[0] == 0
    assert main(SECOND)[0] == 0
    assert load_upstream("logs/second").task.shown == []  # an upstream run is neither checked nor started anew
    Path("second.npz").unlink()
    assert main(SECOND)[0] == 1


def test_a_run_outlives_the_new_fields_of_the_code(main, monkeypatch):
    main(SECOND, "--config.steps=2")
    path = Path("logs/second/config.json")
    stored = json.loads(path.read_text())
    del stored["config"]["task"]["scale"]
    path.write_text(json.dumps(stored))
    monkeypatch.setattr(config, "SCHEMA", {**config.SCHEMA, "novel": (1, "a new field")})
    assert main(SECOND, "--config.steps=2")[0] == 0
    for setting in ("novel=2", "task.scale=2.0"):
        code, error = main(SECOND, "--config.steps=2", f"--config.{setting}")
        assert code == 1
        assert "logs/second was started with another config" in error
        assert setting.split("=")[0] in error


def test_other_parameters_under_the_same_config_and_step_are_refused(main, folder, monkeypatch):
    main(SECOND)
    stored = json.loads(Path("logs/second/config.json").read_text())
    shutil.rmtree("logs/first")
    init = toy_parts.Line.init_params
    monkeypatch.setattr(toy_parts.Line, "init_params", lambda *args: {"w": init(*args)["w"] + 1e-3})
    main("--config=toy_config.py:first")
    code, error = main(SECOND)
    assert code == 1
    assert "logs/second was trained on logs/first at step 4" in error
    assert f"parameters {stored['upstream']['base']['parameters']}" in error
    # A run that was made before parameters were recorded can still be used.
    del stored["upstream"]["base"]["parameters"]
    Path("logs/second/config.json").write_text(json.dumps(stored))
    assert main(SECOND)[0] == 0


def test_a_lost_file_of_shapes_is_written_again_by_the_command_that_is_given(main):
    main(SECOND)
    Path("logs/first/example.json").unlink()
    code, error = main(SECOND)
    assert code == 1
    command = error.splitlines()[-1].split(": ")[-1].split()
    assert main(*command[3:])[0] == 0
    assert main(SECOND)[0] == 0
