"""`Task`: what a user writes, and all that the trainer knows of a model."""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainer.data import DataSource
from trainer.errors import ConfigError
from trainer.kinds import name_of
from trainer.state import PyTree, TrainState
from trainer.update import Update

Batch = Mapping[str, Any]
Metrics = Mapping[str, jax.Array]


class LossOutput(NamedTuple):
    """What `Task.loss` returns.

    Attributes:
      loss: the scalar to minimise.
      metrics: scalars to log, without prefix.
      extra: the next value of the task's running state.
    """

    loss: jax.Array
    metrics: Metrics
    extra: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upstream:
    """A finished run that another run builds on.

    Attributes:
      task: its task, rebuilt from its own `config.json` and set up.
      params: its parameters (the moving average where it kept one).
      run: its run folder.
      step: the step of the checkpoint that was read.
    """

    task: "Task"
    params: PyTree
    run: Path
    step: int

    @functools.cached_property
    def frozen(self) -> Mapping[str, PyTree]:
        """Its task's frozen parameters; made when first asked for, as they may need files that nobody else does."""
        return self.task.frozen()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the parameters."""
        return parameters_hash(self.params)


def parameters_hash(params: PyTree) -> str:
    """A hash of all bytes of the arrays of a tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class Comparison(NamedTuple):
    """A figure and what it is to be judged by: a row of the report's table.

    Attributes:
      metric: the scalar, as it is logged (`rollout/psnr_k4`).
      meaning: a few words for a reader who sees it for the first time.
      unit: such as "dB", "nats"; empty for a plain number.
      better: which way is better.
      references: by kind (`floor`, `ceiling`, `oracle`, `random` …) another logged scalar's name, or a number.
    """

    metric: str
    meaning: str
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    references: Mapping[str, str | float] = {}


class Evaluation(NamedTuple):
    """What an evaluator returns; names are complete, as they will be logged (`rollout/psnr_k4`).

    Attributes:
      scalars: numbers.
      images: uint8 arrays [H, W, 3].
      videos: uint8 arrays [T, H, W, 3].
    """

    scalars: Mapping[str, float] = {}
    images: Mapping[str, np.ndarray] = {}
    videos: Mapping[str, np.ndarray] = {}


class Evaluator(abc.ABC):
    """Measures a model on held-out data; sees neither the optimiser nor the training iterator.

    Attributes:
      every: steps between two evaluations; None for the run's `eval_every`. The last step is always evaluated.
      comparisons: its most important figures and what they are to be judged by, for the report.
    """

    every: int | None = None
    comparisons: Sequence[Comparison] = ()

    def check(self, example: Batch | None) -> None:  # noqa: B027 - optional hook
        """Called once before a run starts or is evaluated, so that what cannot work leaves no trace.

        Args:
          example: shapes and dtypes of a held-out batch; None where the run has no held-out data.

        Raises:
          UserError: the evaluator cannot work on such batches.
        """

    @abc.abstractmethod
    def evaluate(
        self, *, params: PyTree, frozen: Mapping[str, PyTree], extra: PyTree, rng: jax.Array,
        batches: Iterable[Batch], step: int,
    ) -> Evaluation:  # fmt: skip
        """Measures `params`.

        Args:
          params: the parameters to evaluate (the moving average where the run keeps one).
          frozen: upstream parameters, by name.
          extra: the task's running state.
          rng: a key that is the same at every step of a run, so that curves are comparable.
          batches: held-out batches on the device, in the same order at every call; take as many as needed.
          step: the current step.
        """


class Task(abc.ABC):
    """An objective over a model: the one class a user writes.

    The trainer builds it from the config (`target` and keyword arguments), calls `setup` once, and then only what is
    below. Parameters are any pytree, so linen, nnx, equinox and bare JAX all fit. Functions marked (traced) run under
    `jax.jit` and must be pure.
    """

    def setup(self, upstream: Mapping[str, Upstream], example: Batch) -> None:  # noqa: B027 - optional hook
        """Called once before anything else.

        Args:
          upstream: the runs named in `config.upstream`.
          example: a training batch's shapes and dtypes (`jax.ShapeDtypeStruct` leaves).
        """

    def check_batch(self, batch: Batch) -> None:  # noqa: B027 - optional hook
        """Called after `setup` with the first batches of training and held-out data as numpy arrays: looks at values.

        Raises:
          UserError: the task cannot learn from such data.
        """

    def prepare_data(self, data: DataSource) -> DataSource:
        """The training data as updates are to see it: `data`, or what is made of it once, such as upstream's latents.

        Called when training is about to start, after all checks; in each of several processes, in the first one first,
        which is the one that writes. Its fingerprint should tell what the data was made with.
        """
        return data

    @abc.abstractmethod
    def init_params(self, rng: jax.Array, batch: Batch) -> PyTree:
        """(traced) Initial parameters; `batch` gives shapes only."""

    def warm_start(self, params: PyTree) -> PyTree:
        """Parameters that a new run starts from: `params`, as `init_params` made them, or upstream's in their place.

        Called once, outside `jax.jit`, where a run starts anew; never where it continues from a checkpoint. Structure,
        shapes and dtypes must stay what they are.
        """
        return params

    @abc.abstractmethod
    def loss(
        self, params: PyTree, frozen: Mapping[str, PyTree], batch: Batch, *, rng: jax.Array, step: jax.Array,
        extra: PyTree, train: bool,
    ) -> LossOutput:  # fmt: skip
        """(traced) The objective on one batch."""

    def init_extra(self, params: PyTree) -> PyTree:
        """(traced) Initial running state: loss scales, target networks …"""
        return {}

    def frozen(self) -> Mapping[str, PyTree]:
        """Upstream parameters, by name, handed to every traced function as an argument (never a constant)."""
        return {}

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimiser; `default` is the one that the config describes."""
        return default

    def train_step(
        self, state: TrainState, frozen: Mapping[str, PyTree], batch: Batch, update: Update
    ) -> tuple[TrainState, Metrics]:
        """(traced) One update. Override where one loss and one update do not fit.

        `update.gradients` and `update.apply` do what the run's settings say: parts of a batch, precision, optimiser,
        moving average, and leaving out updates that are not finite.
        """

        def objective(params: PyTree, part: Batch, rng: jax.Array, extra: PyTree) -> Any:
            out = self.loss(params, frozen, part, rng=rng, step=state.step, extra=extra, train=True)
            _check_loss(self, out)
            _check_extra(self, out.extra, extra)
            return out.loss, (out.metrics, out.extra)

        rng = jax.random.fold_in(state.rng, state.step)
        grads, metrics, extra = update.gradients(objective, state.params, batch, rng, state.extra)
        state, more = update.apply(state, grads, extra)
        return state, {**metrics, **more}

    def eval_step(
        self, params: PyTree, frozen: Mapping[str, PyTree], batch: Batch, rng: jax.Array, step: jax.Array,
        extra: PyTree,
    ) -> Metrics:  # fmt: skip
        """(traced) Held-out metrics of one batch, averaged over batches and logged as `eval/…`."""
        out = self.loss(params, frozen, batch, rng=rng, step=step, extra=extra, train=False)
        _check_loss(self, out)
        return {"loss": out.loss, **out.metrics}

    def evaluators(self) -> Mapping[str, Evaluator]:
        """Further evaluations of this task, by name: rollouts, pictures."""
        return {}

    def frames_per_batch(self, batch: Batch) -> int | None:
        """Frames in a batch, for frames/s; None where the notion does not apply."""
        return None

    def flops_per_batch(self, batch: Batch) -> float | None:
        """Floating-point operations of one update, for utilisation; None to count the products of the traced step."""
        return None


def _check_loss(task: Task, out: Any) -> None:
    """Refuses what `Task.loss` must not return."""
    name = f"{name_of(task)}.loss"
    if not isinstance(out, LossOutput):
        raise ConfigError(f"{name} returned {_described(out)}; expected trainer.LossOutput(loss, metrics, extra).")
    if jnp.shape(out.loss) or not jnp.issubdtype(jnp.result_type(out.loss), jnp.floating):
        raise ConfigError(f"{name} returned {_described(out.loss)} as the loss; expected one float, such as a mean.")
    if not isinstance(out.metrics, Mapping):
        raise ConfigError(f"{name} returned {_described(out.metrics)} as metrics; expected a dict of scalars by name.")
    for key, value in out.metrics.items():
        if np.shape(value) or not isinstance(value, jax.Array | np.ndarray | np.generic | float | int):
            raise ConfigError(f"{name}: metrics must be scalars; {key!r} is {_described(value)}.")


def _check_extra(task: Task, given: PyTree, wanted: PyTree) -> None:
    """Refuses an `extra` that is not of the form of the one before."""
    forms = [f"{jax.tree.map(lambda x: f'{jnp.result_type(x)}{list(jnp.shape(x))}', tree)}" for tree in (given, wanted)]
    if forms[0] != forms[1]:
        raise ConfigError(
            f"{name_of(task)}.loss returned an extra of the form {forms[0]}; expected {forms[1]}, that of init_extra: "
            "return the extra that was given where nothing is to be kept."
        )


def _described(value: Any) -> str:
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"
