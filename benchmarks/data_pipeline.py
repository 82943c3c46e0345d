"""The input alone: batches per second that the pipeline makes for each phase, with nobody at work on them."""

import math
import time
from typing import Any

from benchmarks import product
from benchmarks.machine import process_bytes
from benchmarks.options import Options
from benchmarks.timing import time_steps
from trainer import plugins
from trainer.data import DataIterator
from trainer.feed import open_iterator

PHASES = ("tokenizer", "dynamics", "heads", "imagination_rl")
MAIN = "dynamics"  # whose cached figures stand for the pipeline
SHARE = "[:10%]"  # of the episodes: all of them soon lie in the cache


def measure(options: Options) -> dict[str, Any]:
    """Reads batches as the phases' configs ask for them, from the files and from the cache of decoded episodes.

    `step_s` is the time of a batch, `first_step_s` the time until the first one, the data set's opening included.
    There are no products, so no utilisation; `peak_memory` is the process's, cache included.
    """
    seconds = options.seconds / len(PHASES) / 2
    phases = {name: {how: _read(name, how, options, seconds) for how in ("uncached", "cached")} for name in PHASES}
    return {
        "config": f"configs/{MAIN}.py:{options.preset}",
        **phases[MAIN]["cached"],
        "utilization": None,
        "peak_memory": process_bytes(),
        "phases": phases,
    }


def _read(name: str, how: str, options: Options, seconds: float) -> dict[str, Any]:
    config = product.load(name, options)
    config.data.split, config.data.cache = config.data.split.partition("[")[0] + SHARE, how == "cached"
    data = plugins.build(config.data, "data")
    began = time.perf_counter()
    data.prepare()
    iterator = open_iterator(data, config.seed)
    next(iterator)
    first_step_s = time.perf_counter() - began
    if how == "cached":
        # An epoch gives a clip of each episode, where no rows are of single frames.
        clips = config.data.batch_size * (1 - config.data.independent_share)
        _take(iterator, math.ceil(data.fingerprint()["num_episodes"] / clips) + 1)
    timing = time_steps(lambda steps: _take(iterator, steps), seconds)
    frames = config.data.batch_size * config.data.length
    return {
        "batch": [config.data.batch_size, config.data.length],
        "frames_per_s": frames / timing["step_s"],
        "batches_per_s": 1 / timing["step_s"],
        **timing,
        "first_step_s": first_step_s,
    }


def _take(iterator: DataIterator, count: int) -> None:
    for _ in range(count):
        next(iterator)
