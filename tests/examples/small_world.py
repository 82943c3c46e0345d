"""A recurrent world model of a few hundred numbers, and batches for it."""

import functools
from pathlib import Path

import jax
import numpy as np
from reverie_rssm.behavior_task import RssmBehaviorTask
from reverie_rssm.task import RssmTask

from trainer import Upstream

MODEL = {
    "deter": 16, "hidden": 24, "groups": 6, "classes": 4, "depth": 8, "patch": 2, "stages": 1,
    "actions": {"move": {"kind": "categorical", "size": 3}},
}  # fmt: skip
HEADS = {"hidden": 16, "layers": 1, "bins": 15, "limit": 4.0}
BATCH, TIME = 3, 6


def make_batch(seed=0, rows=BATCH, frames=TIME, **fields):
    numbers = np.random.default_rng(seed)
    batch = {
        "frames": numbers.integers(0, 256, (rows, frames, 8, 8, 3)).astype(np.uint8),
        "actions": numbers.integers(0, 3, (rows, frames)).astype(np.int32),
        "rewards": numbers.normal(size=(rows, frames)).astype(np.float32),
        "is_first": np.zeros((rows, frames), bool),
        "independent": np.zeros(rows, bool),
        "labelled": np.ones(rows, bool),
        "continues": (numbers.random((rows, frames)) > 0.3).astype(np.float32),
    }
    return batch | fields


def shapes(batch):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


def make_task(**fields):
    task = RssmTask(**{"model": MODEL, "heads": HEADS, "rollout": {"context": 3, "clips": 4}} | fields)
    task.setup({}, shapes(make_batch()))
    return task


def enlarged(params, seed=0):
    """Parameters that are sure of themselves, and in which nothing is 0."""
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 1.5 * x + 0.2 * numbers.normal(size=x.shape).astype(np.float32), params)


@functools.cache
def world():
    """A task and parameters: those of a fresh model, larger, so that latents are sure of themselves."""
    task = make_task()
    return task, enlarged(task.init_params(jax.random.key(0), make_batch()))


def upstream(task=None, params=None):
    task, params = (task, params) if task else world()
    return {"world": Upstream(task=task, params=params, run=Path("logs/world"), step=1)}


def behavior(frozen=None, **fields):
    fields = {"context": TIME, "horizon": 4, "policy": HEADS, "value": HEADS} | fields
    task = RssmBehaviorTask(**fields)
    task.setup(frozen or upstream(), shapes(make_batch()))
    return task


def keys(seed, count=TIME):
    return jax.random.split(jax.random.key(seed), count)
