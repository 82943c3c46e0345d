"""Two phases: `first` and, on it, `second`."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from trainer.config import base_config

PRESETS = ("first", "second")


def get_config(preset: str) -> ConfigDict:
    config = base_config()
    config.name = preset
    config.steps = 4
    config.log_every = 2
    config.eval_every = 0
    config.checkpoint_every = 2
    config.eval_batches = 2
    config.optimizer.learning_rate = 0.1
    config.compilation_cache = ""
    config.writers = {"jsonl": {"target": "jsonl"}}
    config.callbacks = {}
    config.task = {
        "target": "toy_parts:Line",
        "width": 4,
        "scale": 1.0,
        "nested": {"sizes": (1, 2), "on": True, "limit": placeholder(int), "word": "a"},
        "prepares": "",
    }
    config.data = {"target": "toy_parts:Numbers", "batch_size": 8, "log": ""}
    config.eval_data = {"target": "toy_parts:Numbers", "batch_size": 8}
    if preset == "second":
        config.upstream = {"base": {"run": "logs/first", "config": "toy_config.py:first"}}
    return config
