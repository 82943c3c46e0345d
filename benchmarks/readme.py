"""The README's table, its pictures and `results/`, from a finished `make demo`: `python -m benchmarks.readme`."""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.curves import draw
from benchmarks.runs import PHASES, commit_of, figures, replace_between
from benchmarks.seeds import RESULTS as SEEDS
from benchmarks.seeds import curves_of_chain, of_chain
from datasets.bouncing_square import rules
from datasets.bouncing_square.masked_limit import masked_limit
from models.metrics import psnr
from tasks.tokenizer import MAX_MASK_PROBABILITY
from trainer.config import load_config
from trainer.packing import pack

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES, README = ROOT / "results" / "demo", ROOT / "docs" / "images", ROOT / "README.md"
PICTURES = {  # in the docs: the run and its picture
    "reconstruction": ("tokenizer", "reconstruction"),
    "rollout": ("dynamics", "rollout"),
    "control": ("imagination_rl", "control_episodes"),
    "returns": ("imagination_rl", "control"),
}
BEGIN, END = "<!-- python -m benchmarks.readme -->\n", "<!-- until here -->\n"


def take(logs: Path, about: Mapping[str, Any]) -> None:
    """Puts the demo's runs, packed, in place of those in `RESULTS`, with its pictures and how it came about.

    They are packed in a folder of their own, so that they name each other by paths that hold on every machine.
    """
    last = f"{PHASES[-1]}-cpu"
    place = RESULTS.relative_to(ROOT)
    logs = logs.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("logs").symlink_to(logs)
        config = load_config(f"logs/{last}/config.json")
        for run in pack(config, Path("logs") / last, place):
            shutil.rmtree(RESULTS / run.name, ignore_errors=True)
            shutil.copytree(run, RESULTS / run.name)
    for name, (phase, picture) in PICTURES.items():
        shutil.copy(logs / f"{phase}-cpu" / "media" / f"{picture}.png", IMAGES / f"{name}.png")
    (RESULTS / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def limit_of_hidden(run: Path) -> float:
    """The best `eval/psnr_masked`, dB, that patches of the run's size allow."""
    config = load_config(str(run / "config.json"))
    sizes = {"patch": config.task.model.patch, "length": config.eval_data.length}
    errors, hidden = masked_limit(rules.REFERENCE, max_probability=MAX_MASK_PROBABILITY, **sizes)
    return float(psnr(errors.sum() / hidden.sum()))


def others() -> dict[str, Any]:
    """What `benchmarks.seeds` measured."""
    return json.loads(SEEDS.read_text(encoding="utf-8")) if SEEDS.exists() else {}


def table() -> str:
    """What stands between `BEGIN` and `END` in the README."""
    about = json.loads((RESULTS / "about.json").read_text(encoding="utf-8"))
    last = of_chain(RESULTS)
    seeds = [last, *(seed["figures"] for seed in others().values())]

    def worst(figure: str, digits: int, *, low: bool = True, of: str = "") -> str:
        if len(seeds) == 1:
            return ""
        values = [seed[figure] for seed in seeds]
        return f" ({of}worst of {len(seeds)} seeds: {(min if low else max)(values):.{digits}f})"

    def dream(*frames: str) -> str:
        return ", ".join(f"{last[f'rollout/psnr_k4_{frame}']:.1f}" for frame in frames)

    def against(*names: str) -> str:
        return ", ".join(f"{last[f'control/return_{name}']:.0f} {name}" for name in names)

    rows = [
        (
            f"`{about['command']}`, one run at {about['commit']}, {about['machine']}, {about['minutes']:.0f} minutes",
            "",
            "compare with",
        ),
        ("tokenizer, `eval/psnr`", f"{last['eval/psnr']:.1f} dB{worst('eval/psnr', 1)}", ""),
        (
            "what it makes of hidden patches, `eval/psnr_masked`",
            f"{last['eval/psnr_masked']:.1f} dB{worst('eval/psnr_masked', 1)}",
            f"{about['masked_limit']:.1f} dB: nobody can do better (`datasets.bouncing_square.masked_limit`)",
        ),
        (
            "dream of 32 frames, K = 4, `rollout/psnr_k4`",
            f"{last['rollout/psnr_k4']:.1f} dB{worst('rollout/psnr_k4', 1)}",
            f"{last['rollout/psnr_repeat_last']:.1f} dB repeating the last frame, {last['rollout/psnr_ceiling']:.1f} "
            "dB the tokenizer's own reconstruction",
        ),
        (
            "its 1st, 16th and 32nd frame",
            f"{dream('t1', 't16', 't32')} dB{worst('rollout/psnr_k4_t32', 1, of='the 32nd, ')}",
            "",
        ),
        (
            "the same after phase 3; the agent dreams in it with K = 1",
            f"{figures(RESULTS / 'heads-cpu')['rollout/psnr_k4']:.1f} dB",
            "",
        ),
        (
            "dream in the finest steps, K = 8, `rollout/psnr_finest`",
            f"{last['rollout/psnr_finest']:.1f} dB{worst('rollout/psnr_finest', 1)}",
            "",
        ),
        (
            "error with the wrong actions ÷ with the true ones, `rollout/action_sensitivity`",
            f"{last['rollout/action_sensitivity']:.1f}",
            "1: actions are ignored",
        ),
        (
            "cloned policy, `heads/cross_entropy_1`",
            f"{last['heads/cross_entropy_1']:.3f} nats{worst('heads/cross_entropy_1', 3, low=False)}",
            f"{last['heads/cross_entropy_floor_1']:.3f}, the entropy of the policy that was recorded",
        ),
        (
            "reward head, `heads/reward_mae`",
            f"{last['heads/reward_mae']:.2f} px{worst('heads/reward_mae', 2, low=False)}",
            f"{last['heads/reward_mae_dreamed']:.2f} px along dreams of 32 frames",
        ),
        (
            "agent, `control/return` of 32 steps",
            f"{last['control/return']:.0f}",
            f"{against('random', 'cloned', 'optimal')}; {last['control/imagined_return']:.0f} in imagination",
        ),
        (
            "`control/normalized_return`",
            f"{last['control/normalized_return']:.2f}{worst('control/normalized_return', 2)}",
            f"0 random, {last['control/normalized_return_cloned']:.2f} cloned, 1 optimal",
        ),
    ]
    lines = [f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows]
    return "".join([lines[0], "|---|---|---|\n", *lines[1:]])


def rewrite() -> None:
    """Puts the table into the README, and draws the learning curves of the demo and of the other seeds."""
    chains = [curves_of_chain(RESULTS), *(seed["curves"] for seed in others().values())]
    Image.fromarray(draw(chains)).save(IMAGES / "learning.png")
    replace_between(README, BEGIN, END, table())


def main(argv: Sequence[str] | None = None) -> int:
    """Takes a demo's figures where there is one, and rewrites the README's table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__, allow_abbrev=False)
    parser.add_argument("--take", type=Path, metavar="LOGS", help="the folder with the demo's four runs")
    parser.add_argument("--minutes", type=float, help="that `make demo` took")
    parser.add_argument("--machine", help="such as 'two cores of an AMD EPYC'")
    parser.add_argument("--command", default="make demo")
    known = parser.parse_args(argv)
    if known.take:
        if known.minutes is None or not known.machine:
            parser.error("--take needs --minutes and --machine: how long it took, and on what")
        about = {
            "command": known.command, "commit": commit_of(known.take), "machine": known.machine,
            "minutes": known.minutes, "masked_limit": limit_of_hidden(known.take / "tokenizer-cpu"),
        }  # fmt: skip
        take(known.take, about)
    rewrite()
    return 0


if __name__ == "__main__":
    sys.exit(main())
