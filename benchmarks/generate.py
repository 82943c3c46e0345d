"""Interactive generation: a session that is played at batch 1, frame by frame, and what a frame costs."""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import product
from benchmarks.interactive import Past, Player
from benchmarks.machine import memory_figures
from benchmarks.options import Options
from benchmarks.roofline import roofline, xla_cost
from models.actions import no_action
from models.dynamics import unpack
from models.generation import observe
from tasks.dynamics import DynamicsTask
from trainer.device_rate import utilization
from trainer.flops import count_flops
from trainer.update import cast

EARLY, LATE = (1, 50), (500, 550)  # frames of the session that are compared
WINDOWS, STEPS = (16, 32, 64, 128), (1, 2, 4, 8)


def measure(options: Options) -> dict[str, Any]:
    """Plays a session: every frame's action comes from the host, and its pixels go there before the next one.

    `step_s` is the median time of a frame, decoding included. FLOPs are counted in the traced function of one frame,
    for several windows (of dynamics and decoder) and numbers of denoising steps; `passes_by_steps` says how many
    passes of the dynamics that makes beside the decoder: K + 1.
    """
    config = product.load("dynamics", options)
    run, precision = product.initialised(config), config.precision
    task = run.task
    assert isinstance(task, DynamicsTask)
    player = Player(dynamics=task.config, tokenizer=task.tokenizer.config, sampler=task.sampler)
    params = cast({"dynamics": run.params, "tokenizer": run.frozen["tokenizer"]}, precision)
    past = jax.jit(player.begin)(params, jax.random.key(0))
    began = time.perf_counter()
    traced = jax.jit(player.frame, donate_argnums=1).trace(params, past, _action(player))
    compiled = traced.lower().compile()
    compile_s = time.perf_counter() - began
    times = play(compiled, params, past, _action(player), LATE[1])
    step_s, flops = statistics.median(times[1:]), count_flops(traced.jaxpr)
    return {
        "config": f"configs/dynamics.py:{options.preset}",
        "overrides": dict(options.overrides),
        "batch": [1, 1],
        "precision": precision,
        "window": player.dynamics.transformer.window,
        "denoising_steps": player.sampler.steps,
        "frames_per_step": 1,
        "frames_per_s": 1 / step_s,
        "step_s": step_s,
        "step_s_min": min(times[1:]),
        "step_s_p99": float(np.quantile(times[1:], 0.99)),
        "step_s_early": statistics.median(times[slice(*EARLY)]),
        "step_s_late": statistics.median(times[slice(*LATE)]),
        "first_step_s": compile_s + times[0],
        "utilization": utilization(flops / step_s, jax.local_devices()[:1], precision),
        **memory_figures(compiled),
        **counts(player, params),
        "roofline": roofline(flops, xla_cost(traced, compiled), step_s, precision),
    }


def play(frame: Any, params: Any, past: Past, actions: Any, frames: int) -> list[float]:
    """Seconds of each frame, from its action on the host to its pixels there; all of the one compiled program."""
    times = []
    for _ in range(frames):
        began = time.perf_counter()
        past, pixels = frame(params, past, actions)
        np.asarray(pixels)
        times.append(time.perf_counter() - began)
    return times


def counts(player: Player, params: Any) -> dict[str, Any]:
    """FLOPs of one frame against the window and the denoising steps, and the passes that these are."""
    by_steps = {k: _frame_flops(_with_steps(player, k), params) for k in STEPS if k <= player.dynamics.max_steps}
    alone, decoder = _part_flops(player, params)
    return {
        "flops_by_window": {window: _frame_flops(_with_window(player, window), params) for window in WINDOWS},
        "flops_by_steps": by_steps,
        "flops_of_pass": alone,
        "flops_of_decoder": decoder,
        "passes_by_steps": {k: (flops - decoder) / alone for k, flops in by_steps.items()},
    }


def _with_steps(player: Player, steps: int) -> Player:
    return dataclasses.replace(player, sampler=dataclasses.replace(player.sampler, steps=steps))


def _with_window(player: Player, window: int) -> Player:
    dream = dataclasses.replace(player.dynamics.transformer, window=window)
    decoder = dataclasses.replace(player.tokenizer.decoder, window=window)
    return dataclasses.replace(
        player,
        dynamics=dataclasses.replace(player.dynamics, transformer=dream),
        tokenizer=dataclasses.replace(player.tokenizer, decoder=decoder),
    )


def _action(player: Player) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, no_action(player.dynamics.actions, (1,)))


def _frame_flops(player: Player, params: Any) -> float:
    past = jax.eval_shape(player.begin, params, jax.random.key(0))
    return count_flops(jax.jit(player.frame).trace(params, past, _action(player)).jaxpr)


def _part_flops(player: Player, params: Any) -> tuple[float, float]:
    """FLOPs of one pass of the dynamics over a frame, and of the decoder, each traced on its own."""
    sizes = player.dynamics
    past = jax.eval_shape(player.begin, params, jax.random.key(0))
    actions = jax.tree.map(lambda a: a[:, None], _action(player))

    def observed(params: Any, past: Past, latents: jax.Array) -> Any:
        dynamics, _ = player.models(params)
        known = jnp.ones((1, 1), bool)
        return observe(dynamics, past.dynamics, latents, actions, known, past.rng, player.sampler)

    def decoded(params: Any, past: Past, latents: jax.Array) -> Any:
        _, tokenizer = player.models(params)
        return tokenizer.decode(unpack(latents, sizes.packing), cache=past.decoder)

    latents = jax.ShapeDtypeStruct((1, 1, sizes.spatial_tokens, sizes.spatial_channels), jnp.float32)
    passed, pixels = (jax.jit(part).trace(params, past, latents).jaxpr for part in (observed, decoded))
    return count_flops(passed), count_flops(pixels)
