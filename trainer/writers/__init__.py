"""Where results go; one file each."""

from trainer.writers.base import MultiWriter, Writer, keeps_record
from trainer.writers.console import ConsoleWriter
from trainer.writers.jsonl import JsonlWriter, read_jsonl
from trainer.writers.media import MediaWriter
from trainer.writers.tensorboard import TensorBoardWriter
from trainer.writers.wandb import WandbWriter

__all__ = [
    "ConsoleWriter",
    "JsonlWriter",
    "MediaWriter",
    "MultiWriter",
    "TensorBoardWriter",
    "WandbWriter",
    "Writer",
    "keeps_record",
    "read_jsonl",
]
