"""Phase 2: the interactive dynamics on the bouncing square; trains the tokenizer first where it is missing."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.parts import ENCODED, OWN, SHARDED, described, episodes, held_out, transformer
from trainer.config import base_config

PRESETS = ("cpu", "smoke", "reference", "gpu", "paper")


def get_config(preset: str) -> ConfigDict:
    """The config of a preset."""
    config = base_config()
    config.name = f"dynamics-{preset}"
    config.upstream.tokenizer = {"run": f"logs/tokenizer-{preset}", "config": f"configs/tokenizer.py:{preset}"}
    config.task = {"target": "tasks.dynamics:DynamicsTask"} | _task(preset)
    config.data = described(length=256) if preset == "paper" else episodes(preset) | _data(preset)
    config.eval_data = {} if preset == "paper" else held_out(preset, config.data)
    config.optimizer.update(_optimizer(preset))
    config.update(_schedule(preset))
    config.quick_compilation = preset == "smoke"
    if preset == "gpu":
        config.precision = "bfloat16"
    if preset == "paper":  # for --mode=dry_run --simulated_devices=256
        config.update({"precision": "bfloat16", "mesh_shape": (1, 256), "sharding_rules": SHARDED})
    return config


def _task(preset: str) -> dict[str, Any]:
    model = {"packing": 2, "registers": 4, "max_steps": 8, "latent_scale": 1.5}
    model |= {"added_actions": preset in OWN, "residual": preset in OWN, "prediction": "x"}
    actions: dict[str, Any] = {"direction": {"kind": "categorical", "size": 4}}
    if preset == "paper":
        shape = dict(width=2048, layers=28, heads=32, kv_heads=8, mlp_ratio=3.75, time_every=4, window=192)
        sizes = transformer(**shape, remat=True, space_frames=64, scan=True)
        actions = {"keys": {"kind": "binary", "size": 23}, "mouse": {"kind": "categorical", "size": 121}}
    elif preset == "reference":
        sizes = transformer(width=128, layers=8, heads=4, time_every=4, window=48)
    elif preset == "smoke":
        sizes = transformer(width=32, layers=2, heads=2, time_every=2, window=8)
        model["registers"] = 1
    elif preset == "gpu":
        sizes = transformer(width=1024, layers=16, heads=16, time_every=4, window=32)
    else:
        sizes = transformer(width=128, layers=4, heads=4, time_every=4, window=16, time_offset=1)
        model["registers"] = 2
    objective = {"forcing": "diffusion", "clean_share": 0.25, "ramp": 0.9, "level_power": 1.0, "bootstrap_share": 0.25}
    if preset in OWN:
        objective |= {
            "forcing": "teacher",
            "clean_share": 0.0,
            "ramp": 0.0,
            "level_power": 2.0,
            "bootstrap_share": 0.05,
        }
    return {
        "model": model | {"actions": actions, "transformer": sizes},
        "objective": objective | {"bootstrap_frames": preset == "paper"},
        "cache_latents": preset in ("cpu", "gpu"),
        "sampler": {"steps": 4, "context_signal": placeholder(int)},
        "rollout": {"context": 32, "clips": 16 if preset == "smoke" else 64, "shown": 4},
    }  # fmt: skip


def _data(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"batch_size": 64, "length": 64, "short_length": 32, "independent_share": 0.3, "start": "reset"}
    if preset == "smoke":
        return {"batch_size": 4, "length": 16, "independent_share": 0.25}
    if preset == "gpu":
        return {"batch_size": 64, "length": 32, "independent_share": 0.1}
    return {"batch_size": 4, "length": 16, "split": ENCODED}


def _optimizer(preset: str) -> dict[str, Any]:
    if preset in ("reference", "paper"):
        return {"name": "adam", "learning_rate": 1e-4}
    if preset == "gpu":
        return {"name": "muon", "learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 100}
    return {"name": "muon", "learning_rate": 5e-3, "schedule": "cosine", "warmup_steps": 2 if preset == "smoke" else 50}


def _schedule(preset: str) -> dict[str, Any]:
    if preset in ("reference", "paper"):
        return {"steps": 1_100_000, "log_every": 100, "eval_every": 20_000, "checkpoint_every": 5_000}
    if preset == "smoke":
        return {"steps": 20, "log_every": 5, "eval_every": 0, "checkpoint_every": 10, "eval_batches": 1}
    if preset == "gpu":
        return {"steps": 3_000, "log_every": 50, "eval_every": 1_000, "checkpoint_every": 1_000, "eval_batches": 4}
    return {"steps": 11_500, "log_every": 100, "eval_every": 5_750, "checkpoint_every": 1_000, "eval_batches": 2}
