"""Twenty steps that save, evaluate and log out of step with each other: `first`, `second` on it, `frames` on files."""

import importlib
import os

from ml_collections import ConfigDict

from trainer.config import base_config

PRESETS = ("first", "second", "frames")


def get_config(preset: str) -> ConfigDict:
    """The config of a preset; `second` finds this file in the folder it is started in."""
    if os.environ.get("FAULT_AT") == "config":
        importlib.import_module("fault_parts").moment("config")
    config = base_config()
    config.name = preset
    config.steps = 20
    config.log_every = 3
    config.eval_every = 4
    config.checkpoint_every = 5
    config.eval_batches = 2
    config.ema_decay = 0.9
    config.optimizer.learning_rate = 0.01
    config.task = {"target": "fault_parts:Regression", "width": 4096, "bad_loss": (), "bad_gradient": ()}
    config.data = {"target": "fault_parts:Rows", "bad": ()}
    config.eval_data = {"target": "fault_parts:Rows", "held_out": True}
    config.evaluators = {"level": {"target": "fault_parts:Level"}}
    config.writers = {"jsonl": {"target": "jsonl"}}
    config.callbacks = {
        "watch": {"target": "fault_parts:Watch"},
        "guard": {"target": "non_finite_guard"},
        "progress": {"target": "progress"},
    }
    if preset == "second":
        config.upstream = {"base": {"run": "logs/first", "config": "fault_config.py:first"}}
    if preset == "frames":
        config.task = {"target": "fault_parts:Frames"}
        config.data = {
            "target": "tfds", "name": "dots", "data_dir": "data", "split": "train", "batch_size": 2, "length": 4,
        }  # fmt: skip
        config.eval_data, config.evaluators = {}, {}
    return config
