import re
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from trainer import experiment, plugins, upstream
from trainer.config import check_complete, config_files, load_config
from trainer.feed import peek
from trainer.overrides import override

ROOT = Path(__file__).parents[2]


def specs():
    """Every config with every preset: what `--mode=list` and a wrong preset's message offer."""
    for path in config_files():
        presets = re.search(r"^PRESETS = (\(.*?\))$", (ROOT / path).read_text(), re.MULTILINE).group(1)
        yield from (f"{path}:{preset}" for preset in re.findall(r'"(\w+)"', presets))


SPECS = tuple(specs())
# Dreamer 4, arXiv:2509.24527, §4: 2 B parameters, 400 M of them the tokenizer's.
PAPER_SIZES = {"configs/tokenizer.py:paper": 400e6, "configs/dynamics.py:paper": 1600e6}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clip_shapes(config):
    """A training batch, as the config asks for it: of the bouncing square, or as it is described."""
    if config.data.target == "datasets.described:Described":
        return peek(plugins.build(config.data, "data"), seed=0)
    rows, length = config.data.batch_size, config.data.length
    kinds = {"actions": np.int32, "rewards": np.float32, "continues": np.float32, "is_first": np.bool_}
    frames = {"frames": jax.ShapeDtypeStruct((rows, length, 32, 32, 3), np.uint8)}
    marks = {name: jax.ShapeDtypeStruct((rows,), np.bool_) for name in ("independent", "labelled")}
    return frames | marks | {name: jax.ShapeDtypeStruct((rows, length), kind) for name, kind in kinds.items()}


def set_up(config):
    """The task on stand-ins of what it builds on, and the shapes of its parameters."""
    example = clip_shapes(config)
    phases = upstream.plan(config, Path("logs") / config.name)
    task = plugins.build(config.task, "tasks")
    task.setup(upstream.stand_ins(config, phases, lambda phase: clip_shapes(phase.config), described=True), example)
    return task, jax.eval_shape(task.init_params, jax.random.key(0), example)


def test_there_are_the_presets_that_everything_relies_on():
    phases = ("tokenizer", "dynamics", "heads", "imagination_rl")
    assert {f"configs/{phase}.py" for phase in phases} <= set(config_files())
    assert PAPER_SIZES.keys() <= set(SPECS)
    for path in config_files():
        assert {f"{path}:smoke", f"{path}:cpu", f"{path}:reference"} <= set(SPECS)
        assert load_config(path) == load_config(f"{path}:cpu")  # what is had without asking


@pytest.mark.parametrize("spec", SPECS)
def test_a_config_builds(spec, folder):
    config = load_config(spec)
    check_complete(config)
    experiment.check_parts(config)
    task, parameters = set_up(config)
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    assert count == pytest.approx(PAPER_SIZES[spec], rel=0.05) if spec in PAPER_SIZES else count > 3_000
    assert task.evaluators()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("spec", SPECS)
def test_runs_of_different_presets_never_share_a_folder(spec):
    path, preset = spec.split(":")
    config = load_config(spec)
    assert config.name == f"{Path(path).stem}-{preset}"
    for below in config.upstream.values():
        lower = load_config(below.config)
        assert below.config.endswith(f":{preset}")
        assert below.run == f"{lower.root}/{lower.name}"


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.endswith(":paper")])
def test_data_is_of_another_split_than_what_is_held_out(spec):
    config = load_config(spec)
    assert config.data.split.partition("[")[0] == "train"
    assert config.eval_data.split == "validation"
    assert config.eval_data.name == config.data.name
    assert (config.eval_data.num_epochs, config.eval_data.shuffle, config.eval_data.start) == (1, False, "reset")
    # Figures compare only where they are of the same clips: 32 frames of context and 32 ahead.
    assert config.eval_data.length == 64
    if "rollout" in config.task:
        assert config.task.rollout.context == 32
    episodes = 16 if config.data.name.endswith("/tiny") else 1000
    assert config.eval_data.batch_size <= episodes


@pytest.mark.parametrize("spec", SPECS)
def test_every_field_can_be_set_alone_and_has_a_type(spec):
    config = load_config(spec)
    before = flat(config)
    for key, value in before.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        changed = load_config(spec)
        override(changed, key, str(value + 1))
        after = flat(changed)
        assert [k for k in before if before[k] != after[k]] == [key]
    untyped = [key for key, value in before.items() if value is None and kind(config, key) is type(None)]
    assert untyped == []  # "many" for a number would be found out deep inside, with a traceback


def flat(config, prefix=""):
    out = {}
    for name, value in config.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {f"{prefix}{name}": value}
    return out


def kind(config, key):
    *groups, name = key.split(".")
    for group in groups:
        config = config[group]
    return config.get_type(name)


# The sizes of the published toy experiment, to which figures are compared.
REFERENCE = {
    "tokenizer": {
        "steps": 75_900,
        "optimizer.name": "adamw", "optimizer.learning_rate": 1e-4,
        "data.batch_size": 32, "data.length": 64,
        "task.model.patch": 4, "task.model.latents": 16, "task.model.channels": 32,
        "task.model.encoder.width": 64, "task.model.encoder.layers": 8, "task.model.encoder.heads": 4,
        "task.model.decoder.width": 64, "task.model.decoder.layers": 8, "task.model.decoder.heads": 4,
        "task.clips": 64,
    },
    "dynamics": {
        "steps": 1_100_000,
        "optimizer.name": "adam", "optimizer.learning_rate": 1e-4,
        "data.batch_size": 64, "data.length": 64,
        "task.model.transformer.width": 128, "task.model.transformer.layers": 8, "task.model.transformer.heads": 4,
        "task.model.registers": 4, "task.model.max_steps": 8,
        "task.sampler.steps": 4, "task.rollout.context": 32, "task.rollout.clips": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_preset_has_the_published_sizes(name):
    config = flat(load_config(f"configs/{name}.py:reference"))
    assert {key: config[key] for key in REFERENCE[name]} == REFERENCE[name]
    assert config["data.name"] == config["eval_data.name"] == "bouncing_square/reference"


@pytest.mark.parametrize("group", ["data", "eval_data"])
def test_episodes_that_are_too_short_can_be_left_out_as_their_error_says(group):
    config = load_config("configs/tokenizer.py:cpu")
    override(config, f"{group}.skip_short", "true")
    assert plugins.build(config[group], "data").skip_short


def test_the_reference_dynamics_has_eight_spatial_tokens_of_64_channels():
    config = load_config("configs/dynamics.py:reference")
    below, packing = load_config(config.upstream.tokenizer.config).task.model, config.task.model.packing
    assert (below.latents // packing, below.channels * packing) == (8, 64)
