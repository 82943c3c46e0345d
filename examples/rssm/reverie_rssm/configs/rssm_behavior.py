"""A policy trained in the recurrent world model's imagination; trains the world model first where it is missing."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs.parts import environment, episodes, held_out
from trainer.config import base_config

PRESETS = ("cpu", "smoke")


def get_config(preset: str) -> ConfigDict:
    """The config of a preset."""
    config = base_config()
    config.name = f"rssm_behavior-{preset}"
    # The whole path: a relative one would be looked for in the current folder.
    world = f"{Path(__file__).resolve().with_name('rssm.py')}:{preset}"
    config.upstream.world = {"run": f"logs/rssm-{preset}", "config": world}
    config.task = {"target": "reverie_rssm.behavior_task:RssmBehaviorTask"} | _task(preset)
    config.data = episodes(preset) | {"batch_size": 4 if preset == "smoke" else 32, "length": config.task.context}
    config.eval_data = held_out(preset, config.data)
    config.optimizer.update({"learning_rate": 3e-4, "clip_norm": 100.0})
    config.update(_schedule(preset))
    config.quick_compilation = preset == "smoke"
    return config


def _task(preset: str) -> dict[str, Any]:
    policy = {"hidden": 256, "layers": 2}
    value = {"hidden": 256, "layers": 2, "bins": 63, "limit": 6.0}
    evaluation = {"episodes": 256, "steps": 32, "contexts": 64, "shown": 4}
    sizes = {"context": 8, "horizon": 15}
    if preset == "smoke":
        policy |= {"hidden": 32, "layers": 1}
        value |= {"hidden": 32, "layers": 1, "bins": 15}
        evaluation |= {"steps": 8, "contexts": 4}
        sizes = {"context": 4, "horizon": 4}
    return sizes | {
        "discount": 0.9,
        "trace": 0.95,
        "entropy_weight": 3e-4,
        "return_decay": 0.99,
        "slow_decay": 0.98,
        "policy": policy,
        "value": value,
        "environment": environment(),
        "evaluation": evaluation,
    }


def _schedule(preset: str) -> dict[str, Any]:
    if preset == "smoke":
        return {"steps": 4, "log_every": 2, "eval_every": 0, "checkpoint_every": 2, "eval_batches": 1}
    return {"steps": 1_500, "log_every": 50, "eval_every": 500, "checkpoint_every": 500, "eval_batches": 1}
