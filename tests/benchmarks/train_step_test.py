import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import data_pipeline, product
from benchmarks.options import Options
from benchmarks.runner import BENCHMARKS
from trainer.config import load_config

QUICK = Options(preset="smoke", seconds=0.1, overrides=(("optimizer.name", "adam"),))  # compiles faster than muon


@pytest.mark.parametrize(
    ("name", "batch", "frames"),
    [("tokenizer_train_step", [4, 8], 32), ("rl_train_step", [4, 4], 16)],  # RL: 4 contexts, 4 imagined frames each
)
def test_the_figures_of_a_step_agree(name, batch, frames):
    found = BENCHMARKS[name](QUICK)
    assert (found["batch"], found["frames_per_step"]) == (batch, frames)
    assert found["frames_per_s"] == pytest.approx(frames / found["step_s"])
    assert found["step_s_min"] <= found["step_s"] <= found["step_s_max"]
    line = found["roofline"]
    assert found["utilization"] == pytest.approx(line["flops"] / found["step_s"] / line["matmul_flops_per_s"])
    assert line["reached"] == pytest.approx(line["roofline_step_s"] / found["step_s"])
    assert line["xla_flops"] > 0.8 * line["flops"] > 0  # XLA leaves out products of zeros and unused ones
    assert 4 * found["parameters"] < found["peak_memory"] < found["process_peak_memory"]


def test_batches_have_the_long_shape_only():
    config = product.load("tokenizer", QUICK)
    assert config.data.short_length is None
    trainer = product.make_trainer(config)
    assert [batch["frames"].shape[:2] for batch in product.batches(trainer, 3)] == [(4, 8)] * 3


def test_batches_are_what_updates_see():
    config = product.load("dynamics", dataclasses.replace(QUICK, overrides=(("task.cache_latents", "true"),)))
    assert config.data.split == product.FEW
    (batch,) = product.batches(product.make_trainer(config), 1)
    assert batch["latents"].shape[:2] == (4, 16)
    assert "frames" not in batch


def test_a_step_on_latents_is_measured():
    latents = (*QUICK.overrides, ("task.cache_latents", "true"))
    found = BENCHMARKS["dynamics_train_step"](dataclasses.replace(QUICK, overrides=latents))
    assert (found["batch"], found["frames_per_step"]) == ([4, 16], 64)


def test_rows_are_the_configs_own_but_at_the_reference_sizes():
    def rows(**options):
        return product.load("dynamics", Options(**options)).data.batch_size

    own = load_config("configs/dynamics.py:cpu").data.batch_size
    assert (rows(preset="cpu"), rows(preset="cpu", batch=3)) == (own, 3)
    assert own not in (3, 8)
    assert (rows(preset="reference"), rows(preset="reference", batch=64)) == (8, 64)


def test_upstream_parameters_are_initialised_and_handed_on():
    dynamics = product.initialised(product.load("dynamics", QUICK))
    kernels = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(dynamics.frozen["tokenizer"])
        if "kernel" in jax.tree_util.keystr(path)
    ]
    assert sum(float(np.abs(leaf).max()) == 0 for leaf in kernels) == 1  # the readout alone starts at zero
    assert len(kernels) > 20


def test_the_pipeline_reads_a_share_of_a_data_set_that_is_named_in_part(monkeypatch):
    monkeypatch.setattr(data_pipeline, "SHARE", "[:50%]")
    found = data_pipeline.measure(dataclasses.replace(QUICK, overrides=(("data.split", "train[:20]"),)))
    assert found["frames_per_s"] > 0


def test_the_pipelines_figures_agree():
    found = data_pipeline.measure(QUICK)
    shapes = {"tokenizer": [4, 8], "dynamics": [4, 16], "heads": [4, 16], "imagination_rl": [4, 4]}
    assert {name: how["cached"]["batch"] for name, how in found["phases"].items()} == shapes
    for how in (how for phase in found["phases"].values() for how in phase.values()):
        assert how["frames_per_s"] == pytest.approx(how["batches_per_s"] * np.prod(how["batch"]))
        assert how["batches_per_s"] == pytest.approx(1 / how["step_s"])
    assert found["frames_per_s"] == found["phases"]["dynamics"]["cached"]["frames_per_s"]
