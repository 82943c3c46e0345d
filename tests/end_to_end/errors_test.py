"""The mistakes of a newcomer: each is said in a few lines with the way out, and nothing is written."""

import itertools
import json
import shutil

import pytest
from chain_runs import COMMAND, RUNS

from trainer.checkpoints import finished

DYNAMICS, TOKENIZER = "--config=configs/dynamics.py:smoke", "--config=configs/tokenizer.py:smoke"
(CHAIN,) = COMMAND


def refused(main, contents, folder, arguments, parts, lines=1):
    """Asserts that a command fails with a short message that has these parts, and leaves everything as it was."""
    before = contents(folder)
    code, printed = main(*arguments)
    assert code == 1, printed
    message = printed[printed.index("error: ") :]
    assert message.count("\n") <= lines, message
    assert "Traceback" not in printed
    for part in parts:
        assert part in message
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--config=configs/dynamics.py:smok"],
            ["no preset 'smok'", "Did you mean 'smoke'", "cpu, gpu, paper, reference, smoke"],
        ),
        (["--config=configs/dynamcs.py:smoke"], ["no config 'configs/dynamcs.py'", "'configs/dynamics.py'"]),
        ([DYNAMICS, "--config.stpes=3"], ["no field 'stpes'", "Did you mean 'steps'"]),
        ([DYNAMICS, "--config.task.model.packign=2"], ["'task.model.packign'", "Did you mean 'packing'"]),
        ([DYNAMICS, "--config.learning_rate=1"], ["'learning_rate'", "Did you mean 'optimizer.learning_rate'"]),
        ([DYNAMICS, "--config.steps=many"], ["--config.steps=many", "not a whole number"]),
        ([TOKENIZER, "--config.data.num_epochs=many"], ["--config.data.num_epochs=many", "not a whole number"]),
        ([TOKENIZER, "--config.task.latent_noise=some"], ["--config.task.latent_noise=some", "not a number"]),
        ([TOKENIZER, "--config.data=bouncing_square/tiny"], ["data is a group of fields", "--config.data.target="]),
        ([DYNAMICS, "--config.task.target=tasks.dynamics:DynamicTask"], ["no 'DynamicTask'", "'DynamicsTask'"]),
        ([DYNAMICS, "--config.task.target=dynamcs"], ["no plugin 'dynamcs'", "Did you mean 'dynamics'"]),
        ([DYNAMICS, "--config.task.target=task.dynamics:DynamicsTask"], ["there is no module 'task'"]),
        ([TOKENIZER, "--config.task.masked_share=2"], ["masked_share must be between 0 and 1, got 2"]),
        ([TOKENIZER, "--config.data.start=rest"], ["'any' or 'reset', not 'rest'"]),
        (
            [TOKENIZER, "--config.data.name=bouncing_sqare/reference"],
            ["no data set 'bouncing_sqare'", "Did you mean 'bouncing_square'"],
        ),
        (
            [TOKENIZER, "--config.data.name=bouncing_square/refernce"],
            ["no config 'refernce'", "Did you mean 'reference'"],
        ),
        (
            [DYNAMICS, "--config.data.name=bouncing_sqare/reference"],  # before the tokenizer is trained
            ["no data set 'bouncing_sqare'", "Did you mean 'bouncing_square'"],
        ),
        ([DYNAMICS, "--mode=eval"], ["nothing to evaluate in logs/dynamics-smoke", "--mode=fit"]),
        ([DYNAMICS, "--workdir=here"], ["here holds files but no config.json", "thesis.tex", "--workdir"]),
        (
            [TOKENIZER, "--config.data.data_dir=here/thesis.tex/data"],
            ["'bouncing_square/tiny' could not be prepared in here/thesis.tex/data", "--config.data.data_dir=FOLDER"],
        ),
    ],
)
def test_a_mistake_in_the_command_is_named_with_the_way_out(main, empty, contents, arguments, parts):
    (empty / "here").mkdir()
    (empty / "here/thesis.tex").write_text("mine")
    refused(main, contents, empty, arguments, parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([DYNAMICS, "--config.task.model.packing=3"], ["8 latent tokens do not pack by 3"]),
        (
            [DYNAMICS, "--config.task.rollout.context=64"],
            ["rollouts give 64 frames", "held-out clips have 64", "eval_data.length"],
        ),
        (
            [DYNAMICS, "--config.data.short_length=4", "--config.data.short_batch_size=3", "--config.accumulate=2"],
            ["training data has batches of 3 rows", "into accumulate = 2 parts", "a multiple of 2"],
        ),
        (
            [DYNAMICS, "--config.task.model.actions.gas.kind=smooth", "--config.task.model.actions.gas.size=2"],
            ["an action component is one of", "'smooth'"],
        ),
        (
            [DYNAMICS, "--config.task.model.actions.gas.kind=continuous", "--config.task.model.actions.gas.sise=2"],
            ["task: ", "unexpected keyword argument 'sise'"],
        ),
        ([CHAIN, "--config.task.task_id=1"], ["task.task_id = 1", "logs/heads-smoke know the tasks 0 … 0"]),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_before_the_tokenizer_is_trained(
    main, workspace, contents, arguments, parts
):
    shutil.rmtree(workspace / "logs")
    refused(main, contents, workspace, arguments, parts)


def test_a_missing_upstream_that_may_not_be_trained_comes_with_its_command(main, empty, contents):
    command = "python -m trainer --config=configs/tokenizer.py:smoke"
    parts = ["upstream 'tokenizer': the run in logs/tokenizer-smoke is missing", command]
    refused(main, contents, empty, [DYNAMICS, "--config.upstream_autotrain=false"], parts, lines=2)


def test_an_unfinished_upstream_that_may_not_be_trained_comes_with_its_command(main, workspace, contents):
    shutil.rmtree(workspace / "logs/tokenizer-smoke/checkpoints/20")
    shutil.rmtree(workspace / "logs/dynamics-smoke")
    assert not finished(workspace / "logs/tokenizer-smoke").complete
    parts = ["logs/tokenizer-smoke is unfinished", "python -m trainer --config=logs/tokenizer-smoke/config.json"]
    refused(main, contents, workspace, [DYNAMICS, "--config.upstream_autotrain=false"], parts, lines=2)


def test_an_upstream_of_other_sizes_than_its_config_says_is_refused_by_name(main, workspace, contents):
    shutil.rmtree(workspace / "logs/dynamics-smoke")
    path = workspace / "logs/tokenizer-smoke/config.json"
    stored = json.loads(path.read_text())
    stored["config"]["task"]["model"]["latents"] = 4
    path.write_text(json.dumps(stored))
    parts = ["logs/tokenizer-smoke/checkpoints/20", "latent_tokens", "[8, 32]", "[4, 32]", "Nothing was changed"]
    refused(main, contents, workspace, [DYNAMICS], parts, lines=4)


def test_an_upstream_that_is_no_tokenizer_is_refused(main, workspace, contents):
    arguments = [DYNAMICS, "--config.name=other", "--config.upstream.tokenizer.run=logs/dynamics-smoke"]
    refused(main, contents, workspace, arguments, ["needs a trained tokenizer", "config.upstream.tokenizer"])


def test_the_run_of_another_config_is_left_alone(main, workspace, contents):
    parts = ["seed: 0 → 1", "python -m trainer --config=logs/dynamics-smoke/config.json", "--config.name=NAME"]
    refused(main, contents, workspace, [DYNAMICS, "--config.seed=1"], parts, lines=5)


@pytest.mark.parametrize(("gone", "trained"), list(itertools.pairwise(RUNS)))
def test_a_trained_run_without_its_upstream_is_left_alone(main, workspace, contents, gone, trained):
    shutil.rmtree(workspace / "logs" / gone)
    parts = [f"logs/{trained} was trained on logs/{gone}, which is now missing", "train them anew"]
    refused(main, contents, workspace, [CHAIN], parts)
