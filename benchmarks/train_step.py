"""A training step: the jitted step that `trainer.fit.Fit` calls, with its donated state, on real batches."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import product
from benchmarks.machine import memory_figures
from benchmarks.options import Options
from benchmarks.roofline import XlaCost, roofline, xla_cost
from benchmarks.timing import seconds_of, time_steps
from tasks.batches import rows_and_frames
from trainer.device_rate import utilization

BATCHES = 4  # different ones, taken in turn


def train_step(name: str) -> Callable[[Options], dict[str, Any]]:
    """The benchmark of the training step of `configs/NAME.py`."""
    return functools.partial(measure, name)


def measure(name: str, options: Options) -> dict[str, Any]:
    """Times the step and counts what it does.

    Frames are those of the batch (rows × frames of a row), in imagination RL those imagined (rows × horizon). Where a
    config alternates between long and short batches, only long ones are measured. `first_step_s` counts from the call
    of the first step until its result is there: tracing, compilation, one step.
    """
    trainer = product.make_trainer(product.load(name, options))
    program = trainer.program
    batches = product.batches(trainer, BATCHES)
    state = jax.block_until_ready(program.init(jax.random.key(trainer.seed)))
    turn = itertools.cycle(batches)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = program.step(state, program.frozen, next(turn))
        jax.block_until_ready((state, metrics))

    def first_step() -> None:
        program.compile_ahead(batches[0])()
        run(1)

    first_step_s = seconds_of(first_step)
    traced = program.step.trace(state, program.frozen, batches[0])
    compiled = traced.lower().compile()  # the one that jit holds already
    timing = time_steps(run, options.seconds)
    memory = memory_figures(compiled)
    flops, frames = program.flops(state, batches[0]), trainer.task.frames_per_batch(batches[0]) or 0
    devices = list(program.mesh.devices.flat)
    figures = {
        "config": f"configs/{name}.py:{options.preset}",
        "overrides": dict(options.overrides),
        "batch": list(rows_and_frames(batches[0])),
        "precision": program.precision,
        "devices": len(devices),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(program.state.params)),
        "frames_per_step": frames,
        "frames_per_s": frames / timing["step_s"],
        **timing,
        "first_step_s": first_step_s,
        "utilization": utilization(flops / timing["step_s"], devices, program.precision),
        **memory,
    }
    if len(devices) > 1:  # each runs a part, of which XLA counts one
        return figures
    cost: XlaCost = xla_cost(traced, compiled)
    return {**figures, "roofline": roofline(flops, cost, timing["step_s"], program.precision)}
