"""Phase 4: a policy trained in imagination; trains tokenizer, dynamics and heads first where they are missing."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.parts import ENCODED, environment, episodes, held_out
from trainer.config import base_config

PRESETS = ("cpu", "smoke", "reference", "gpu")


def get_config(preset: str) -> ConfigDict:
    """The config of a preset."""
    config = base_config()
    config.name = f"imagination_rl-{preset}"
    config.upstream.heads = {"run": f"logs/heads-{preset}", "config": f"configs/heads.py:{preset}"}
    config.task = {"target": "tasks.imagination_rl:ImaginationRLTask"} | _task(preset)
    config.data = episodes(preset) | _data(preset)
    config.eval_data = held_out(preset, config.data)
    config.optimizer.update(_optimizer(preset))
    config.update(_schedule(preset))
    config.quick_compilation = preset == "smoke"
    if preset == "gpu":
        config.precision = "bfloat16"
    return config


def _task(preset: str) -> dict[str, Any]:
    task: dict[str, Any] = {"context": 16, "horizon": 32, "discount": 0.997, "trace": 0.95}
    task |= {"positive_share": 0.5, "prior_weight": 0.3, "uniform_share": 0.0, "value_warmup": 0}
    task |= {"policy_loss": "pmpo", "from_clone": True, "train_transformer": False}
    value = {"hidden": 256, "layers": 2, "bins": 255, "limit": 8.0}
    evaluation = {"episodes": 256, "steps": 32, "contexts": 64, "shown": 4}
    if preset == "reference":
        task |= {"discount": 0.9}
    elif preset == "smoke":
        task |= {"context": 4, "horizon": 4}
        value |= {"hidden": 32, "layers": 1, "bins": 41}
        evaluation |= {"steps": 8, "contexts": 4}
    else:
        task |= {"context": 4, "horizon": 16, "discount": 0.9, "prior_weight": 0.01, "uniform_share": 0.01}
        task["value_warmup"] = 50
    return task | {
        "value": value,
        "sampler": {"steps": 1 if preset in ("cpu", "gpu") else placeholder(int), "context_signal": placeholder(int)},
        "cache_latents": preset in ("cpu", "gpu"),
        "task_id": placeholder(int),
        "environment": environment(),
        "evaluation": evaluation,
    }


def _data(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"batch_size": 64, "length": 16, "start": "reset"}
    if preset == "smoke":
        return {"batch_size": 4, "length": 4}
    if preset == "gpu":
        return {"batch_size": 256, "length": 4, "reset_share": 0.25}
    return {"batch_size": 32, "length": 4, "reset_share": 0.25, "split": ENCODED}


def _optimizer(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"name": "adam", "learning_rate": 1e-4}
    return {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine", "clip_norm": 10.0}


def _schedule(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"steps": 100_000, "log_every": 100, "eval_every": 5_000, "checkpoint_every": 2_500}
    if preset == "smoke":
        return {"steps": 4, "log_every": 2, "eval_every": 0, "checkpoint_every": 2, "eval_batches": 1}
    if preset == "gpu":
        return {"steps": 600, "log_every": 20, "eval_every": 200, "checkpoint_every": 100, "eval_batches": 1}
    return {"steps": 1_700, "log_every": 50, "eval_every": 425, "checkpoint_every": 200, "eval_batches": 1}
