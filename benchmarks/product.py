"""The product's own path from a config to a compiled step, on freshly initialised parameters: nothing is trained."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from benchmarks.options import Options
from trainer import plugins
from trainer.config import load_config
from trainer.feed import open_iterator, peek
from trainer.optimizers import build_optimizer
from trainer.overrides import override
from trainer.task import Batch, Upstream
from trainer.trainer import Trainer

FEW = "train[:64]"  # of the episodes whose latents are kept: all of them would have to be encoded first


def load(name: str, options: Options) -> ConfigDict:
    """The config `configs/NAME.py:PRESET`, with batches of one shape: where short ones come in between, the long one.

    Raises:
      ConfigError: there is no such preset, or no such field to override.
    """
    config = load_config(f"configs/{name}.py:{options.preset}")
    with config.ignore_type():
        config.data.short_length = config.data.short_batch_size = None
    if options.rows:
        config.data.batch_size = options.rows
    for key, text in options.overrides:
        override(config, key, text)
    if config.task.get("cache_latents") and "data.split" not in dict(options.overrides):
        config.data.split = FEW
    return config


def make_trainer(config: ConfigDict) -> Trainer:
    """The trainer of a config, on upstream runs that are as their first step found them."""
    optimizer, _ = build_optimizer(config.optimizer, config.steps)
    return Trainer(
        task=plugins.build(config.task, "tasks"),
        data=plugins.build(config.data, "data"),
        workdir=Path(),
        steps=config.steps,
        seed=config.seed,
        optimizer=optimizer,
        ema_decay=config.ema_decay or None,
        accumulate=config.accumulate,
        precision=config.precision,
        upstream=_upstream(config),
        mesh_shape=config.mesh_shape or None,
        sharding_rules=[(regex, PartitionSpec(*axes)) for regex, axes in config.sharding_rules],
    )


def initialised(config: ConfigDict) -> Upstream:
    """The run of a config with the parameters that its training would start from."""
    config.data.batch_size = 2  # parameters have the same shapes whatever the batch
    task, data = plugins.build(config.task, "tasks"), plugins.build(config.data, "data")
    data.prepare()
    example = peek(data, config.seed)
    task.setup(_upstream(config), example)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    params = task.warm_start(jax.jit(task.init_params)(jax.random.key(config.seed), zeros))
    return Upstream(task=task, params=params, run=Path(_folder().name) / config.name, step=0)


def _upstream(config: ConfigDict) -> dict[str, Upstream]:
    return {name: initialised(load_config(entry.config)) for name, entry in config.upstream.items()}


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    """Where the upstream runs would lie, and their latents do; gone when the process ends."""
    return tempfile.TemporaryDirectory()


def batches(trainer: Trainer, count: int) -> list[Batch]:
    """The first batches of the data, where `Fit` would have them when a step begins."""
    takes_numpy = trainer.program.takes_numpy  # sets the task up, which training data may be made by
    trainer.training_data.prepare()
    iterator = open_iterator(trainer.training_data, trainer.seed)
    host = [next(iterator) for _ in range(count)]
    return host if takes_numpy else [trainer.put(batch) for batch in host]
