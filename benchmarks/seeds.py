"""The demo with several seeds, for the worst of them: `python -m benchmarks.seeds --seeds=1 --seeds=2`.

Trains all four phases of preset `cpu` for each seed, in LOGS/seed-N, an hour each on two cores; what is finished is
read. The figures land in `results/seeds.json` with the learning curves, and `python -m benchmarks.readme` quotes the
worst seed beside the demo's (seed 0).
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import PHASES, commit_of, figures, train, upstream
from trainer.errors import UserError
from trainer.writers import read_jsonl

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "seeds.json"
PREFIX = {"tokenizer": "eval/", "dynamics": "rollout/", "heads": "heads/", "imagination_rl": "control/"}
# What tells how a phase learned: while it trained, and from time to time by its evaluator.
CURVES = {
    "tokenizer": ("train/mse", "eval/psnr"),
    "dynamics": ("train/flow", "rollout/psnr_k4"),
    "heads": ("train/cross_entropy_1", "heads/cross_entropy_1"),
    "imagination_rl": ("train/imagined_return", "control/normalized_return"),
}
Curves = dict[str, dict[str, list[tuple[int, float]]]]  # by phase and figure: (step, value), …


def of_chain(runs: Path, preset: str = "cpu") -> dict[str, float]:
    """What the four finished phases in the folder `runs` were measured at last, each by its own evaluator."""
    last: dict[str, float] = {}
    for phase, prefix in PREFIX.items():
        measured = figures(runs / f"{phase}-{preset}")
        last |= {name: value for name, value in measured.items() if name.startswith(prefix)}
    return last


def curves_of_chain(runs: Path, preset: str = "cpu") -> Curves:
    """How the figures of `CURVES` went on in the four phases in the folder `runs`."""
    out: Curves = {}
    for phase, names in CURVES.items():
        lines = read_jsonl(runs / f"{phase}-{preset}" / "metrics.jsonl")
        out[phase] = {n: [(line["step"], float(f"{line[n]:.4g}")) for line in lines if n in line] for n in names}
    return out


def measure(seed: int, logs: Path, preset: str = "cpu") -> dict[str, Any]:
    """Figures and curves of the chain at a seed, and its minutes where it was trained at a stretch."""
    root, begun, commit = logs / f"seed-{seed}", time.monotonic(), commit_of(ROOT)
    fresh = not root.exists()
    for phase in PHASES:
        train(phase, root, f"{phase}-{preset}", {"seed": seed, **upstream(phase, root, preset)}, preset=preset)
    minutes = round((time.monotonic() - begun) / 60, 1) if fresh else None
    figures_and_curves = {"figures": of_chain(root, preset), "curves": curves_of_chain(root, preset)}
    return {"commit": commit, "minutes": minutes, **figures_and_curves}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and reads seed by seed, and keeps the figures after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__, allow_abbrev=False)
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="the folder to train in (default: %(default)s)")
    parser.add_argument("--seeds", type=int, action="append", required=True, metavar="N", help="may be repeated")
    known = parser.parse_args(argv)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for seed in known.seeds:
        try:
            results[str(seed)] = measure(seed, known.logs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        RESULTS.write_text(json.dumps(results) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
