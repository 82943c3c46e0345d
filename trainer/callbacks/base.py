"""`Callback`: what may be hung into the loop, and `Run`, what it sees of the run."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trainer.errors import add_place, places
from trainer.metrics import Clock, StepMetrics
from trainer.state import PyTree, TrainState
from trainer.stopping import StopFlag, StopReason
from trainer.task import Comparison, Task
from trainer.writers import MultiWriter

_log = logging.getLogger(__name__)


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
      pinned: steps whose checkpoints must not be removed; add those that somebody was or will be told of.
      saved: the step of the newest checkpoint that was handed to the disk, or None.
      first_step_s: seconds from the first step's start until its update was dispatched, mostly compilation.
      clock: training time; what takes long and is no training belongs into `with run.clock.paused():`.
      flag: where a stop is asked for, see `request_stop`; `flag.made` is when the command began.
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
    pinned: set[int] = dataclasses.field(default_factory=set)
    first_step_s: float | None = None
    clock: Clock = dataclasses.field(default_factory=Clock, repr=False)
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
    called by rising `order`, equal ones as they were given. An exception in a hook ends the run and names the callback;
    one in `on_exception` is only reported, so that it hides neither the first one nor the other callbacks.

    Attributes:
      order: callbacks with a lower one are called first.
      everywhere: of several processes that train together, whether each calls it or the first alone.
      watches_upstream: whether it is also called in the upstream runs that the same command trains first.
    """

    order: int = 0
    everywhere: ClassVar[bool] = True
    watches_upstream: ClassVar[bool] = False
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

    def awaits(self) -> Mapping[str, str]:
        """Figures of evaluations that it cannot do without, by the attribute that names each.

        A run none of whose evaluators has given one of them ends when all have run, saved, and says so.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON-able data."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from `state()`; called before `on_fit_start`."""


class Callbacks:
    """Calls several callbacks in their order.

    Args:
      callbacks: by name, as in a config; without names they are told apart by class and number.
    """

    def __init__(self, callbacks: Mapping[str, Callback] | Sequence[Callback]) -> None:
        named = callbacks.items() if isinstance(callbacks, Mapping) else [("", callback) for callback in callbacks]
        self._callbacks = sorted(named, key=lambda entry: entry[1].order)
        # Only hooks that are overridden cost time in the loop.
        self._by_hook = {
            hook: [(n, c) for n, c in self._callbacks if getattr(type(c), hook) is not getattr(Callback, hook)]
            for hook in Callback._hooks
        }

    def call(self, hook: str, *args: Any) -> None:
        """Calls `hook` on each callback; an exception gets a note with the callback's name."""
        for name, callback in self._by_hook[hook]:
            try:
                getattr(callback, hook)(*args)
            except BaseException as error:
                _note(error, name, callback, hook)
                if hook != "on_exception" or not isinstance(error, Exception):
                    raise
                _log.error("%r, %s", error, " ".join(places(error)))

    def state(self) -> dict[str, Any]:
        """The states of all callbacks, by class and name."""
        states = {}
        for (name, callback), (key, _) in zip(self._callbacks, self._keys(), strict=True):
            with _noted(name, callback, "state"):
                states[key] = callback.state()
        return states

    def load_state(self, states: Mapping[str, Any]) -> None:
        """Hands each callback its state; one that is new to the run starts afresh."""
        for (name, callback), (key, number) in zip(self._callbacks, self._keys(), strict=True):
            stored = states.get(key, states.get(number))  # a run may have begun without names
            if stored is not None:
                with _noted(name, callback, "load_state"):
                    callback.load_state(stored)

    def _keys(self) -> list[tuple[str, str]]:
        """Of each callback the key of its state, and the one that it has without a name."""
        classes = [type(callback).__name__ for _, callback in self._callbacks]
        numbers = [f"{class_name}#{classes[:i].count(class_name)}" for i, class_name in enumerate(classes)]
        keys = [
            f"{class_name}:{name}" if name else number
            for (name, _), class_name, number in zip(self._callbacks, classes, numbers, strict=True)
        ]
        return list(zip(keys, numbers, strict=True))


def select(
    callbacks: Mapping[str, Callback] | Sequence[Callback], keep: Callable[[Callback], bool]
) -> Mapping[str, Callback] | Sequence[Callback]:
    """Those callbacks that `keep` is true of, by name where they have names."""
    if isinstance(callbacks, Mapping):
        return {name: callback for name, callback in callbacks.items() if keep(callback)}
    return [callback for callback in callbacks if keep(callback)]


@contextlib.contextmanager
def _noted(name: str, callback: Callback, method: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _note(error, name, callback, method)
        raise


def _note(error: BaseException, name: str, callback: Callback, method: str) -> None:
    where = f" (callbacks.{name})" if name else ""
    add_place(error, f"{type(callback).__name__}.{method}{where}")
