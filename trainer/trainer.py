"""`Trainer`: trains a task on data in a run folder, from the first step or the newest checkpoint to the last step."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import optax

from trainer import hosts, program, sharding
from trainer.callbacks import Callback
from trainer.checkpoints import Best, Checkpoints
from trainer.data import DataSource, batch_sizes
from trainer.errors import CheckpointError, ConfigError
from trainer.evaluation import Evaluations, HeldOutMetrics, merge_evaluators, write_evaluation
from trainer.feed import HeldOut, first_batch, peek, shapes
from trainer.fit import Fit, FitResult
from trainer.stopping import StopFlag, stop_on_signals
from trainer.task import Batch, Evaluator, Task, Upstream
from trainer.writers import MultiWriter, keeps_record


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
      accumulate: parts that a batch is computed in; see `trainer.update.Update`.
      precision: of activations and products, likewise.
      log_every: steps between two log lines.
      eval_every: steps between two evaluations; 0 for the last step alone.
      checkpoint_every: steps between two checkpoints; 0 for the last step (and stops) alone.
      eval_batches: held-out batches for the `eval/…` metrics.
      limit_eval_batches: held-out batches that any evaluation may use; 0 for as many as it asks for.
      sanity_eval: held-out batches that all evaluations are tried on before the first step; 0 for none.
      keep_checkpoints: newest checkpoints kept.
      keep_every: steps between two checkpoints that are kept for good; 0 for none.
      best: keeps the best checkpoints too, each saved when it is evaluated; None for none.
      on_save_error: `stop` or `continue`, when a checkpoint, metrics or a report cannot be written.
      evaluators: further ones beside the task's, by name.
      callbacks: see `Callback`; by name, or several without names.
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
    accumulate: int = 1
    precision: str = "float32"
    log_every: int = 50
    eval_every: int = 1000
    checkpoint_every: int = 1000
    eval_batches: int = 8
    limit_eval_batches: int = 0
    sanity_eval: int = 0
    keep_checkpoints: int = 3
    keep_every: int = 0
    best: Best | None = None
    on_save_error: Literal["stop", "continue"] = "stop"
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    callbacks: Mapping[str, Callback] | Sequence[Callback] = ()
    writers: Sequence[Any] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    upstream: Mapping[str, Upstream] = dataclasses.field(default_factory=dict)
    mesh_shape: tuple[int, int] | None = None
    sharding_rules: Sequence[sharding.Rule] = ()
    _checked: bool = dataclasses.field(default=False, init=False, repr=False)

    def check(self, *, trace: bool = True) -> None:
        """Sets the task up, lets it and the evaluators look at the data, and traces an update; writes nothing.

        `fit` does so first, unless it has been done.

        Args:
          trace: whether to trace; the first update takes the same trace, so that this costs nothing where it follows.

        Raises:
          UserError: something in the settings, the data or what the task returns cannot work.
        """
        if not self._checked:
            _ = self.program  # sets the task up
            self._check_rows("training", self.data, self._first_batch, parts=self.accumulate)
            self.task.check_batch(self._first_batch)
            del self._first_batch
            self._check_evaluators()
            if not self.evaluations.due(0, last=True):
                for setting, figure in self.awaited.items():
                    raise ConfigError(f"{setting} = {figure!r}, but the run has no evaluation: give eval_data.")
            if trace:
                self.program.trace()
            self._checked = True

    def fit(self, flag: StopFlag | None = None) -> FitResult:
        """Trains until the last step or a stop.

        Args:
          flag: where a stop may be asked for from outside; None to listen to signals (SIGTERM, SIGUSR1, Ctrl-C).

        Raises:
          CheckpointError: checkpoints are there, but none can be used.
          DataError: the checkpoint's data position does not fit the data.
        """
        self.check()
        with stop_on_signals(flag) as flag:
            return Fit(self, flag).run_to_end()

    def evaluate(self, checkpoint: int | None = None) -> dict[str, float]:
        """Runs all evaluators on a checkpoint; its figures are those that `fit` gave at that step.

        They are returned, and go to the writers that keep no record of the run (those without `resume`): the others
        have them already.

        Args:
          checkpoint: its step; None for the newest.

        Raises:
          CheckpointError: there is no checkpoint, or none that can be used.
        """
        restored = Checkpoints(self.workdir).restore(self.program.state, step=checkpoint)
        if restored is None:
            raise CheckpointError(f"{self.workdir} has no checkpoint to evaluate: train first, with --mode=fit.")
        self._check_evaluators()
        step, seconds = restored.meta["step"], restored.meta["seconds"]
        writers = [writer for writer in self.writers if not keeps_record(writer)]
        with contextlib.closing(MultiWriter(writers, lambda: seconds)) as writer:
            names = self.evaluations.due(step, last=True)
            result = self.evaluations.run(names, restored.state, self.program.frozen, self.held_out, step)
            write_evaluation(writer, step, result)
        return dict(result.scalars)

    def dry_run(self) -> dict[str, Any]:
        """Compiles the train step without running it, after all checks of `fit`; see `program.measure`."""
        self.check()
        return program.measure(self.program)

    @functools.cached_property
    def program(self) -> program.Program:
        """The task, set up and ready to compile."""
        example = shapes(self._first_batch)
        self.task.setup(self.upstream, example)
        rules, mesh = tuple(self.sharding_rules), sharding.make_mesh(self.mesh_shape)
        return program.build(
            self.task, self.optimizer, example, mesh=mesh, rules=rules, ema_decay=self.ema_decay,
            accumulate=self.accumulate, precision=self.precision,
        )  # fmt: skip

    @functools.cached_property
    def _first_batch(self) -> Batch:
        """The first training batch; `check` lets go of it."""
        self.data.prepare()
        return first_batch(self.data, self.seed)

    @functools.cached_property
    def training_data(self) -> DataSource:
        """What updates see: `data`, as the task prepares it."""
        data = self.data
        for first in (True, False):
            with hosts.together():
                if hosts.is_first() == first:
                    data = self.task.prepare_data(self.data)
        return data

    @functools.cached_property
    def trained_example(self) -> Batch:
        """Shapes and dtypes of the first batch of `training_data`."""
        data = self.training_data
        return self.program.example if data is self.data else peek(data, self.seed)

    @functools.cached_property
    def evaluations(self) -> Evaluations:
        """All evaluators, the same ones for `fit` and `evaluate`."""
        held_out = HeldOutMetrics(self.program.eval_step, self.eval_batches)
        own = {} if self.eval_data is None else {"eval": held_out}
        evaluators = merge_evaluators(own, self.task.evaluators(), self.evaluators)
        return Evaluations(evaluators, self.eval_every, self.seed, self.precision)

    @functools.cached_property
    def awaited(self) -> dict[str, str]:
        """The evaluations' figures that the run cannot do without, by the setting that names each."""
        best = {} if self.best is None else {"best_metric": self.best.metric}
        callbacks = self.callbacks
        named = callbacks.items() if isinstance(callbacks, Mapping) else [("", callback) for callback in callbacks]
        of_callbacks = {
            f"callbacks.{name}.{setting}" if name else f"{type(callback).__name__}.{setting}": figure
            for name, callback in named for setting, figure in callback.awaits().items()
        }  # fmt: skip
        return best | of_callbacks

    def _check_evaluators(self) -> None:
        if self.eval_data is not None:
            self.eval_data.prepare()
        held_out = None if self.eval_data is None else first_batch(self.eval_data, self.seed, "held-out")
        self.evaluations.check(None if held_out is None else shapes(held_out))
        if self.eval_data is not None and held_out is not None:
            self._check_rows("held-out", self.eval_data, held_out)
            self.task.check_batch(held_out)

    def _check_rows(self, what: str, source: DataSource, first: Batch, parts: int = 1) -> None:
        """Raises ConfigError where batches of any size that the source tells of cannot be dealt out evenly."""
        devices = self.program.mesh.size
        rows = next((leaf.shape[0] for leaf in jax.tree.leaves(shapes(first)) if leaf.shape), 0)
        for size in sorted({rows, *batch_sizes(source)}):
            for count, aim in ((devices, f"over {devices} devices"), (parts, f"into accumulate = {parts} parts")):
                if size % count:
                    raise ConfigError(
                        f"The {what} data has batches of {size} rows, which cannot be split {aim}: make the batch size "
                        f"(of long and of short batches) a multiple of {count}."
                    )
        sharding.check_batch(first, self.program.mesh)

    @functools.cached_property
    def held_out(self) -> HeldOut:
        """Batches for evaluators; none without `eval_data`."""
        return HeldOut(self.eval_data, self.seed, self.put, self.limit_eval_batches)

    def put(self, batch: Batch) -> Batch:
        """Puts a batch on the devices."""
        return sharding.put_batch(batch, self.program.mesh)
