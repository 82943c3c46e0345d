"""`Callback`: what may be hung into the loop, and `Run`, what it sees of the run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trainer.metrics import StepMetrics
from trainer.state import PyTree, TrainState
from trainer.stopping import StopFlag, StopReason
from trainer.task import Comparison, Task
from trainer.writers import MultiWriter


@dataclasses.dataclass(kw_only=True)
class Run:
    """A run as its callbacks see it.

    Attributes:
      workdir: the run folder.
      task: the task.
      config: the run's config.
      steps: the step at which it is finished.
      step: updates done; between step start and update, those before the update.
      state: the training state, on the device. It is donated to the next update: keep copies, never references.
      frozen: upstream parameters.
      writer: writes to all writers of the run.
      scalars: the last value of every scalar that was logged.
      comparisons: the evaluators' figures and what they are to be judged by.
      saved: the step of the newest checkpoint that was handed to the disk, or None.
      first_step_s: seconds from the first step's start until its update was dispatched, mostly compilation.
    """

    workdir: Path
    task: Task
    config: Mapping[str, Any]
    steps: int
    step: int
    state: TrainState
    frozen: Mapping[str, PyTree]
    writer: MultiWriter
    scalars: dict[str, float]
    comparisons: Sequence[Comparison] = ()
    saved: int | None = None
    first_step_s: float | None = None
    flag: StopFlag = dataclasses.field(default_factory=StopFlag, repr=False)

    @property
    def stopped(self) -> StopReason | None:
        """The stop request, or None."""
        return self.flag.value

    def request_stop(self, reason: str, resumable: bool) -> None:
        """Ends the run at this step's stop test, after its log, evaluations and checkpoint; safe from any thread."""
        self.flag.request(reason, resumable)


@dataclasses.dataclass(kw_only=True)
class Callback:
    """Watches a run; every hook may be left out (group `trainer.callbacks`).

    Every step n goes through the same order:

    1. `on_step_start` (run.step is still n - 1),
    2. the update,
    3. `on_step_end` (run.step is n; the device may still be at work),
    4. `on_log`, at multiples of `log_every` and the last step,
    5. `on_eval`, where an evaluation is due and at the last step,
    6. `on_checkpoint`, at multiples of `checkpoint_every` and the last step; `state()` was asked just before,
    7. the stop test: a stop that was requested until here saves what is not saved yet (and so calls `on_checkpoint`)
       and ends the run.

    `on_fit_start` comes before the first step, when everything was restored. `on_fit_end` comes after the last one,
    when all checkpoints are on the disk; `on_exception` comes instead of it when anything raised. Callbacks are
    called by rising `order`, equal ones as they were given. An exception in a hook ends the run and names the callback.

    Attributes:
      order: callbacks with a lower one are called first.
    """

    order: int = 0
    _hooks: ClassVar[tuple[str, ...]] = (
        "on_fit_start", "on_step_start", "on_step_end", "on_log", "on_eval", "on_checkpoint", "on_exception",
        "on_fit_end",
    )  # fmt: skip

    def on_fit_start(self, run: Run) -> None:
        """Before the first step of this process."""

    def on_step_start(self, run: Run) -> None:
        """Before an update."""

    def on_step_end(self, run: Run, metrics: StepMetrics) -> None:
        """After an update was dispatched; reading `metrics` waits for the device."""

    def on_log(self, run: Run, scalars: dict[str, float]) -> None:
        """Before the line of means since the last one is written; entries may be added."""

    def on_eval(self, run: Run, scalars: dict[str, float]) -> None:
        """Before the results of all evaluations of this step are written; entries may be added."""

    def on_checkpoint(self, run: Run, step: int) -> None:
        """After a checkpoint was handed to the disk."""

    def on_exception(self, run: Run, error: BaseException) -> None:
        """After an exception, before it is raised further; nothing is saved in this case."""

    def on_fit_end(self, run: Run) -> None:
        """After the last step of this process; `run.stopped` says why it ended early."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON-able data."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from `state()`; called before `on_fit_start`."""


class Callbacks:
    """Calls several callbacks in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = sorted(callbacks, key=lambda callback: callback.order)
        # Only hooks that are overridden cost time in the loop.
        self._by_hook = {
            hook: [c for c in self._callbacks if getattr(type(c), hook) is not getattr(Callback, hook)]
            for hook in Callback._hooks
        }

    def call(self, hook: str, *args: Any) -> None:
        """Calls `hook` on each callback; an exception gets a note with the callback's name."""
        for callback in self._by_hook[hook]:
            try:
                getattr(callback, hook)(*args)
            except BaseException as error:
                error.add_note(f"raised in {type(callback).__name__}.{hook}")
                raise

    def state(self) -> dict[str, Any]:
        """The states of all callbacks, by name."""
        return {name: callback.state() for name, callback in self._named()}

    def load_state(self, states: Mapping[str, Any]) -> None:
        """Hands each callback its state; one that is new to the run starts afresh."""
        for name, callback in self._named():
            if name in states:
                callback.load_state(states[name])

    def _named(self) -> list[tuple[str, Callback]]:
        names = [type(callback).__name__ for callback in self._callbacks]
        numbered = [f"{name}#{names[:i].count(name)}" for i, name in enumerate(names)]
        return list(zip(numbered, self._callbacks, strict=True))
