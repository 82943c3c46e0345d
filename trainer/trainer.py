"""`Trainer`: trains a task on data in a run folder, from the first step or the newest checkpoint to the last step."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from trainer import program, sharding
from trainer.callbacks import Callback, Callbacks, Run
from trainer.checkpoints import Checkpoints, Restored
from trainer.data import DataIterator, DataSource
from trainer.errors import CheckpointError, DataError
from trainer.evaluation import Evaluations, HeldOutMetrics, is_due, merge_evaluators
from trainer.feed import Fed, Feed, HeldOut, first_batch, open_iterator, shapes, signature
from trainer.metrics import Clock, StepMetrics, Window
from trainer.stopping import StopFlag, StopReason, stop_on_signals
from trainer.task import Batch, Evaluation, Evaluator, Task, Upstream
from trainer.writers import MultiWriter, keeps_record

RUN_AHEAD = 3  # steps that the host may be ahead of the device: enough to keep it busy, few enough to stop soon
_log = logging.getLogger(__name__)


class FitResult(NamedTuple):
    """How a fit ended.

    Attributes:
      step: updates done.
      stopped: why it ended before the last step, or None.
      metrics: the last value of every scalar.
    """

    step: int
    stopped: StopReason | None
    metrics: dict[str, float]


@dataclasses.dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains a task, and continues where it was interrupted.

    Attributes:
      task: what to train.
      data: training batches; they may differ in shape from step to step, each shape is compiled once.
      eval_data: held-out batches, or None.
      workdir: the run folder.
      steps: updates until the run is finished.
      seed: of parameters, noise and data order.
      optimizer: handed to `task.optimizer`.
      ema_decay: of the parameters' moving average; None for none.
      log_every: steps between two log lines.
      eval_every: steps between two evaluations; 0 for the last step alone.
      checkpoint_every: steps between two checkpoints; 0 for the last step (and stops) alone.
      eval_batches: held-out batches for the `eval/…` metrics.
      keep_checkpoints: newest checkpoints kept.
      evaluators: further ones beside the task's, by name.
      callbacks: see `Callback`.
      writers: see `Writer`; closed at the end.
      config: stored in checkpoints, JSON.
      provenance: of upstream runs, stored in checkpoints, JSON.
      upstream: runs that the task builds on.
      mesh_shape: devices on the axes (data, fsdp); None for all on `data`.
      sharding_rules: ordered (regex, PartitionSpec) over parameter paths; a parameter without a rule is replicated.
    """

    task: Task
    data: DataSource
    eval_data: DataSource | None = None
    workdir: Path
    steps: int
    seed: int = 0
    optimizer: optax.GradientTransformation
    ema_decay: float | None = None
    log_every: int = 50
    eval_every: int = 1000
    checkpoint_every: int = 1000
    eval_batches: int = 8
    keep_checkpoints: int = 3
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    writers: Sequence[Any] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    upstream: Mapping[str, Upstream] = dataclasses.field(default_factory=dict)
    mesh_shape: tuple[int, int] | None = None
    sharding_rules: Sequence[sharding.Rule] = ()
    _checked: bool = dataclasses.field(default=False, init=False, repr=False)

    def check(self) -> None:
        """Sets the task up and lets it and the evaluators look at the data, without writing anything.

        `fit` does so first, unless it has been done.

        Raises:
          UserError: something in the settings or the data cannot work.
        """
        if not self._checked:
            _ = self.program  # sets the task up
            self.task.check_batch(self._first_batch)
            del self._first_batch
            self._check_evaluators()
            self._checked = True

    def fit(self) -> FitResult:
        """Trains until the last step or a stop.

        Raises:
          CheckpointError: checkpoints are there, but none can be used.
          DataError: the checkpoint's data position does not fit the data.
        """
        flag = StopFlag()
        with stop_on_signals(flag):
            return _Fit(self, flag).run_to_end()

    def evaluate(self) -> dict[str, float]:
        """Runs all evaluators on the newest checkpoint; its figures are those that `fit` gave at that step.

        They are returned, and go to the writers that keep no record of the run (those without `resume`): the others
        have them already.

        Raises:
          CheckpointError: there is no checkpoint, or none that can be used.
        """
        restored = Checkpoints(self.workdir).restore(self.program.state)
        if restored is None:
            raise CheckpointError(f"{self.workdir} has no checkpoint to evaluate: train first, with --mode=fit.")
        self._check_evaluators()
        step, seconds = restored.meta["step"], restored.meta["seconds"]
        writers = [writer for writer in self.writers if not keeps_record(writer)]
        with contextlib.closing(MultiWriter(writers, lambda: seconds)) as writer:
            names = self.evaluations.due(step, last=True)
            result = self.evaluations.run(names, restored.state, self.program.frozen, self.held_out, step)
            _write(writer, step, result)
        return dict(result.scalars)

    def dry_run(self) -> dict[str, Any]:
        """Compiles the train step without running it; see `program.measure`."""
        return program.measure(self.program)

    @functools.cached_property
    def program(self) -> program.Program:
        """The task, set up and ready to compile."""
        example = shapes(self._first_batch)
        self.task.setup(self.upstream, example)
        rules, mesh = tuple(self.sharding_rules), sharding.make_mesh(self.mesh_shape)
        return program.build(self.task, self.optimizer, example, mesh=mesh, rules=rules, ema_decay=self.ema_decay)

    @functools.cached_property
    def _first_batch(self) -> Batch:
        """The first training batch; `check` lets go of it."""
        self.data.prepare()
        return first_batch(self.data, self.seed)

    @functools.cached_property
    def evaluations(self) -> Evaluations:
        """All evaluators, the same ones for `fit` and `evaluate`."""
        held_out = HeldOutMetrics(self.program.eval_step, self.eval_batches)
        own = {} if self.eval_data is None else {"eval": held_out}
        evaluators = merge_evaluators(own, self.task.evaluators(), self.evaluators)
        return Evaluations(evaluators, self.eval_every, self.seed)

    def _check_evaluators(self) -> None:
        if self.eval_data is not None:
            self.eval_data.prepare()
        held_out = None if self.eval_data is None else first_batch(self.eval_data, self.seed, "held-out")
        self.evaluations.check(None if held_out is None else shapes(held_out))
        if held_out is not None:
            self.task.check_batch(held_out)

    @functools.cached_property
    def held_out(self) -> HeldOut:
        """Batches for evaluators; none without `eval_data`."""
        return HeldOut(self.eval_data, self.seed, self.put)

    def put(self, batch: Batch) -> Batch:
        """Puts a batch on the devices."""
        return sharding.put_batch(batch, self.program.mesh)


class _Fit:
    """One call of `Trainer.fit`."""

    def __init__(self, trainer: Trainer, flag: StopFlag) -> None:
        trainer.check()
        self.trainer, self.program = trainer, trainer.program
        self.clock, self.window = Clock(), Window()
        self.callbacks = Callbacks(trainer.callbacks)
        self.checkpoints = Checkpoints(trainer.workdir, keep=trainer.keep_checkpoints)
        restored = self.checkpoints.restore(self.program.state, fingerprint=trainer.data.fingerprint())
        self.seconds_before = 0.0  # of training in earlier processes
        self.evaluated: list[str] = []  # evaluators that have run at this very step
        self.compiled: set[Any] = set()
        self.saved_as_complete = False
        self.run = Run(
            workdir=trainer.workdir, task=trainer.task, config=trainer.config, steps=trainer.steps, step=0,
            state=restored.state if restored else self.program.init(jax.random.key(trainer.seed)),
            frozen=self.program.frozen, scalars={}, flag=flag, comparisons=trainer.evaluations.comparisons,
            writer=MultiWriter(trainer.writers if jax.process_index() == 0 else (), lambda: self.clock.seconds),
        )  # fmt: skip
        iterator = open_iterator(trainer.data, trainer.seed)
        if restored:
            self._restore(restored, iterator)
        self.feed = Feed(iterator, trainer.put)

    def run_to_end(self) -> FitResult:
        run, writer = self.run, self.run.writer
        with contextlib.ExitStack() as stack:
            stack.callback(self.checkpoints.close)
            stack.callback(writer.close)
            try:
                writer.resume(run.step)
                if run.step == 0:
                    writer.write_hparams(run.config)
                self.clock.start(self.seconds_before)
                self.callbacks.call("on_fit_start", run)
                self._loop()
                self.checkpoints.wait()
                self.callbacks.call("on_fit_end", run)
            except BaseException as error:
                self.callbacks.call("on_exception", run, error)
                raise
        return FitResult(run.step, run.stopped, run.scalars)

    def _loop(self) -> None:
        run, trainer = self.run, self.trainer
        self._make_up_evaluations()
        while run.step < run.steps and run.stopped is None:  # the stop test
            fed = self.feed.take()
            if fed is None:
                run.request_stop("the training data has ended", resumable=False)
                break
            self.callbacks.call("on_step_start", run)
            metrics = self._update(fed)
            self.callbacks.call("on_step_end", run, metrics)
            last = run.step == run.steps
            if not last:
                self.feed.read_ahead()  # while the device computes
            if last or is_due(run.step, trainer.log_every):
                self._log()
            if names := trainer.evaluations.due(run.step, last):
                self._evaluate(names)
            if last or is_due(run.step, trainer.checkpoint_every):
                self._save()
        if run.saved != run.step or self._complete() != self.saved_as_complete:
            self._save()

    def _update(self, fed: Fed) -> StepMetrics:
        run, shapes = self.run, signature(fed.batch)
        new_shapes = shapes not in self.compiled
        if new_shapes:
            self.compiled.add(shapes)
            self.window.wait()
        started = time.perf_counter()
        with self.clock.paused() if new_shapes else contextlib.nullcontext():
            run.state, metrics = self.program.step(run.state, run.frozen, fed.batch)
        if run.first_step_s is None:
            run.first_step_s = time.perf_counter() - started
        run.step += 1
        self.evaluated = []
        self.window.add(metrics, self.trainer.task.frames_per_batch(fed.batch) or 0)
        self.window.wait(behind=RUN_AHEAD)
        return metrics

    def _log(self) -> None:
        run, window = self.run, self.window
        scalars = {f"train/{name}": mean for name, mean in window.means().items()}  # waits for the device
        seconds = max(self.clock.seconds - window.started, 1e-9)
        scalars["train/steps_per_s"] = window.steps / seconds
        if window.frames:
            scalars["train/frames_per_s"] = window.frames / seconds
        self.window = Window(started=self.clock.seconds)
        try:
            self.callbacks.call("on_log", run, scalars)
        finally:  # a callback that gives up must not take the line with it that says why
            run.scalars.update(scalars)
            run.writer.write_scalars(run.step, scalars)

    def _evaluate(self, names: Sequence[str]) -> None:
        run, trainer = self.run, self.trainer
        self.window.wait()
        with self.clock.paused():
            result = trainer.evaluations.run(names, run.state, run.frozen, trainer.held_out, run.step)
            self.evaluated += names
            scalars = dict(result.scalars)
            try:
                self.callbacks.call("on_eval", run, scalars)
            finally:
                run.scalars.update(scalars)
                _write(run.writer, run.step, result._replace(scalars=scalars))

    def _save(self) -> None:
        run, trainer = self.run, self.trainer
        final_stop = run.stopped if run.stopped and not run.stopped.resumable else None
        self.window.wait()
        self.saved_as_complete = self._complete()
        meta = {
            "steps": run.steps,
            "complete": self.saved_as_complete,
            "stopped": final_stop,
            "config": trainer.config,
            "provenance": trainer.provenance,
            "fingerprint": trainer.data.fingerprint(),
            "callbacks": self.callbacks.state(),
            "window": self.window.state(),
            "scalars": run.scalars,
            "evaluated": self.evaluated,
            "seconds": self.clock.seconds,
        }
        with self.clock.paused():
            run.writer.flush()  # a resumed run cuts lines back to this step, so they have to be there
            self.checkpoints.save(run.step, run.state, self.feed.position, meta)
            run.saved = run.step
            self.callbacks.call("on_checkpoint", run, run.step)

    def _complete(self) -> bool:
        return self.run.step >= self.run.steps or bool(self.run.stopped and not self.run.stopped.resumable)

    def _restore(self, restored: Restored, iterator: DataIterator) -> None:
        run, meta = self.run, restored.meta
        run.step = run.saved = meta["step"]
        run.scalars.update(meta["scalars"])
        self.seconds_before, self.evaluated, self.saved_as_complete = (
            meta["seconds"],
            meta["evaluated"],
            meta["complete"],
        )
        self.window.load_state(meta["window"])
        self.callbacks.load_state(meta["callbacks"])
        if meta["stopped"]:
            run.request_stop(*meta["stopped"])
        try:
            iterator.set_state(meta["data_position"])
        except Exception as error:
            raise DataError(f"The data cannot be continued after step {run.step}: {error}") from error

    def _make_up_evaluations(self) -> None:
        """Evaluates at the last step what has not been, when a run is continued with fewer steps than planned."""
        run = self.run
        if run.step == run.steps:
            missing = [name for name in self.trainer.evaluations.due(run.step, last=True) if name not in self.evaluated]
            if missing:
                self._evaluate(missing)
                self._save()


def _write(writer: MultiWriter, step: int, result: Evaluation) -> None:
    """Writes an evaluation; clu's writers take several pictures under a name, so each gets a leading axis."""
    if result.scalars:
        writer.write_scalars(step, result.scalars)
    writer.write_images(step, {name: image[None] for name, image in result.images.items()})
    writer.write_videos(step, {name: video[None] for name, video in result.videos.items()})
