"""`python -m datasets.folder FOLDER --name=my_data`: a folder of recordings becomes a TFDS data set.

A recording is an `.npz` (`frames`, and `actions` or `actions/NAME`, `rewards`, `is_terminal`, `task`, `relevant`), or a
video with its actions beside it: `NAME.csv` or `NAME.jsonl` beside `NAME.mp4`, a row per frame. See docs/your_data.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import advice, inspection, recordings, writing
from datasets.episodes import Alignment
from datasets.errors import DataError


def build(
    folder: Path, *, name: str, version: str = "1.0.0", data_dir: str | None = None, validation: float = 0.1,
    alignment: Alignment = "before", size: int | None = None, min_frames: int = 2,
) -> str:  # fmt: skip
    """Checks all recordings of a folder, then writes them; the same ones are held out every time.

    Args:
      folder: the recordings.
      name: of the data set.
      version: such as "1.0.0".
      data_dir: where data sets lie; None for TFDS's own place.
      validation: share of the episodes that is held out: at least one, unless it is 0.
      alignment: whether the actions and rewards stored with a frame led to it ("before") or came after it ("after").
      size: frames are resized to so many pixels along each edge; None: they stay as they are.
      min_frames: shorter recordings are left out: clips are no longer than the shortest episode.

    Returns:
      What was written, and how to train on it.

    Raises:
      DataError: something is wrong with the recordings (all of it is listed), the data set exists, or it cannot be
        written; nothing was left.
    """
    check_settings(validation, size)
    writing.folder_of(name, version, data_dir)
    paths, others = recordings.find(folder)
    inspected, short = inspection.Inspection(alignment), []
    say(f"Checking {len(paths)} recordings in {folder} …")
    for path in paths:
        try:
            recording = recordings.read(path, size)
            if recording.frames.ndim and 2 <= len(recording.frames) < min_frames:
                short.append(path)
            else:
                inspected.add(_label(path, folder), recording)
        except recordings.BadRecording as bad:
            inspected.problems += [f"{_label(path, folder)}: {problem}" for problem in bad.problems]
    orphans = [path for path in others if path.suffix.lower() in recordings.TABLES]
    inspected.problems += [f"{_label(path, folder)}: there is no video of this name beside it" for path in orphans]
    if len(short) == len(paths):
        raise DataError(f"All {len(paths)} recordings have fewer than --min_frames={min_frames} frames. Lower it.")
    contents = inspected.contents()
    paths = [path for path in paths if path not in short]
    for note in inspected.notes + [f"{_label(path, folder)} is not read" for path in others[:5]]:
        say(f"note: {note}")
    if short:
        say(f"note: left out {len(short)} recordings of fewer than {min_frames} frames")

    def episodes(part: Sequence[Path]) -> Iterator[dict[str, Any]]:
        for path in part:
            try:
                yield inspection.episode(_label(path, folder), recordings.read(path, size), contents, alignment)
            except (recordings.BadRecording, ValueError, KeyError) as error:
                raise DataError(f"{path} has changed since it was checked: {error}. Nothing was written.") from error

    splits = {split: episodes([paths[i] for i in part]) for split, part in split_up(len(paths), validation).items()}
    written = writing.write(name, version, data_dir, contents, splits, f"Recordings of {folder.resolve().name}.")
    return advice.describe(name, data_dir, contents, written)


def split_up(count: int, validation: float) -> dict[str, list[int]]:
    """The numbers of the episodes by split: what is held out is spread over all."""
    held_out = min(max(1, round(validation * count)), count - 1) if validation else 0
    chosen = set(np.random.default_rng(0).permutation(count)[:held_out].tolist())
    splits = {"train": [i for i in range(count) if i not in chosen], "validation": sorted(chosen)}
    return {split: part for split, part in splits.items() if part}


def check_settings(validation: float, size: int | None) -> None:
    """Raises `DataError` for settings that cannot work."""
    if not 0 <= validation < 1:
        raise DataError(f"--validation={validation}: expected a share of the episodes, 0 or more and below 1.")
    if size is not None and size < 4:
        raise DataError(f"--size={size}: expected the edge of a frame in pixels, 4 or more.")


def say(text: str) -> None:
    """A line for the user that is no result."""
    print(text, file=sys.stderr, flush=True)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What all commands have that write a data set."""
    parser.add_argument("--name", required=True, help="of the data set: config.data.name")
    parser.add_argument("--version", default="1.0.0", help="of the data set (1.0.0)")
    parser.add_argument("--data_dir", help="where data sets lie (TFDS_DATA_DIR, else ~/tensorflow_datasets)")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the episodes that is held out (0.1)")
    parser.add_argument("--min_frames", type=int, default=2, help="leave out episodes of fewer frames (2)")


def command(run: Callable[[], str]) -> int:
    """Prints what `run` returns, or an error as one message; the exit status."""
    try:
        print(run())
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


def _label(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m datasets.folder", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="the recordings: .npz files, or videos with NAME.csv or NAME.jsonl")
    add_common_options(parser)
    parser.add_argument(
        "--alignment", choices=("before", "after"), default="before",
        help="whether the action and reward of a frame led to it (before) or came after it (after, as in RLDS)",
    )  # fmt: skip
    parser.add_argument("--size", type=int, help="resize frames to SIZE × SIZE pixels (as they are)")
    options = vars(parser.parse_args(arguments))
    return command(lambda: build(**options))


if __name__ == "__main__":
    sys.exit(main())
