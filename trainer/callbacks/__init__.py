"""What may be hung into the loop; one file each."""

from trainer.callbacks.base import Callback, Callbacks, Run
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.callbacks.learning_rate import LearningRateMonitor
from trainer.callbacks.non_finite_guard import NonFiniteGuard
from trainer.callbacks.profiler import Profiler
from trainer.callbacks.progress import Progress
from trainer.callbacks.report import Report
from trainer.callbacks.summary import Summary
from trainer.callbacks.time_limit import TimeLimit

__all__ = [
    "Callback",
    "Callbacks",
    "EarlyStopping",
    "LearningRateMonitor",
    "NonFiniteGuard",
    "Profiler",
    "Progress",
    "Report",
    "Run",
    "Summary",
    "TimeLimit",
]
