"""The loop: one fit of a `Trainer`, in the one order that `Callback` tells."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from trainer import hosts
from trainer.callbacks import Callbacks, Run
from trainer.callbacks.base import select
from trainer.checkpoints import Checkpoints, Restored
from trainer.data import DataIterator
from trainer.device_rate import utilization
from trainer.errors import CheckpointError, ConfigError, DataError, UserError, near_matches, with_places
from trainer.evaluation import is_due, write_evaluation
from trainer.feed import Fed, Feed, HeldOut, open_iterator, signature
from trainer.metrics import RUN_AHEAD, Clock, StepMetrics, Window
from trainer.stopping import StopFlag, StopReason
from trainer.writers import MultiWriter

if TYPE_CHECKING:
    from trainer.trainer import Trainer

_log = logging.getLogger(__name__)

# What no full or broken disk raises: a callback's or an evaluator's own error.
_OF_NO_DISK = (FileNotFoundError, ConnectionError, TimeoutError, ChildProcessError, ProcessLookupError)


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


class Fit:
    """One call of `Trainer.fit`, from what the newest checkpoint holds to the last step or a stop.

    Args:
      trainer: the settings, checked.
      flag: where a stop is asked for.
    """

    def __init__(self, trainer: "Trainer", flag: StopFlag) -> None:
        self.trainer, self.program = trainer, trainer.program
        self.clock, self.window = Clock(), Window()
        self.callbacks = Callbacks(select(trainer.callbacks, lambda c: hosts.is_first() or c.everywhere))
        self.flag = hosts.AgreedFlag(flag)
        self.checkpoints = Checkpoints(
            trainer.workdir, keep=trainer.keep_checkpoints, keep_every=trainer.keep_every, best=trainer.best
        )
        restored = self.checkpoints.restore(self.program.state, fingerprint=trainer.training_data.fingerprint())
        self.compiled: Callable[[], None] = lambda: None  # waits for it
        if restored is None or restored.meta["step"] < trainer.steps:
            self.compiled = self.program.compile_ahead(trainer.trained_example)  # while the rest is made ready
        self.seconds_before = 0.0  # of training in earlier processes
        self.evaluated: list[str] = []  # evaluators that have run at this very step
        self.measured: dict[str, float] = {}  # what they gave
        self.tried: set[str] = set()  # evaluators that have run in this process
        self.figures: set[str] = set()  # what all of them gave
        self.flops: dict[Any, float] = {}  # of an update, by the shapes that have been compiled
        self.saved_as_complete = False
        self.run = Run(
            workdir=trainer.workdir, task=trainer.task, config=trainer.config, steps=trainer.steps, step=0,
            state=restored.state if restored else self.program.init(jax.random.key(trainer.seed)),
            frozen=self.program.frozen, scalars={}, flag=self.flag, comparisons=trainer.evaluations.comparisons,
            writer=MultiWriter(trainer.writers if hosts.is_first() else (), lambda: self.clock.seconds),
            clock=self.clock,
        )  # fmt: skip
        self.checkpoints.pinned = self.run.pinned
        iterator = open_iterator(trainer.training_data, trainer.seed)
        if restored:
            self._restore(restored, iterator)
        self.feed = Feed(iterator, (lambda batch: batch) if self.program.takes_numpy else trainer.put)

    def run_to_end(self) -> FitResult:
        """Trains."""
        run, writer = self.run, self.run.writer
        with contextlib.ExitStack() as stack:
            stack.callback(self.checkpoints.close)
            stack.push(self._close_writer)
            try:
                with hosts.together():
                    writer.resume(run.step)
                    if run.step == 0:
                        writer.write_hparams(run.config)
                    self.clock.start(self.seconds_before)
                    self.callbacks.call("on_fit_start", run)
                self._sanity_evaluation()
                self._loop()
                self.checkpoints.wait()
                with hosts.together():
                    self.callbacks.call("on_fit_end", run)
            except BaseException as error:
                self.callbacks.call("on_exception", run, error)
                raise
        return FitResult(run.step, run.stopped, run.scalars)

    def _loop(self) -> None:
        run, trainer = self.run, self.trainer
        if run.step == run.steps and self._make_up_evaluations():  # continued with fewer steps than planned
            self._save()
        self.flag.agree()
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
            if logs := last or is_due(run.step, trainer.log_every):
                self._log()
            if names := trainer.evaluations.due(run.step, last):
                self._evaluate(names)
            best = bool(names) and self.checkpoints.is_best(self.measured)
            unknown = self._unknown_figure(names, last) if names else ""
            saves = last or best or bool(unknown) or is_due(run.step, trainer.checkpoint_every)
            if logs or names or saves or is_due(run.step, hosts.SYNC_EVERY):
                self.flag.agree()
            if saves:
                self._save()
            if unknown:
                raise ConfigError(unknown)
        self.flag.agree()
        if run.saved != run.step or self._complete() != self.saved_as_complete:
            if run.step and self._complete():  # ended for good, before its last step
                if self.window.steps:
                    self._log()
                self._make_up_evaluations()
            self._save()

    def _update(self, fed: Fed) -> StepMetrics:
        run, shapes = self.run, signature(fed.batch)
        new_shapes = shapes not in self.flops
        if new_shapes:
            self.window.wait()
        started = time.perf_counter()
        with self.clock.paused() if new_shapes else contextlib.nullcontext():
            if new_shapes:
                self.compiled()
                self.flops[shapes] = self.program.flops(run.state, fed.batch)
            run.state, metrics = self.program.step(run.state, run.frozen, fed.batch)
        if run.first_step_s is None:
            run.first_step_s = time.perf_counter() - started
        run.step += 1
        self.evaluated, self.measured = [], {}
        self.window.add(metrics, self.trainer.task.frames_per_batch(fed.batch) or 0, self.flops[shapes])
        self.window.wait(behind=RUN_AHEAD)
        return metrics

    def _log(self) -> None:
        run, window = self.run, self.window
        scalars = {f"train/{name}": mean for name, mean in window.means().items()}  # waits for the device
        seconds = max(self.clock.seconds - window.started, 1e-9)
        scalars["train/steps_per_s"] = window.steps / seconds
        if window.frames:
            scalars["train/frames_per_s"] = window.frames / seconds
        if window.flops:
            with self.clock.paused():  # the first time, the device's rate is measured
                share = utilization(window.flops / seconds, self.program.mesh.devices.flat, self.program.precision)
            scalars |= {} if share is None else {"train/utilization": share}
        self.window = Window(started=self.clock.seconds)
        with self._tolerated():
            self.checkpoints.check()
        with self._tolerated(_OF_NO_DISK), hosts.together():
            try:
                self.callbacks.call("on_log", run, scalars)
            finally:  # a callback that gives up must not take the line with it that says why
                run.scalars.update(scalars)
                with self._tolerated():
                    run.writer.write_scalars(run.step, scalars)

    def _evaluate(self, names: Sequence[str]) -> None:
        run, trainer = self.run, self.trainer
        self.window.wait()
        with self.clock.paused(), self._tolerated(_OF_NO_DISK), hosts.together():
            result = trainer.evaluations.run(names, run.state, run.frozen, trainer.held_out, run.step)
            self.evaluated += names
            scalars = dict(result.scalars)
            try:
                self.callbacks.call("on_eval", run, scalars)
            finally:
                run.scalars.update(scalars)
                self.measured.update(scalars)
                with self._tolerated():
                    write_evaluation(run.writer, run.step, result._replace(scalars=scalars))

    def _unknown_figure(self, names: Sequence[str], last: bool) -> str:
        """What to say once all evaluators have run and none gave a figure that somebody waits for; "" before.

        After the last step there is nothing left to wait for, and a line of warning has to do.
        """
        run, awaited = self.run, self.trainer.awaited
        if not awaited:
            return ""
        self.tried.update(names)
        self.figures.update(self.measured)
        problem = ""
        if self.tried >= set(self.trainer.evaluations.due(0, last=True)):
            problem = next((
                f"{setting} = {figure!r}, but no evaluation gives it. {near_matches(figure, self.figures, 'Figures')}"
                for setting, figure in awaited.items() if figure not in self.figures
            ), "")  # fmt: skip
        problem = hosts.gather_json(problem)[0]
        if problem and last:
            _log.warning("%s: %s", run.workdir, problem)
            return ""
        return problem and f"{problem} Step {run.step} is saved in {run.workdir}: start it again with another name."

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
            "fingerprint": trainer.training_data.fingerprint(),
            "callbacks": self.callbacks.state(),
            "window": self.window.state(),
            "scalars": run.scalars,
            "evaluated": self.evaluated,
            "measured": self.measured,
            "seconds": self.clock.seconds,
        }
        with self.clock.paused(), self._tolerated():
            self.checkpoints.wait()  # a failure of the save before must not keep this one from being tried
        with self.clock.paused(), self._tolerated():
            with hosts.together():
                run.writer.flush()  # a resumed run cuts lines back to this step, so they have to be there
            self.checkpoints.save(run.step, run.state, self.feed.position, meta)
            run.saved = run.step
        if run.saved == run.step:
            with self.clock.paused(), self._tolerated(_OF_NO_DISK), hosts.together():
                self.callbacks.call("on_checkpoint", run, run.step)

    @contextlib.contextmanager
    def _tolerated(self, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Says what could not be written, and goes on where the run is told so; its last save has to succeed.

        Args:
          but: errors that end the run in any case.
        """
        try:
            yield
        except but:
            raise
        except (CheckpointError, OSError) as error:
            if self.trainer.on_save_error == "continue":
                _log.error("step %d: %s The run goes on (on_save_error=continue).", self.run.step, with_places(error))
            elif isinstance(error, CheckpointError):
                raise
            else:
                raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> UserError:
        saved = self.checkpoints.newest_good
        return UserError(
            f"What step {self.run.step} gave cannot be written: {with_places(error)}. The newest good checkpoint: "
            f"{'none' if saved is None else f'that of step {saved}'}. Make room and start the same command again."
        )

    def _close_writer(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Closes the writers; what fails then must not hide what failed before."""
        try:
            self.run.writer.close()
        except OSError as unclosed:
            if error is None and self.trainer.on_save_error == "stop":
                raise self._unwritten(unclosed) from unclosed
            _log.error("step %d: %s", self.run.step, with_places(unclosed))

    def _sanity_evaluation(self) -> None:
        """Tries all evaluations of a new run on a few batches, and forgets what they give."""
        run, trainer = self.run, self.trainer
        if not trainer.sanity_eval or run.step:
            return
        few = HeldOut(trainer.eval_data, trainer.seed, trainer.put, trainer.sanity_eval)
        with self.clock.paused():
            trainer.evaluations.run(trainer.evaluations.due(0, last=True), run.state, run.frozen, few, 0)

    def _complete(self) -> bool:
        return self.run.step >= self.run.steps or bool(self.run.stopped and not self.run.stopped.resumable)

    def _restore(self, restored: Restored, iterator: DataIterator) -> None:
        run, meta = self.run, restored.meta
        run.step = run.saved = meta["step"]
        run.scalars.update(meta["scalars"])
        self.seconds_before, self.saved_as_complete = meta["seconds"], meta["complete"]
        self.evaluated, self.measured = meta["evaluated"], meta.get("measured", {})
        self.window.load_state(meta["window"])
        self.callbacks.load_state(meta["callbacks"])
        if meta["stopped"] and not _other_callbacks(meta["config"], self.trainer.config):
            run.request_stop(*meta["stopped"])
        try:
            iterator.set_state(meta["data_position"])
        except Exception as error:
            raise DataError(f"The data cannot be continued after step {run.step}: {error}") from error

    def _make_up_evaluations(self) -> bool:
        """Evaluates at what became the last step what has not been; tells whether there was anything."""
        missing = [name for name in self.trainer.evaluations.due(0, last=True) if name not in self.evaluated]
        if missing:
            self._evaluate(missing)
        return bool(missing)


def _other_callbacks(stored: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a callback that may have stopped the run for good has been taken away or set otherwise since."""
    left = now.get("callbacks", {})
    return any(left.get(name) != entry for name, entry in stored.get("callbacks", {}).items())
