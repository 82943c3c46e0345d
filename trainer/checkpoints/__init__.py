"""Checkpoints: saved whole, read back bit for bit, refused with reasons."""

from trainer.checkpoints.reading import ReadParams, RunStatus, best_step, find_step, finished, read_params
from trainer.checkpoints.retention import Best
from trainer.checkpoints.saving import Checkpoints, Restored

__all__ = [
    "Best",
    "Checkpoints",
    "ReadParams",
    "Restored",
    "RunStatus",
    "best_step",
    "find_step",
    "finished",
    "read_params",
]
