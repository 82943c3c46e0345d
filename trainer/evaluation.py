"""Evaluations: what is due at a step, run the same way in training and afterwards."""

import itertools
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from trainer.errors import ConfigError, DataError, add_place
from trainer.feed import HeldOut
from trainer.kinds import check_kind, name_of
from trainer.metrics import StepMetrics, add_up
from trainer.state import PyTree, TrainState
from trainer.task import Batch, Comparison, Evaluation, Evaluator
from trainer.update import cast
from trainer.writers import MultiWriter


class HeldOutMetrics(Evaluator):
    """The task's `eval_step`, averaged over the first held-out batches as `eval/…`.

    Args:
      eval_step: the task's, compiled.
      batches: how many batches.
    """

    def __init__(self, eval_step: Callable[..., StepMetrics], batches: int) -> None:
        self._eval_step, self._batches = eval_step, batches

    def evaluate(
        self, *, params: PyTree, frozen: Any, extra: PyTree, rng: jax.Array, batches: Any, step: int
    ) -> Evaluation:
        """Averages over batches; a metric that only some batches have, over those."""
        done = [
            self._eval_step(params, frozen, batch, jax.random.fold_in(rng, i), step, extra)
            for i, batch in enumerate(itertools.islice(batches, self._batches))
        ]
        if not done:
            raise DataError("The held-out data has no batch to evaluate on.")
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for metrics in jax.device_get(done):
            add_up(sums, counts, zip(metrics.names, metrics.values.tolist(), strict=True))
        return Evaluation({f"eval/{name}": total / counts[name] for name, total in sums.items()})


class Evaluations:
    """All evaluators of a run, with their intervals.

    Args:
      evaluators: by name.
      every: the interval of those that have none of their own; 0 for the last step alone.
      seed: of the keys; an evaluator has the same key at every step.
      precision: of the parameters that they get, see `trainer.update.Update`.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], every: int, seed: int, precision: str = "float32") -> None:
        self._evaluators = dict(evaluators)
        self._every = every
        self._seed = seed
        self._precision = precision

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """What all of them give to judge a run by."""
        return tuple(comparison for e in self._evaluators.values() for comparison in e.comparisons)

    def check(self, example: Batch | None) -> None:
        """Lets each look at the shapes of a held-out batch, or at None where there is none; see `Evaluator.check`."""
        for evaluator in self._evaluators.values():
            evaluator.check(example)

    def due(self, step: int, last: bool) -> list[str]:
        """Names of those to run at `step`."""
        return [name for name, e in self._evaluators.items() if last or is_due(step, self._interval(e))]

    def run(self, names: Collection[str], state: TrainState, frozen: Any, batches: HeldOut, step: int) -> Evaluation:
        """Runs evaluators and merges what they return.

        Raises:
          ConfigError: two of them return a scalar, image or video of the same name, or one something else.
        """
        merged, params = Evaluation({}, {}, {}), cast(state.eval_params, self._precision)
        for name in names:
            key = jax.random.fold_in(jax.random.key(self._seed), zlib.crc32(name.encode()))
            try:
                result = self._evaluators[name].evaluate(
                    params=params, frozen=frozen, extra=state.extra, rng=key, batches=batches, step=step
                )
            except Exception as error:
                add_place(error, f"the evaluator {name!r} at step {step}")
                raise
            _check_result(result, f"evaluator {name!r} ({name_of(self._evaluators[name])})")
            for into, new in zip(merged, result, strict=True):
                if twice := into.keys() & new.keys():
                    raise ConfigError(f"The evaluator {name!r} returns {sorted(twice)}, which another one returns too.")
                into.update(new)  # type: ignore[attr-defined]
        return merged._replace(scalars={k: float(v) for k, v in merged.scalars.items()})

    def _interval(self, evaluator: Evaluator) -> int:
        return self._every if evaluator.every is None else evaluator.every


def _check_result(result: Any, what: str) -> None:
    hint = "--fast_dev_run and --config.sanity_eval=1 try evaluators out before training."
    if not isinstance(result, Evaluation):
        raise ConfigError(
            f"{what} returned a {type(result).__name__}; expected trainer.Evaluation(scalars={{name: number}}). {hint}"
        )
    for kind, values in result._asdict().items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"{what} returned a {type(values).__name__} as {kind}; expected a dict by name. {hint}")
    for key, value in result.scalars.items():
        try:
            float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{what}: the scalar {key!r} is {value!r:.100}; expected a number. {hint}") from None


def merge_evaluators(*groups: Mapping[str, Evaluator]) -> dict[str, Evaluator]:
    """One mapping of all.

    Raises:
      ConfigError: a name is used twice, one of them is no evaluator, or two give the same figure.
    """
    merged: dict[str, Evaluator] = {}
    for group in groups:
        if twice := merged.keys() & group.keys():
            raise ConfigError(f"Evaluators {sorted(twice)} are given twice, by the task and by the config: rename one.")
        for name, evaluator in group.items():
            check_kind(evaluator, "evaluators", f"evaluator {name!r} ({name_of(evaluator)})")
        merged.update(group)
    givers: dict[str, str] = {}
    for name, evaluator in merged.items():
        for comparison in evaluator.comparisons:
            if (other := givers.setdefault(comparison.metric, name)) != name:
                raise ConfigError(
                    f"The evaluators {other!r} and {name!r} both give {comparison.metric}, and a step has one value "
                    f"of it. Take one of them away; the settings of a task's own are the task's."
                )
    return merged


def is_due(step: int, every: int) -> bool:
    """Whether `step` is a multiple of `every`; never for 0."""
    return every > 0 and step % every == 0


def write_evaluation(writer: MultiWriter, step: int, result: Evaluation) -> None:
    """Writes an evaluation; clu's writers take several pictures under a name, so each gets a leading axis."""
    if result.scalars:
        writer.write_scalars(step, result.scalars)
    writer.write_images(step, {name: image[None] for name, image in result.images.items()})
    writer.write_videos(step, {name: video[None] for name, video in result.videos.items()})
