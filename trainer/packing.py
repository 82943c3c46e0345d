"""Finished runs in a small place: what evaluations and later phases need, without what only training does."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from trainer import checkpoints, run_folder, upstream
from trainer.checkpoints.packed import pack_checkpoint
from trainer.errors import ConfigError, UserError

_KEPT = (run_folder.EXAMPLE, "metrics.jsonl", "report.html", "report.json")


def pack(config: ConfigDict, folder: Path, target: Path) -> list[Path]:
    """Packs a finished run and all that it builds on, each as `target`/NAME.

    A packed run holds the parameters of its newest checkpoint (the moving average where the run kept one), its metrics,
    report and newest pictures. It can be evaluated and built on; it cannot be trained further.

    ::

      pack(load_config("logs/heads-cpu/config.json"), Path("logs/heads-cpu"), Path("results"))

    Args:
      config: of the run.
      folder: its run folder.
      target: where the packed runs go; relative to the current folder, as the paths of upstream runs are.

    Returns:
      The packed runs, in the order in which they build on each other.

    Raises:
      UserError: a run is not finished or cannot be read, or a packed run of its name is there already.
    """
    phases = [(phase.folder, phase.config) for phase in upstream.plan(config, folder)]
    runs = [*phases, (folder, config)]
    places = {run.resolve(): target / run.resolve().name for run, _ in runs}
    for run, place in places.items():
        progress = checkpoints.finished(run)
        if progress is None or not progress.complete:
            raise UserError(f"{run} is not finished, so it cannot be packed: train it to its end first.")
        if place.exists() or list(places.values()).count(place) > 1:
            raise UserError(f"{place} is there already, or two runs have this name: give another folder with --to=DIR.")
    for run, _ in runs:
        _pack_one(run, places)
    return list(places.values())


def _pack_one(run: Path, places: Mapping[Path, Path]) -> None:
    place = places[run.resolve()]
    stored = _read(run / run_folder.CONFIG)
    provenance: dict[str, Any] = {}
    for name, entry in stored["config"].get("upstream", {}).items():
        below = places[Path(entry["run"]).expanduser().resolve()]
        entry["run"] = str(below)
        provenance[name] = {**stored["upstream"][name], "run": str(below), "config": run_folder.stored_hash(below)}
    stored["config"]["root"] = str(place.parent)
    temporary = place.with_name(f".{place.name}.packing")
    shutil.rmtree(temporary, ignore_errors=True)
    run_folder.write_json(temporary / run_folder.CONFIG, {**stored, "upstream": provenance})
    step = pack_checkpoint(run, temporary, {"config": stored["config"], "provenance": provenance})
    for name in _KEPT:
        if (run / name).exists():
            shutil.copy(run / name, temporary / name)
    for path in (run / "media").glob(f"*_{step}.*"):
        (temporary / "media").mkdir(exist_ok=True)
        shutil.copy(path, temporary / "media" / path.name)
    temporary.rename(place)


def _read(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "config" not in data:
        raise ConfigError(f"{path} was not written by a run.")
    return data
