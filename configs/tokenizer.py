"""Phase 1: the tokenizer on the bouncing square."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.parts import IMAGE, OWN, SHARDED, described, episodes, held_out, transformer
from trainer.config import base_config

PRESETS = ("cpu", "smoke", "reference", "gpu", "paper")


def get_config(preset: str) -> ConfigDict:
    """The config of a preset."""
    config = base_config()
    config.name = f"tokenizer-{preset}"
    config.task = {"target": "tasks.tokenizer:TokenizerTask"} | _task(preset)
    config.data = described(length=64) if preset == "paper" else episodes(preset) | _data(preset)
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
    objective = {"masked_share": 1.0, "masked_share_stills": 1.0, "latent_noise": 0.0, "clips": 64}
    objective |= {"lpips_weight": 0.0, "lpips_weights": placeholder(str)}
    if preset in OWN:
        objective |= {"masked_share_stills": 0.0, "latent_noise": 0.03}
    if preset == "paper":
        half = dict(width=1024, layers=12, heads=16, time_every=4, window=192, remat=True, space_frames=8, scan=True)
        model = {"image": IMAGE, "patch": 16, "latents": 512, "channels": 16}
    elif preset == "reference":
        half = dict(width=64, layers=8, heads=4, time_every=4, window=48)
        model = {"patch": 4, "latents": 16, "channels": 32}
    elif preset == "smoke":
        half = dict(width=32, layers=2, heads=2, time_every=2, window=6)
        model = {"patch": 8, "latents": 8, "channels": 8}
        objective["clips"] = 16
    elif preset == "gpu":
        half = dict(width=512, layers=8, heads=8, time_every=4, window=16)
        model = {"patch": 4, "latents": 16, "channels": 32}
    else:
        half = dict(width=128, layers=3, heads=4, time_every=3, window=16)
        model = {"patch": 8, "latents": 16, "channels": 32}
    # Two groups, not one twice: otherwise what is set in the encoder would be set in the decoder too.
    model["local"] = preset in OWN
    return {"model": model | {"encoder": transformer(**half), "decoder": transformer(**half)}} | objective


def _data(preset: str) -> dict[str, Any]:
    if preset == "reference":
        return {"batch_size": 32, "length": 64, "start": "reset"}
    if preset == "smoke":
        return {"batch_size": 4, "length": 8, "short_length": 1, "short_batch_size": 16}
    if preset == "gpu":
        return {"batch_size": 64, "length": 16, "short_length": 1, "short_batch_size": 1024, "long_every": 5}
    return {"batch_size": 4, "length": 16, "short_length": 1, "short_batch_size": 64, "long_every": 5}


def _optimizer(preset: str) -> dict[str, Any]:
    if preset in ("reference", "paper"):
        return {"name": "adamw", "learning_rate": 1e-4}
    if preset == "gpu":
        return {"name": "muon", "learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 100}
    return {"name": "muon", "learning_rate": 6e-3, "schedule": "cosine", "warmup_steps": 2 if preset == "smoke" else 50}


def _schedule(preset: str) -> dict[str, Any]:
    if preset in ("reference", "paper"):
        return {"steps": 75_900, "log_every": 100, "eval_every": 5_000, "checkpoint_every": 2_500}
    if preset == "smoke":
        return {"steps": 20, "log_every": 5, "eval_every": 0, "checkpoint_every": 10, "eval_batches": 1}
    if preset == "gpu":
        return {"steps": 5_000, "log_every": 50, "eval_every": 1_000, "checkpoint_every": 1_000, "eval_batches": 4}
    return {"steps": 4_500, "log_every": 50, "eval_every": 2_250, "checkpoint_every": 300, "eval_batches": 2}
