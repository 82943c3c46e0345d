"""From a config to a run: builds every part, trains what it builds on first, and hands all to `Trainer`."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from trainer import checkpoints, hosts, plugins, run_folder, upstream, xla
from trainer.callbacks import Callback, Progress, TimeLimit
from trainer.callbacks.base import select
from trainer.checkpoints import Best
from trainer.config import check_complete
from trainer.config_json import to_json
from trainer.data import DataSource, FirstBatches
from trainer.errors import UserError
from trainer.feed import peek
from trainer.fit import FitResult
from trainer.lock import lock_folder
from trainer.optimizers import build_optimizer
from trainer.stopping import StopFlag, stop_on_signals
from trainer.task import Batch, Task, Upstream
from trainer.trainer import Trainer
from trainer.writers import ConsoleWriter


def run(
    config: ConfigDict, workdir: str | Path | None = None, mode: str = "fit", *, checkpoint: str = "last",
    fast_dev_run: int = 0, flag: StopFlag | None = None,
) -> Any:  # fmt: skip
    """Runs a config.

    ::

      result = run(load_config("configs/tokenizer.py:cpu"))

    Args:
      config: a whole config, see `trainer.config.base_config`.
      workdir: the run folder; None for ROOT/NAME.
      mode: `fit`, `eval` or `dry_run`.
      checkpoint: what `eval` evaluates: `last`, `best` (by the config's best_metric) or a step.
      fast_dev_run: try everything out in so many steps of each phase that is missing, in a temporary folder; 0: off.
      flag: where `fit` is asked to stop from outside; None to listen to signals (SIGTERM, SIGUSR1, Ctrl-C).

    Returns:
      What `Trainer.fit`, `Trainer.evaluate` or `Trainer.dry_run` returned. A `fit` that was stopped while it trained or
      tried out an upstream run, or prepared one, returns that run's result.

    Raises:
      UserError: something in the config, the data or the run folder cannot work; nothing was overwritten.
    """
    check_complete(config)
    with xla.compiling(quickly=config.quick_compilation):
        return _run(config, workdir, mode, checkpoint, fast_dev_run, flag)


def _run(
    config: ConfigDict, workdir: str | Path | None, mode: str, checkpoint: str, fast_dev_run: int, flag: StopFlag | None
) -> Any:
    folder = run_folder.locate(config, workdir)
    xla.use_compilation_cache(config.compilation_cache)
    xla.use_deterministic_kernels(config.deterministic)
    check_parts(config)
    if mode == "fit" and fast_dev_run:
        with stop_on_signals(flag) as flag:
            return _try_out(config, folder, fast_dev_run, flag)
    if mode == "dry_run":
        return _dry_run(config, folder)
    started = run_folder.check(folder, config, run_folder.MEASURING if mode == "eval" else ())
    if mode == "eval" and not started:
        raise UserError(f"there is nothing to evaluate in {folder}: train the run first, with --mode=fit.")
    phases = upstream.plan(config, folder)
    for phase in phases:
        if phase.note:
            hosts.say(phase.note)
    missing = [phase for phase in phases if phase.status != "finished"]
    if missing and (mode == "eval" or not config.upstream_autotrain):
        phase = missing[0]
        raise UserError(
            f"upstream {phase.name!r}: the run in {phase.folder} is {phase.status}. Train it first:\n  {phase.command}"
        )
    if mode == "eval":
        return _evaluate(config, folder, checkpoint)
    with stop_on_signals(flag) as flag:
        if missing:
            _check_chain(config, folder, phases, missing)
        for phase in missing:
            verb = "training it first" if phase.status == "missing" else "continuing it first"
            hosts.say(f"upstream {phase.name!r}: the run in {phase.folder} is {phase.status}; {verb} ({phase.source}).")
            result = _fit(phase.config, phase.folder, flag, _watching_upstream(config, folder))
            if result.stopped is not None and result.stopped.resumable:
                return result
        return _fit(config, folder, flag)


def check_parts(config: ConfigDict) -> None:
    """Raises ConfigError where a part does not exist or does not take its arguments; opens no data and no files."""
    plugins.build(config.task, "tasks")
    build_optimizer(config.optimizer, config.steps)
    plugins.check(config.data, "data")
    if config.eval_data:
        plugins.check(config.eval_data, "data")
    for group in ("evaluators", "callbacks", "writers"):
        for name, entry in config[group].items():
            plugins.check(entry, group, name, **_offered(group, entry, Path(), None, None))


def _offered(group: str, entry: Any, folder: Path, task: Task | None, schedule: Any) -> dict[str, Any]:
    """What a part gets without a setting of its own, where its signature names it."""
    if group == "evaluators":
        return {"task": task}
    if group == "callbacks":
        return {"workdir": folder, "schedule": schedule}
    media = entry.target in ("media", plugins.BUILTIN["writers"]["media"])
    own = folder / "media" if media else folder
    return {"workdir": folder, "logdir": folder, "folder": own, "path": folder / "metrics.jsonl"}


def _parts(config: ConfigDict, group: str, folder: Path, task: Task, schedule: Any = None) -> dict[str, Any]:
    return {
        name: plugins.build(entry, group, name, **_offered(group, entry, folder, task, schedule))
        for name, entry in config[group].items()
    }


def _watching_upstream(config: ConfigDict, folder: Path) -> dict[str, Callback]:
    """The callbacks of a run that also watch the upstream runs which are trained first, under names of their own."""
    offered = {"workdir": folder, "schedule": None}
    return {
        f"{config.name}/{name}": plugins.build(entry, "callbacks", name, **offered)
        for name, entry in config.callbacks.items()
        if getattr(plugins.check(entry, "callbacks", name, **offered)[0], "watches_upstream", False)
    }


def _fit(config: ConfigDict, folder: Path, flag: StopFlag, watching: Mapping[str, Callback] | None = None) -> FitResult:
    data, eval_data = _data(config)
    loaded = upstream.load(config)
    provenance = upstream.provenance(loaded)
    trainer = _trainer(config, folder, data, eval_data, loaded, provenance, watching)
    with hosts.together():
        trainer.check()  # so that what cannot work leaves no trace
    if stopped := _stopped(flag, folder):
        return stopped
    with contextlib.ExitStack() as stack:
        with hosts.together():  # the first process takes the folder, or refuses it, for all
            if hosts.is_first():
                stack.enter_context(_only_process(folder))
                if run_folder.check(folder, config) and run_folder.has_results(folder):
                    upstream.verify(folder, loaded)
                    run_folder.restore_example(folder, trainer.program.example)
                else:
                    run_folder.store(folder, config, provenance)
                    run_folder.write_example(folder, trainer.program.example)
        _ = trainer.training_data  # may take minutes, in which a stop is asked for
        if stopped := _stopped(flag, folder):
            return stopped
        return trainer.fit(flag)


def _stopped(flag: StopFlag, folder: Path) -> FitResult | None:
    """How a fit ends that was asked to stop before its first step."""
    reason = hosts.agree(flag.value)
    if reason is None:
        return None
    hosts.say(f"{folder.name}: stopped before its first step: {reason.reason}; start it again to continue")
    return FitResult(0, reason, {})


def _evaluate(config: ConfigDict, folder: Path, checkpoint: str) -> dict[str, float]:
    data, eval_data = _data(config)
    loaded = upstream.load(config)
    upstream.verify(folder, loaded)
    trainer = _trainer(config, folder, data, eval_data, loaded, upstream.provenance(loaded))
    return trainer.evaluate(checkpoints.find_step(folder, checkpoint, _best(config)))


def _try_out(config: ConfigDict, folder: Path, steps: int, flag: StopFlag) -> FitResult:
    """Runs `steps` steps of every phase that is missing, and of the run itself, and throws all of it away.

    A phase that is missing has no parameters yet, so what builds on it takes zeros in their place. Callbacks that speak
    of a run which is kept, and can be continued, are left out, and data is not prepared by the task.
    """
    phases = upstream.plan(config, folder)
    missing = [phase for phase in phases if phase.status != "finished"]
    built: dict[Path, Upstream] = {}
    result = FitResult(0, None, {})
    with tempfile.TemporaryDirectory(prefix="fast_dev_run-") as temporary:
        for name, tried in [*((phase.name, phase.config) for phase in missing), (config.name, config)]:
            hosts.say(f"fast_dev_run: {steps} step(s) of {name}, kept nowhere")
            loaded = upstream.stand_ins(tried, phases, _example, built) if missing else upstream.load(tried)
            trainer = _trainer(tried, Path(temporary) / name, *_data(tried), loaded, {})
            short = dataclasses.replace(
                trainer, steps=steps, log_every=1, eval_every=0, checkpoint_every=steps, eval_batches=1,
                limit_eval_batches=1, sanity_eval=0, writers=[ConsoleWriter()],
                callbacks=select(trainer.callbacks, lambda callback: not isinstance(callback, Progress | TimeLimit)),
            )  # fmt: skip
            short.training_data = short.data  # what `Task.prepare_data` makes of it is kept, and may be large
            with hosts.together():
                short.check()
            stopped = hosts.agree(flag.value)
            result = FitResult(0, stopped, {}) if stopped is not None else short.fit(flag)
            if result.stopped is not None and result.stopped.resumable:
                hosts.say(f"fast_dev_run: stopped in {name}: {result.stopped.reason}; nothing was kept")
                break
    return result


def _dry_run(config: ConfigDict, folder: Path) -> dict[str, Any]:
    data, eval_data = _data(config)
    loaded = upstream.stand_ins(config, upstream.plan(config, folder), _example, described=True)
    return _trainer(config, folder, data, eval_data, loaded, {}).dry_run()


def _check_chain(
    config: ConfigDict, folder: Path, phases: Sequence[upstream.Phase], missing: Sequence[upstream.Phase]
) -> None:
    """Refuses now what would otherwise show after hours, when a later phase of a chain begins."""
    built: dict[Path, Upstream] = {}

    def check(config: ConfigDict, folder: Path, data: DataSource, eval_data: DataSource | None) -> None:
        loaded = upstream.stand_ins(config, phases, _example, built)
        # The first phase is traced when it starts, right after this.
        _trainer(config, folder, data, eval_data, loaded, {}).check(trace=folder != missing[0].folder)

    for phase in missing:
        with _named(phase):
            check_parts(phase.config)
    sources = _data(config)
    for phase in missing:
        with _named(phase):
            check(phase.config, phase.folder, *_data(phase.config))
    check(config, folder, *sources)


@contextlib.contextmanager
def _named(phase: upstream.Phase) -> Iterator[None]:
    """Puts the phase's name before the message of an error."""
    try:
        yield
    except UserError as e:
        raise type(e)(f"upstream {phase.name!r} ({phase.source}): {e}") from e


def _example(phase: upstream.Phase) -> Batch:
    """The shapes of a phase's batches, as its run stored them or else from its data."""
    if (phase.folder / run_folder.EXAMPLE).exists():
        return run_folder.read_example(phase.folder)
    source = plugins.build(phase.config.data, "data")
    source.prepare()
    return peek(source, phase.config.seed)


def _trainer(
    config: ConfigDict, folder: Path, data: DataSource, eval_data: DataSource | None, loaded: Mapping[str, Upstream],
    provenance: Mapping[str, Any], watching: Mapping[str, Callback] | None = None,
) -> Trainer:  # fmt: skip
    task = plugins.build(config.task, "tasks")
    if config.overfit_batches:
        data, eval_data = (FirstBatches(data, config.overfit_batches, repeat=again) for again in (True, False))
    elif config.limit_train_batches:
        data = FirstBatches(data, config.limit_train_batches, repeat=True)
    optimizer, schedule = build_optimizer(config.optimizer, config.steps)
    first = jax.process_index() == 0
    return Trainer(
        task=task,
        data=data,
        eval_data=eval_data,
        workdir=folder,
        steps=config.steps,
        seed=config.seed,
        optimizer=optimizer,
        ema_decay=config.ema_decay or None,
        accumulate=config.accumulate,
        precision=config.precision,
        log_every=config.log_every,
        eval_every=config.eval_every,
        checkpoint_every=config.checkpoint_every,
        eval_batches=config.eval_batches,
        limit_eval_batches=config.limit_eval_batches,
        sanity_eval=config.sanity_eval,
        keep_checkpoints=config.keep_checkpoints,
        keep_every=config.keep_every,
        best=_best(config),
        on_save_error=config.on_save_error,
        evaluators=_parts(config, "evaluators", folder, task),
        callbacks={**_parts(config, "callbacks", folder, task, schedule), **(watching or {})},
        writers=list(_parts(config, "writers", folder, task).values()) if first else [],
        config=to_json(config),
        provenance=provenance,
        upstream=loaded,
        mesh_shape=config.mesh_shape or None,
        sharding_rules=[(regex, PartitionSpec(*axes)) for regex, axes in config.sharding_rules],
    )


def _best(config: ConfigDict) -> Best | None:
    return Best(config.best_metric, config.best_mode, config.keep_best) if config.best_metric else None


def _only_process(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the folder's lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot create the run folder {folder}: {e.strerror}. Give another --workdir=DIR.") from e
    return lock_folder(folder)


def _data(config: ConfigDict) -> tuple[DataSource, DataSource | None]:
    """The training and held-out data, prepared; of several processes the first one writes what is missing."""
    data = plugins.build(config.data, "data")
    eval_data = plugins.build(config.eval_data, "data") if config.eval_data else None
    for first in (True, False):
        with hosts.together():
            for source in (data, eval_data):
                if source is not None and hosts.is_first() == first:
                    source.prepare()
    return data, eval_data
