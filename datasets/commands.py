"""What the commands `datasets.record` and `datasets.folder` share: options, splits, and how they end."""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np

from datasets.errors import DataError


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What all commands have that write a data set."""
    parser.add_argument("--name", required=True, help="of the data set: config.data.name")
    parser.add_argument("--version", default="1.0.0", help="of the data set (1.0.0)")
    parser.add_argument("--data_dir", help="where data sets lie (TFDS_DATA_DIR, else ~/tensorflow_datasets)")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the episodes that is held out (0.1)")
    parser.add_argument("--min_frames", type=int, default=2, help="leave out episodes of fewer frames (2)")


def check_settings(validation: float, size: int | None, min_frames: int) -> None:
    """Raises `DataError` for settings that cannot work."""
    if not 0 <= validation < 1:
        raise DataError(f"--validation={validation}: expected a share of the episodes, 0 or more and below 1.")
    if size is not None and size < 4:
        raise DataError(f"--size={size}: expected the edge of a frame in pixels, 4 or more.")
    if min_frames < 2:
        raise DataError(f"--min_frames={min_frames}: expected 2 or more; no episode has fewer frames.")


def split_up(count: int, validation: float) -> dict[str, list[int]]:
    """The numbers of the episodes by split: what is held out is spread over all."""
    held_out = min(max(1, round(validation * count)), count - 1) if validation else 0
    chosen = set(np.random.default_rng(0).permutation(count)[:held_out].tolist())
    splits = {"train": [i for i in range(count) if i not in chosen], "validation": sorted(chosen)}
    return {split: part for split, part in splits.items() if part}


def say(text: str) -> None:
    """A line for the user that is no result."""
    print(text, file=sys.stderr, flush=True)


def command(run: Callable[[], str]) -> int:
    """Prints what `run` returns, or an error as one message; the exit status."""
    try:
        with _ended_by_signals():
            print(run())
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, _Ended) as end:
        print("interrupted: nothing was written", file=sys.stderr)
        return 128 + (end.number if isinstance(end, _Ended) else signal.SIGINT)
    return 0


class _Ended(BaseException):
    """A signal has asked the process to end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Raises `_Ended` where SIGTERM or SIGHUP would end the process at once: what is half written is removed."""

    def end(number: int, frame: object) -> None:
        raise _Ended(number)

    here = threading.current_thread() is threading.main_thread()
    # A signal that is ignored, as under nohup, stays so.
    ours = [n for n in (signal.SIGTERM, signal.SIGHUP) if here and signal.getsignal(n) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
