"""How good dreams are: open-loop rollouts of any world model against what really happened."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from models.metrics import psnr
from models.tokenizer import to_float
from tasks import pictures
from tasks.batches import first_rows
from trainer import hosts
from trainer.errors import ConfigError
from trainer.state import PyTree
from trainer.task import Batch, Comparison, Evaluation, Evaluator


class Dreamer(Protocol):
    """What a world model's task offers to be evaluated by `Rollout`."""

    def dream(
        self, params: PyTree, frozen: Mapping[str, Any], batch: Batch, context: int, rng: jax.Array
    ) -> dict[str, jax.Array]:
        """(traced) Frames [B, T, H, W, C] in [0, 1] of held-out clips: the context's, then dreamed under `actions`.

        Args:
          params: the parameters.
          frozen: upstream parameters.
          batch: whole clips; of the frames only the first `context` may be looked at, but for the ceiling.
          context: frames given.
          rng: a key; every entry is to use the same one.

        Returns:
          `k4`, the dreams that are shown, in 4 denoising steps a frame where that means anything; and, where there are
          such, `k1`, … in other numbers of steps, `finest` (the best that the model can do), `shuffled` (those of `k4`
          under `shuffled_after(actions)`) and `ceiling` (the truth as the model would show it).
        """


def shuffled_after(actions: Any, context: int) -> Any:
    """The actions [B, T, …] with those after the context taken from the next clip of the batch."""
    return jax.tree.map(lambda a: jnp.concatenate([a[:, :context], jnp.roll(a[:, context:], 1, axis=0)], 1), actions)


class Rollout(Evaluator):
    """Dreams on from held-out clips and compares with what really happened.

    Beside the figures of finest and K = 4 sampling stand the ceiling (the tokenizer's own reconstruction), the floor
    (the last context frame, repeated), the error by horizon, and the action sensitivity: the K = 4 error with actions
    shuffled over the batch ÷ with the true ones, under the same noise.

    Args:
      task: the task.
      context: frames given.
      clips: held-out clips measured; they must be longer than `context`.
      shown: clips in the video.
      every: steps between two evaluations.
    """

    _BOUNDS: Mapping[str, str] = {"floor": "rollout/psnr_repeat_last", "ceiling": "rollout/psnr_ceiling"}
    comparisons = (
        Comparison("rollout/psnr_k4", "dreamed frames against the truth, 4 steps a frame", "dB", references=_BOUNDS),
        Comparison("rollout/psnr_finest", "the same with the finest steps", "dB", references=_BOUNDS),
        Comparison(
            "rollout/action_sensitivity", "error of dreams under wrong actions ÷ under the true ones",
            references={"ignored": 1.0},
        ),
    )  # fmt: skip

    def __init__(self, task: Dreamer, *, context: int = 32, clips: int = 64, shown: int = 4, every: int | None = None):
        for name, value in (("context", context), ("clips", clips), ("shown", shown)):
            if value < 1:
                raise ValueError(f"rollout.{name} must be at least 1, got {value}")
        self.task, self.context, self.clips, self.shown, self.every = task, context, clips, shown, every
        self._rollout = jax.jit(self._measure)

    def check(self, example: Batch | None) -> None:
        """Raises ConfigError where held-out clips are no longer than the context."""
        if example is not None and example["frames"].shape[1] <= self.context:
            raise ConfigError(
                f"rollouts give {self.context} frames and dream on, but held-out clips have "
                f"{example['frames'].shape[1]}; set eval_data.length above task.rollout.context (data.length with "
                "overfit_batches, which evaluates on training clips)."
            )

    def _measure(self, params: PyTree, frozen: Mapping[str, Any], batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        past, truth = self.context, to_float(batch["frames"])
        frames = self.task.dream(params, frozen, batch, past, rng)
        frames["repeat_last"] = jnp.broadcast_to(truth[:, past - 1 : past], truth.shape)
        errors = {name: jnp.mean(jnp.square(f - truth)[:, past:], axis=(2, 3, 4)) for name, f in frames.items()}
        return {"prediction": frames["k4"], **errors}

    def evaluate(
        self, *, params: PyTree, frozen: Mapping[str, Any], extra: Any, rng: jax.Array,
        batches: Iterable[Batch], step: int,
    ) -> Evaluation:  # fmt: skip
        """Measures `clips` clips."""
        del extra, step
        errors, truth, prediction, sizes = [], None, None, []
        for index, batch, take in first_rows(batches, self.clips):
            sizes.append(len(batch["frames"]))
            out = hosts.whole(self._rollout(params, frozen, batch, jax.random.fold_in(rng, index)))
            if truth is None:
                truth, prediction = hosts.whole(batch["frames"])[: self.shown], out["prediction"][: self.shown]
            errors.append({name: e[:take] for name, e in out.items() if name != "prediction"})
        if truth is None or prediction is None:
            return Evaluation()
        mse = {name: np.concatenate([e[name] for e in errors]).mean(axis=0) for name in errors[0]}
        scalars = {"rollout/clips": float(sum(len(e["k4"]) for e in errors))}
        scalars |= {f"rollout/psnr_{name}": float(psnr(mse[name].mean())) for name in mse if name != "shuffled"}
        horizon = len(mse["k4"])
        for t in (1, 16, 32):
            if t <= horizon:
                scalars[f"rollout/psnr_k4_t{t}"] = float(psnr(mse["k4"][t - 1]))
        if "shuffled" in mse and all(rows > 1 for rows in sizes):  # a single row has nothing to be shuffled with
            scalars["rollout/action_sensitivity"] = float(mse["shuffled"].mean() / mse["k4"].mean())
        strips = [pictures.rollout_strip(t, p, self.context) for t, p in zip(truth, prediction, strict=True)]
        return Evaluation(
            scalars=scalars,
            images={"rollout": np.concatenate(strips[:2])},
            videos={"rollout": pictures.rollout_video(truth, prediction, self.context)},
        )
