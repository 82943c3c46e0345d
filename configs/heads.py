"""Phase 3: policy, reward and continue heads; trains tokenizer and dynamics first where they are missing."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.parts import ENCODED, environment, episodes, held_out
from trainer.config import base_config

PRESETS = ("cpu", "smoke", "reference", "gpu")


def get_config(preset: str) -> ConfigDict:
    """The config of a preset."""
    config = base_config()
    config.name = f"heads-{preset}"
    config.upstream.dynamics = {"run": f"logs/dynamics-{preset}", "config": f"configs/dynamics.py:{preset}"}
    config.task = {"target": "tasks.heads:HeadsTask"} | _task(preset)
    config.data = episodes(preset) | _data(preset)
    config.eval_data = held_out(preset, config.data)
    config.optimizer.update(_optimizer(preset))
    config.update(_schedule(preset))
    config.quick_compilation = preset == "smoke"
    if preset == "gpu":
        config.precision = "bfloat16"
    return config


def _task(preset: str) -> dict[str, Any]:
    heads = {"distances": 8, "hidden": 256, "layers": 2, "bins": 255, "limit": 6.0}
    evaluation = {"context": 32, "clips": 512, "dreams": 64, "shown": 4}
    if preset == "smoke":
        heads |= {"hidden": 32, "layers": 1, "bins": 41}
        evaluation |= {"clips": 16, "dreams": 16}
    elif preset in ("reference", "cpu"):
        heads["distances"] = 2
    return {
        "heads": heads,
        "tasks": 1,
        "task_id": 0,
        "dynamics_share": 0.5 if preset in ("cpu", "gpu") else 1.0,
        "weights": {"dynamics": 1.0, "policy": 1.0, "reward": 1.0, "continue": 1.0},
        "normalized": True,
        "objective": {
            "forcing": placeholder(str), "bootstrap_share": placeholder(float),
            "bootstrap_frames": placeholder(bool), "clean_share": placeholder(float), "ramp": placeholder(float),
            "level_power": placeholder(float),
        },
        "cache_latents": preset in ("cpu", "gpu"),
        "sampler": {"steps": placeholder(int), "context_signal": placeholder(int)},
        "rollout": {"context": 32, "clips": 16 if preset == "smoke" else 64, "shown": 4},
        "evaluation": evaluation,
        "environment": environment(),
    }  # fmt: skip


def _data(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"batch_size": 64, "length": 64}
    if preset == "smoke":
        return {"batch_size": 4, "length": 16}
    if preset == "gpu":
        return {"batch_size": 64, "length": 32, "reset_share": 0.2, "independent_share": 0.125}
    return {"batch_size": 8, "length": 32, "reset_share": 0.2, "split": ENCODED}


def _optimizer(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"name": "adam", "learning_rate": 1e-4}
    if preset == "gpu":
        return {"name": "muon", "learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 100}
    return {"name": "muon", "learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 2 if preset == "smoke" else 50}


def _schedule(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"steps": 2_700_000, "log_every": 100, "eval_every": 20_000, "checkpoint_every": 5_000}
    if preset == "smoke":
        return {"steps": 20, "log_every": 5, "eval_every": 0, "checkpoint_every": 10, "eval_batches": 1}
    if preset == "gpu":
        return {"steps": 1_000, "log_every": 50, "eval_every": 500, "checkpoint_every": 500, "eval_batches": 4}
    return {"steps": 2_400, "log_every": 50, "eval_every": 1_200, "checkpoint_every": 250, "eval_batches": 2}
