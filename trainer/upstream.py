"""Runs that build on other runs: what must be trained first, and how a finished run is loaded."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from trainer import checkpoints, plugins, run_folder
from trainer.config import check_complete, load_config
from trainer.config_json import NEUTRAL, diff
from trainer.errors import CheckpointError, ConfigError
from trainer.task import Batch, Upstream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A run that another one needs.

    Attributes:
      name: its name in `config.upstream`.
      folder: its run folder.
      config: the config it was made with, or will be.
      source: what to give as `--config` to make it.
      status: whether it is there.
      note: one line the user should know, or "".
    """

    name: str
    folder: Path
    config: ConfigDict
    source: str
    status: Literal["finished", "unfinished", "missing"]
    note: str = ""

    @property
    def command(self) -> str:
        """The command that makes the run."""
        elsewhere = self.status == "missing" and run_folder.locate(self.config).resolve() != self.folder.resolve()
        return run_folder.command(self.source, self.folder if elsewhere else None)


def plan(config: ConfigDict, folder: Path) -> list[Phase]:
    """Every run that `config` builds on, directly or not, each once and before those that need it.

    Args:
      config: the config of the run in `folder`.
      folder: its run folder.

    Raises:
      ConfigError: runs that need each other, a config that cannot be read, a run whose own upstream is gone.
    """
    phases: dict[Path, Phase] = {}
    _plan(config, phases, [(folder.resolve(), str(folder))])
    return list(phases.values())


def _plan(config: ConfigDict, phases: dict[Path, Phase], chain: list[tuple[Path, str]]) -> None:
    for name, entry in config.upstream.items():
        folder = Path(entry.run).expanduser()
        place = folder.resolve()
        if place in [path for path, _ in chain]:
            names = [text for _, text in chain[[path for path, _ in chain].index(place) :]]
            raise ConfigError(
                f"upstream runs form a circle: {' → '.join([*names, str(folder)])}. Break it in one config."
            )
        if place in phases:
            continue
        phase = _phase(name, folder, entry.get("config"))
        _plan(phase.config, phases, [*chain, (place, str(folder))])
        phases[place] = phase
    folder = chain[-1][0]
    if checkpoints.finished(folder) is None:
        return
    for entry in config.upstream.values():
        lower = phases[Path(entry.run).expanduser().resolve()]
        if lower.status != "finished":
            raise ConfigError(
                f"{chain[-1][1]} was trained on {lower.folder}, which is now {lower.status}: it cannot be used without "
                f"it. Restore {lower.folder}, or move both away and train them anew."
            )


def _phase(name: str, folder: Path, named: str | None) -> Phase:
    if not (folder / run_folder.CONFIG).exists():
        if not named:
            raise ConfigError(
                f"upstream {name!r}: there is no run in {folder}, and upstream.{name}.config does not say how to train "
                f"it. Give --config.upstream.{name}.config=configs/FILE.py:PRESET."
            )
        config = load_config(named)
        check_complete(config)
        run_folder.check(folder, config)
        return Phase(name=name, folder=folder, config=config, source=named, status="missing")
    config, note = run_folder.read_config(folder), ""
    if named:
        try:
            lines = diff(load_config(named), config, NEUTRAL)
        except ConfigError:
            lines = []
        if lines:
            shown = "; ".join(lines[:3]) + ("; …" if len(lines) > 3 else "")
            note = f"upstream {name!r}: {folder} differs from {named} ({shown}); it is used as it is."
    progress = checkpoints.finished(folder)
    return Phase(
        name=name, folder=folder, config=config, source=str(folder / run_folder.CONFIG),
        status="finished" if progress and progress.complete else "unfinished", note=note,
    )  # fmt: skip


def load_upstream(run: str | Path, step: int | None = None) -> Upstream:
    """Rebuilds the task of a finished run from its own config and reads its parameters, and those of its upstream.

    ::

      tokenizer = load_upstream("logs/tokenizer-cpu")
      loss = tokenizer.task.loss(tokenizer.params, tokenizer.frozen, batch, …)

    Args:
      run: a run folder.
      step: the checkpoint to read; None for the last.

    Raises:
      UserError: no such run or checkpoint, or parameters of another shape than the task's.
    """
    return _load(Path(run).expanduser(), step, {})


def load(config: ConfigDict) -> dict[str, Upstream]:
    """The runs that `config.upstream` names, by name; a run that several phases need is read once."""
    loaded: dict[Path, Upstream] = {}
    return {name: _load(Path(entry.run).expanduser(), None, loaded) for name, entry in config.upstream.items()}


def _load(run: Path, step: int | None, loaded: dict[Path, Upstream]) -> Upstream:
    place = run.resolve()
    if place in loaded:
        return loaded[place]
    config = run_folder.read_config(run)
    upstream = {name: _load(Path(entry.run).expanduser(), None, loaded) for name, entry in config.upstream.items()}
    verify(run, upstream)
    example = run_folder.read_example(run)
    task = plugins.build(config.task, "tasks")
    task.setup(upstream, example)
    wanted = jax.eval_shape(task.init_params, jax.random.key(0), example)
    read = checkpoints.read_params(run, step, wanted)
    params = jax.device_put(read.params)  # once, not at every step that takes them as an argument
    loaded[place] = Upstream(task=task, params=params, run=run, step=read.step)
    return loaded[place]


def stand_ins(
    config: ConfigDict, phases: Sequence[Phase], example: Callable[[Phase], Batch],
    built: dict[Path, Upstream] | None = None, described: bool = False,
) -> dict[str, Upstream]:  # fmt: skip
    """Stand-ins for the runs that `config.upstream` names, before they are trained: parameters are zeros.

    Args:
      config: the config of the run itself.
      phases: what `plan` returned.
      example: gives the shapes of a phase's batches.
      built: stand-ins that are there already, by folder; new ones are added.
      described: give `jax.ShapeDtypeStruct`s for parameters, which take no memory.
    """
    by_place = {phase.folder.resolve(): phase for phase in phases}
    built = {} if built is None else built

    def build(entry: Mapping[str, Any]) -> Upstream:
        place = Path(entry["run"]).expanduser().resolve()
        if place not in built:
            phase = by_place[place]
            batch, task = example(phase), plugins.build(phase.config.task, "tasks")
            task.setup({name: build(below) for name, below in phase.config.upstream.items()}, batch)
            shapes = jax.eval_shape(task.init_params, jax.random.key(0), batch)
            params = shapes if described else jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            built[place] = Upstream(task=task, params=params, run=phase.folder, step=0)
        return built[place]

    return {name: build(entry) for name, entry in config.upstream.items()}


def provenance(upstream: Mapping[str, Upstream]) -> dict[str, Any]:
    """What a run was built on, as JSON data for its checkpoints."""
    return {
        name: {
            "run": str(run.run),
            "step": int(run.step),
            "config": run_folder.stored_hash(run.run),
            "parameters": run.fingerprint,
        }
        for name, run in upstream.items()
    }


def verify(folder: Path, upstream: Mapping[str, Upstream]) -> None:
    """Raises CheckpointError where a run was started on other upstream parameters than those that are there now."""
    recorded = run_folder.stored_provenance(folder)
    for name, now in provenance(upstream).items():
        then = {**now, **recorded.get(name, {})}  # runs of before know nothing of parameters
        if any(then[part] != now[part] for part in ("step", "config", "parameters")):
            was, found = (
                f"at step {it['step']} (config {it['config']}, parameters {it['parameters']})" for it in (then, now)
            )
            raise CheckpointError(
                f"{folder} was trained on {then['run']} {was}, but {now['run']} is now {found}. Restore the former, or "
                f"train {folder} anew under another name."
            )
