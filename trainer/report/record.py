"""Reads what a run folder says of its run; what is missing or damaged is named and left out."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.run_folder import CONFIG
from trainer.task import Comparison
from trainer.writers.jsonl import read_jsonl

ABOUT = "report.json"
_MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif"}


class Series(NamedTuple):
    """A scalar over the run.

    Attributes:
      steps: rising.
      values: one for each step; may be NaN or infinite.
    """

    steps: list[int]
    values: list[float]


class Medium(NamedTuple):
    """The newest picture or video of a name.

    Attributes:
      name: its name, as far as a file name keeps it.
      path: the file.
      kind: its MIME type.
      step: when it was made, where a file with the step is still there.
    """

    name: str
    path: Path
    kind: str
    step: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A run, as its folder tells it.

    Attributes:
      folder: the run folder.
      config: the stored config, JSON data.
      upstream: of every run in `config.upstream` what was recorded: `run`, and `step` and `config` (a hash).
      about: what the report callback wrote; empty for runs without it.
      comparisons: the evaluators' figures and their references.
      series: all scalars, by name.
      seconds: of training, or None.
      media: the newest ones, by name.
      problems: a line for each thing that could not be read.
    """

    folder: Path
    config: Mapping[str, Any]
    upstream: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]
    comparisons: list[Comparison]
    series: Mapping[str, Series]
    seconds: float | None
    media: list[Medium]
    problems: list[str]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.config.get("name") or self.folder.resolve().name)

    @property
    def step(self) -> int | None:
        """The newest step that anything is known of."""
        step = self.about.get("step")
        if isinstance(step, int):
            return step
        return max((series.steps[-1] for series in self.series.values()), default=None)

    @property
    def steps(self) -> int | None:
        """The step at which the run is finished."""
        steps = self.about.get("steps", self.config.get("steps"))
        return steps if isinstance(steps, int) else None

    @property
    def state(self) -> str:
        """`finished`, `stopped`, `failed`, `running`, or "" where nobody knows."""
        state = self.about.get("state")
        if state in ("finished", "stopped", "failed", "running"):
            return state
        return "finished" if self.step is not None and self.steps and self.step >= self.steps else ""

    def last(self, metric: str) -> float | None:
        """The newest value of a scalar; None where it was never logged."""
        return self.series[metric].values[-1] if metric in self.series else None


def read_record(folder: Path) -> Record:
    """Reads a run folder; never raises for what is in it."""
    problems: list[str] = []
    stored = _read_json(folder / CONFIG, problems)
    config = _mapping(stored.get("config", stored))
    recorded = _mapping(stored.get("upstream")) if "config" in stored else {}
    upstream: dict[str, dict[str, Any]] = {}
    for name, entry in _mapping(config.get("upstream")).items():
        then = _mapping(recorded.get(name))
        run = then.get("run", _mapping(entry).get("run"))
        if isinstance(run, str):
            upstream[name] = {**then, "run": run}
    about = _read_json(folder / ABOUT, problems) if (folder / ABOUT).exists() else {}
    series, seconds = _read_series(folder / "metrics.jsonl", problems)
    return Record(
        folder=folder, config=config, upstream=upstream, about=about, comparisons=_comparisons(about), series=series,
        seconds=seconds, media=_read_media(folder / "media", problems), problems=problems,
    )  # fmt: skip


def read_chain(folder: Path) -> tuple[Record, list[tuple[str, Mapping[str, Any], Record]]]:
    """Reads a run and every run it builds on, directly or not, each once.

    Returns:
      The run's record; and of every upstream run its name, its entry in `Record.upstream`, and its record.
    """
    record = read_record(folder)
    below: list[tuple[str, Mapping[str, Any], Record]] = []
    seen = {folder.resolve()}
    queue = [record]
    while queue:
        for name, entry in queue.pop(0).upstream.items():
            place = Path(entry["run"]).expanduser()
            if place.resolve() not in seen:
                seen.add(place.resolve())
                below.append((name, entry, read_record(place)))
                queue.append(below[-1][2])
    return record, below


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read: {_why(error)}.")
        return {}
    return _mapping(data)


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _comparisons(about: Mapping[str, Any]) -> list[Comparison]:
    found = []
    for entry in about.get("comparisons") or ():
        entry = {name: value for name, value in _mapping(entry).items() if name in Comparison._fields}
        if isinstance(entry.get("metric"), str):
            known = {k: v for k, v in _mapping(entry.get("references")).items() if isinstance(v, str | int | float)}
            found.append(Comparison(**{"meaning": "", **entry, "references": known}))
    return found


def _read_series(path: Path, problems: list[str]) -> tuple[dict[str, Series], float | None]:
    try:
        lines = read_jsonl(path)
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problems.append(f"{path} cannot be read: {_why(error)}.")
        return {}, None
    series: dict[str, Series] = {}
    seconds = None
    for line in lines:
        step = line.pop("step")
        seconds = line.pop("time", seconds)
        for name, value in line.items():
            if isinstance(value, int | float):
                steps, values = series.setdefault(name, Series([], []))
                steps.append(step)
                values.append(float(value))
    return series, seconds if isinstance(seconds, int | float) and math.isfinite(seconds) else None


def _read_media(folder: Path, problems: list[str]) -> list[Medium]:
    """The file `NAME.png` or `.gif` of every name; the one of the highest step where that is gone."""
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix in _MEDIA_TYPES) if folder.is_dir() else []
    except OSError as error:
        problems.append(f"{folder} cannot be read: {_why(error)}.")
        return []
    present = {path.name for path in paths}
    by_name: dict[tuple[str, str], dict[int | None, Path]] = {}
    for path in paths:
        name, step = path.stem, None
        match = re.fullmatch(r"(.+)_(\d+)", path.stem)
        # A name may itself end in a number: then there are files that add a step to it.
        own = any(re.fullmatch(rf"{re.escape(path.stem)}_\d+{path.suffix}", other) for other in present)
        if match and not own:
            name, step = match[1], int(match[2])
        by_name.setdefault((name, path.suffix), {})[step] = path
    media = []
    for (name, suffix), versions in by_name.items():
        numbered = sorted(step for step in versions if step is not None)
        newest = versions.get(None)
        if newest is None:
            path, step = versions[numbered[-1]], numbered[-1]
        else:
            path, step = newest, _step_of(newest, versions, numbered)
        media.append(Medium(name, path, _MEDIA_TYPES[suffix], step))
    return media


def _step_of(newest: Path, versions: Mapping[int | None, Path], numbered: list[int]) -> int | None:
    """The step of the file of the same content: a run that was set back keeps files of later steps."""
    try:
        content = newest.read_bytes()
        for step in reversed(numbered):
            if versions[step].stat().st_size == len(content) and versions[step].read_bytes() == content:
                return step
    except OSError:
        pass
    return None
