"""`python -m datasets.folder FOLDER --name=my_data`: a folder of recordings becomes a TFDS data set.

A recording is an `.npz` (`frames`, and `actions` or `actions/NAME`, `rewards`, `is_terminal`, `task`, `relevant`), or a
video with its actions beside it: `NAME.csv` or `NAME.jsonl` beside `NAME.mp4`, a row per frame. See docs/your_data.md.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import advice, inspection, recordings, tables, writing
from datasets.commands import add_common_options, check_settings, command, say, split_up
from datasets.episodes import Alignment
from datasets.errors import DataError


def build(
    folder: Path, *, name: str, version: str = "1.0.0", data_dir: str | None = None, validation: float = 0.1,
    alignment: Alignment = "before", size: int | None = None, min_frames: int = 2, sparse_choices: bool = False,
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
      sparse_choices: choices may have wide gaps between them; else one far above all others is taken for a mistake.

    Returns:
      What was written, and how to train on it.

    Raises:
      DataError: something is wrong with the recordings (all of it is listed), the data set exists, or it cannot be
        written; nothing was left.
    """
    check_settings(validation, size, min_frames)
    writing.folder_of(name, version, data_dir)
    paths, others = recordings.find(folder)
    inspected, short = inspection.Inspection(alignment, sparse_choices), []
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
    orphans = [path for path in others if tables.is_table(path)]
    inspected.problems += [f"{_label(path, folder)}: there is no video of this name beside it" for path in orphans]
    if len(short) == len(paths):
        raise DataError(f"All {len(paths)} recordings have fewer than --min_frames={min_frames} frames. Lower it.")
    contents = inspected.contents()
    paths = [path for path in paths if path not in short]
    for note in inspected.notes:
        say(f"note: {note}")
    if others:
        say(f"note: not read: {inspection.listed([_label(path, folder) for path in others])}")
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
    parser.add_argument(
        "--sparse_choices", action="store_true", help="allow choices such as 3000 that are far above all others"
    )
    parser.add_argument("--size", type=int, help="resize frames to SIZE × SIZE pixels (as they are)")
    options = vars(parser.parse_args(arguments))
    return command(lambda: build(**options))


if __name__ == "__main__":
    sys.exit(main())
