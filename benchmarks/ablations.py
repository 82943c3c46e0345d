"""What each part of the method is worth, in short runs: `python -m benchmarks.ablations --logs=logs --machine=…`.

Every row of the table is preset `cpu` with one thing changed, trained for a minute or two on the finished runs of a
demo and compared with the same preset unchanged, over the same seeds. Runs lie in LOGS/ablations; those that are
finished are read, not trained again. Short runs tell what learns faster, not what ends higher.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.runs import PHASES, commit_of, figures, replace_between, train, upstream
from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RECIPE = ROOT / "results" / "ablations.json", ROOT / "docs" / "recipe.md"
BEGIN, END = "<!-- python -m benchmarks.ablations -->\n", "<!-- until here -->\n"

# Of each phase: its steps here, and the figures that tell.
STEPS = {"tokenizer": 300, "dynamics": 800, "heads": 500, "imagination_rl": 300}
FIGURES = {
    "tokenizer": ("eval/psnr", "eval/psnr_masked"),
    "dynamics": ("rollout/psnr_k4", "rollout/psnr_finest", "rollout/psnr_k4_t1", "rollout/psnr_k4_t32"),
    "heads": ("heads/cross_entropy_1", "heads/reward_mae", "rollout/psnr_k4"),
    "imagination_rl": ("control/normalized_return",),
}


class Ablation(NamedTuple):
    """A phase with something changed.

    Attributes:
      phase: which.
      what: in words.
      changes: fields of its config.
      against: the name of the row that differs in nothing else.
    """

    phase: str
    what: str
    changes: Mapping[str, Any]
    against: str


_DIFFUSION = {"task.model.residual": False, "task.objective.forcing": "diffusion", "task.objective.clean_share": 0.25}
ABLATIONS = {
    "tokenizer": Ablation("tokenizer", "the preset", {}, ""),
    "no-mae": Ablation("tokenizer", "no patches hidden (no MAE)", {"task.masked_share": 0.0}, "tokenizer"),
    "dynamics": Ablation("dynamics", "the preset", {}, ""),
    "no-residual": Ablation("dynamics", "latents, not their change", {"task.model.residual": False}, "dynamics"),
    "v-prediction": Ablation(
        "dynamics", "v-prediction", {"task.model.residual": False, "task.model.prediction": "v"}, "no-residual"
    ),
    "diffusion": Ablation("dynamics", "diffusion forcing", _DIFFUSION, "no-residual"),
    "ramp": Ablation("dynamics", "ramp 0.9", {"task.objective.ramp": 0.9}, "dynamics"),
    "even-levels": Ablation("dynamics", "levels drawn evenly", {"task.objective.level_power": 1.0}, "dynamics"),
    "no-bootstrap": Ablation("dynamics", "no bootstrap", {"task.objective.bootstrap_share": 0.0}, "dynamics"),
    "bootstrap": Ablation("dynamics", "bootstrap share 0.25", {"task.objective.bootstrap_share": 0.25}, "dynamics"),
    "context-noise": Ablation("dynamics", "past at level 7/8", {"task.sampler.context_signal": 7}, "dynamics"),
    "no-qk-norm": Ablation("dynamics", "no QK-norm", {"task.model.transformer.qk_norm": False}, "dynamics"),
    "no-soft-cap": Ablation("dynamics", "no soft cap", {"task.model.transformer.soft_cap": 0.0}, "dynamics"),
    "neither": Ablation(
        "dynamics", "neither of the two",
        {"task.model.transformer.qk_norm": False, "task.model.transformer.soft_cap": 0.0}, "dynamics",
    ),
    "no-registers": Ablation("dynamics", "no registers", {"task.model.registers": 0}, "dynamics"),
    "heads": Ablation("heads", "the preset", {}, ""),
    "sums": Ablation("heads", "loss terms not normalised", {"task.normalized": False}, "heads"),
    "imagination_rl": Ablation("imagination_rl", "the preset: PMPO from the clone", {}, ""),
    "reinforce": Ablation("imagination_rl", "REINFORCE", {"task.policy_loss": "reinforce"}, "imagination_rl"),
    "from-scratch": Ablation("imagination_rl", "a fresh policy", {"task.from_clone": False}, "imagination_rl"),
}  # fmt: skip


def measure(name: str, seed: int, logs: Path, changes: Mapping[str, Any] | None = None, preset: str = "cpu") -> dict:
    """Figures of the row `name` at a seed, on the finished phases in `logs`; `changes` come on top of its own."""
    phase = ABLATIONS[name].phase
    fields = {"seed": seed, "steps": STEPS[phase], "eval_every": 0, **ABLATIONS[name].changes, **(changes or {})}
    fields |= upstream(phase, logs, preset)
    return figures(train(phase, logs / "ablations", f"{name}-{seed}", fields, preset=preset), FIGURES[phase])


def table(results: Mapping[str, Any]) -> str:
    """One table a phase: each row's figures, seed by seed."""
    lines = [f"{results['machine']}.\n"]
    for phase in PHASES:
        rows = [name for name, ablation in ABLATIONS.items() if ablation.phase == phase and name in results["rows"]]
        if not rows:
            continue
        heads = [f"`{figure}`" for figure in FIGURES[phase]]
        lines += [
            f"\n| {phase}, {STEPS[phase]} steps | {' | '.join(heads)} | compare with | commit |\n",
            "|---" * (len(heads) + 3),
        ]
        lines += ["|\n"]
        for name in rows:
            commit, by_seed = results["rows"][name]["commit"], results["rows"][name]["seeds"]
            seeds = [by_seed[seed] for seed in sorted(by_seed)]
            cells = [", ".join(_digits(seed[figure]) for seed in seeds) for figure in FIGURES[phase]]
            against = ABLATIONS[name].against and ABLATIONS[ABLATIONS[name].against].what
            lines.append(f"| {ABLATIONS[name].what} | {' | '.join(cells)} | {against} | {commit} |\n")
    return "".join(lines)


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def rewrite(results: Mapping[str, Any]) -> None:
    """Puts the table into `docs/recipe.md`."""
    replace_between(RECIPE, BEGIN, END, table(results))


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, row by row, and writes figures and table after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__, allow_abbrev=False)
    parser.add_argument("--logs", type=Path, required=True, help="the folder with the demo's four runs")
    parser.add_argument(
        "--only", action="append", choices=list(ABLATIONS), metavar="NAME", help="a row; may be repeated"
    )
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="0 … N - 1 (default: %(default)s)")
    parser.add_argument("--machine", required=True, help="such as 'two cores of an AMD EPYC'")
    known = parser.parse_args(argv)
    results = {"rows": {}} | (json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {})
    results["machine"] = known.machine
    for name in known.only or ABLATIONS:
        seeds: dict[str, Any] = {}
        try:
            commit = commit_of(ROOT)
            for seed in range(known.seeds):
                seeds[str(seed)] = measure(name, seed, known.logs)
                print(name, seed, seeds[str(seed)], flush=True)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        results["rows"][name] = {"commit": commit, "seeds": seeds}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        rewrite(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
