"""The command line: `python -m benchmarks [--only=NAME] [--preset=PRESET] [--batch=N] [--json=FILE]`."""

if __name__ == "__main__":
    from trainer.huge_pages import restart_with_huge_pages

    restart_with_huge_pages()  # as the trainer does, before anything else is imported

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks
from benchmarks.options import Options
from benchmarks.runner import BENCHMARKS, PREFIX, run, run_all
from benchmarks.table import table
from trainer.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark in this process, or each in its own, and prints the figures as JSON and as a table."""
    only, options, file = _parse(argv)
    try:
        results = run(only, options) if only else run_all(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if file:
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    figures = {name: result for name, result in results.items() if name != "machine"}
    print(f"\n{table(figures)}")
    return int(any("error" in result for result in figures.values()))


def _parse(argv: Sequence[str] | None) -> tuple[str | None, Options, Path | None]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__, allow_abbrev=False)
    parser.add_argument("--only", choices=list(BENCHMARKS), metavar="NAME", help=f"run one of {', '.join(BENCHMARKS)}")
    parser.add_argument("--preset", default=Options.preset, help="of the configs (default: %(default)s)")
    parser.add_argument("--batch", type=int, metavar="N", help="rows of a batch (reference: 8; else the config's)")
    parser.add_argument("--seconds", type=float, default=Options.seconds, metavar="S", help="to time a thing, about")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures into this file, too")
    parser.epilog = f"{PREFIX}KEY=VALUE changes a field of the config that is measured, as the trainer's does."
    known, rest = parser.parse_known_args(argv)
    overrides = []
    for word in rest:
        key, equals, text = word.removeprefix(PREFIX).partition("=")
        if not word.startswith(PREFIX) or not equals:
            parser.error(f"unexpected argument {word!r}")
        overrides.append((key, text))
    if known.batch is not None and known.batch < 1:
        parser.error(f"--batch={known.batch}: expected 1 or more")
    options = Options(preset=known.preset, batch=known.batch, seconds=known.seconds, overrides=tuple(overrides))
    return known.only, options, known.json


if __name__ == "__main__":
    sys.exit(main())
