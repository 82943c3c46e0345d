"""A training library for JAX: a loop, and around it checkpoints, callbacks, writers, plugins and a command line.

It knows nothing of any model: they meet in `Task`. Names are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.callbacks import Callback as Callback
    from trainer.config import base_config as base_config
    from trainer.config import load_config as load_config
    from trainer.data import DataIterator as DataIterator
    from trainer.data import DataSource as DataSource
    from trainer.errors import CheckpointError as CheckpointError
    from trainer.errors import ConfigError as ConfigError
    from trainer.errors import DataError as DataError
    from trainer.errors import UserError as UserError
    from trainer.experiment import run as run
    from trainer.fit import FitResult as FitResult
    from trainer.state import TrainState as TrainState
    from trainer.task import Comparison as Comparison
    from trainer.task import Evaluation as Evaluation
    from trainer.task import Evaluator as Evaluator
    from trainer.task import LossOutput as LossOutput
    from trainer.task import Task as Task
    from trainer.task import Upstream as Upstream
    from trainer.trainer import Trainer as Trainer
    from trainer.update import Update as Update
    from trainer.upstream import load_upstream as load_upstream
    from trainer.writers import Writer as Writer

_HOME = {
    "base_config": "config",
    "load_config": "config",
    "DataIterator": "data",
    "DataSource": "data",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "UserError": "errors",
    "run": "experiment",
    "Callback": "callbacks",
    "Writer": "writers",
    "FitResult": "fit",
    "Trainer": "trainer",
    "TrainState": "state",
    "Comparison": "task",
    "Evaluation": "task",
    "Evaluator": "task",
    "LossOutput": "task",
    "Task": "task",
    "Update": "update",
    "Upstream": "task",
    "load_upstream": "upstream",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
