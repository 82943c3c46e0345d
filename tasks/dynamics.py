"""Phase 2: the interactive dynamics, trained by shortcut forcing (Dreamer 4, arXiv:2509.24527, §3.2)."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import functional
from models.actions import as_components
from models.dynamics import Dynamics, DynamicsConfig, pack, unpack
from models.generation import Sampler, generate
from models.metrics import psnr
from models.shortcut import ShortcutConfig, ShortcutLoss, bootstrap_rows, shortcut_loss
from models.tokenizer import to_float
from tasks import pictures
from tasks.tokenizer import TokenizerTask
from trainer.errors import ConfigError, DataError
from trainer.task import Batch, Comparison, Evaluation, Evaluator, LossOutput, Task, Upstream


class DynamicsTask(Task):
    """Learns to dream: denoises the latents of a frozen tokenizer, given the past and the actions.

    Args:
      model: fields of `models.dynamics.DynamicsConfig`; `latents` and `channels` are the upstream tokenizer's.
      objective: fields of `models.shortcut.ShortcutConfig` (`max_steps` is the model's).
      sampler: fields of `models.generation.Sampler` for the quick rollouts (`steps` = K).
      rollout: settings of the evaluator `Rollout`.
    """

    def __init__(
        self, *, model: Mapping[str, Any], objective: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None, rollout: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        self._model_fields = dict(model)
        self._objective_fields = dict(objective or {})
        self._sampler_fields = dict(sampler or {})
        self._rollout_fields = dict(rollout or {})

    def setup(self, upstream: Mapping[str, Upstream], example: Batch) -> None:
        """Takes the frozen tokenizer and checks that it, the actions and the settings fit the data."""
        tokenizer = upstream.get("tokenizer")
        if tokenizer is None or not isinstance(tokenizer.task, TokenizerTask):
            raise ConfigError(
                "DynamicsTask needs a trained tokenizer: set config.upstream.tokenizer to "
                '{"run": "logs/tokenizer-cpu", "config": "configs/tokenizer.py:cpu"}.'
            )
        sizes = {"latents": tokenizer.task.config.latents, "channels": tokenizer.task.config.channels}
        try:
            config = DynamicsConfig.from_dict({**self._model_fields, **sizes})
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e
        self._adopt(tokenizer.task, tokenizer.params, config, example, tokenizer.run)

    def _adopt(
        self, tokenizer: TokenizerTask, params: functional.Params, config: DynamicsConfig, example: Batch, run: Path
    ) -> None:
        """Takes the tokenizer and the model's config, both of them from `run` or fitting it, and checks the rest."""
        self.tokenizer, self._tokenizer_params, self.config = tokenizer, params, config
        image = tuple(example["frames"].shape[-3:])
        if image != tokenizer.config.image:
            raise ConfigError(
                f"the tokenizer of {run} was trained on frames of {tokenizer.config.image}, the data has {image}; name "
                f"a run of this data in config.upstream."
            )
        try:
            self.objective = ShortcutConfig(**{**self._objective_fields, "max_steps": config.max_steps})
            self.sampler = Sampler(**self._sampler_fields)
            self._check_sampler()
            share, rows = self.objective.bootstrap_share, example["frames"].shape[0]
            if share > 0 and config.max_steps > 1 and not bootstrap_rows(rows, self.objective):
                raise ValueError("objective.bootstrap_share needs batches of 2 rows or more; set it to 0 for none")
            self._rollout = Rollout(self, **self._rollout_fields)
            if config.actions:
                if "actions" not in example:
                    raise ValueError(
                        f"the model has the action space {sorted(config.actions)}, the data has no actions; name data "
                        "with actions, or train a dynamics without: task.model.actions={}"
                    )
                as_components(example["actions"], config.actions)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e

    def check_batch(self, batch: Batch) -> None:
        """Raises DataError where labelled actions lie outside of the action space."""
        if not self.config.actions:
            return
        known = np.asarray(self.labelled_frames(batch))
        for name, actions in as_components(batch["actions"], self.config.actions).items():
            component = self.config.actions[name]
            top = {"categorical": component.size - 1, "binary": 1}.get(component.kind)
            values = np.asarray(actions)[known]
            if top is not None and values.size and not (values.min() >= 0 and values.max() <= top):
                raise DataError(
                    f"action {name!r} ({component.kind}, {component.size}) should lie in 0 … {top}; the data has "
                    f"{values.min()} … {values.max()}. Give the dynamics the data's action space "
                    f"(task.model.actions.{name}.size), or name data of this one."
                )

    def _check_sampler(self) -> None:
        """Raises ValueError now for what would otherwise show at the first rollout, after hours of training."""
        finest, steps, signal = self.config.max_steps, self.sampler.steps, self.sampler.context_signal
        if steps < 1 or finest % steps:
            raise ValueError(f"sampler.steps must divide model.max_steps={finest}, got {steps}")
        if signal is not None and not 0 < signal <= finest:
            raise ValueError(f"sampler.context_signal must be in 1 … {finest}, got {signal}")
        if signal in (None, finest) and not 0 < self.objective.clean_share < 1:
            raise ValueError(
                f"the sampler gives past frames clean, so training must show clean frames and noisy ones: "
                f"objective.clean_share = {self.objective.clean_share} should lie between 0 and 1, or "
                f"sampler.context_signal below {finest}"
            )

    def model(self, params: functional.Params) -> Dynamics:
        """The dynamics with these parameters."""
        return functional.bind(self._make, params)

    def _make(self, rngs: Any) -> Dynamics:
        return Dynamics(self.config, rngs=rngs)

    def init_params(self, rng: jax.Array, batch: Batch) -> functional.Params:
        """Fresh parameters."""
        del batch
        return functional.init(self._make, rng)

    def frozen(self) -> Mapping[str, functional.Params]:
        """The tokenizer's parameters."""
        return {"tokenizer": self._tokenizer_params}

    def encode(self, tokenizer_params: functional.Params, batch: Batch) -> jax.Array:
        """Packed, scaled latents [B, T, M, Y] of a batch's frames."""
        model = self.tokenizer.model(tokenizer_params)
        latents, _ = model.encode(to_float(batch["frames"]), independent=batch.get("independent"))
        return pack(latents, self.config.packing) * self.config.latent_scale

    def decode(self, tokenizer_params: functional.Params, spatial: jax.Array) -> jax.Array:
        """Frames in [0, 1] of packed, scaled latents."""
        latents = unpack(spatial / self.config.latent_scale, self.config.packing)
        return jnp.clip(self.tokenizer.model(tokenizer_params).decode(latents)[0], 0, 1)

    def labelled_frames(self, batch: Batch) -> jax.Array:
        """Frames [B, T] whose action is known and led from the frame before: no reset, no unrelated frame."""
        known = jnp.ones(batch["frames"].shape[:2], bool)
        if "is_first" in batch:
            known = known & ~batch["is_first"]
        if "labelled" in batch:
            known = known & batch["labelled"][:, None]
        if "independent" in batch:
            known = known & ~batch["independent"][:, None]
        return known

    def loss(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, *, rng: jax.Array, step: jax.Array,
        extra: Any, train: bool,
    ) -> LossOutput:  # fmt: skip
        """Shortcut forcing on the tokenizer's latents."""
        del step, train
        clean = jax.lax.stop_gradient(self.encode(frozen["tokenizer"], batch))
        terms = self.shortcut_terms(params, clean, batch, rng)
        return LossOutput(terms.flow + terms.bootstrap, terms._asdict(), extra)

    def shortcut_terms(
        self, params: functional.Params, clean: jax.Array, batch: Batch, rng: jax.Array, rows: int | None = None
    ) -> ShortcutLoss:
        """The dynamics loss of `rows` rows, chosen at random, of latents [B, T, M, Y]; of all where None."""
        order_rng, rng = jax.random.split(rng)
        order = jax.random.permutation(order_rng, len(clean))[:rows]  # the first rows are the bootstrap rows
        condition = (batch["actions"] if self.config.actions else {}, self.labelled_frames(batch))
        independent = batch.get("independent", jnp.zeros(len(clean), bool))
        clean, (actions, labelled), independent = jax.tree.map(lambda x: x[order], (clean, condition, independent))
        model = self.model(params)

        def predict(noisy: jax.Array, signal: jax.Array, halvings: jax.Array, rows: slice) -> jax.Array:
            action = jax.tree.map(lambda a: a[rows], actions)
            return model(noisy, signal, halvings, action, labelled[rows], independent=independent[rows]).latents

        return shortcut_loss(predict, clean, rng, self.objective)

    def evaluators(self) -> Mapping[str, Evaluator]:
        """Open-loop rollouts against the truth."""
        return {"rollout": self._rollout}

    def frames_per_batch(self, batch: Batch) -> int:
        """B × T."""
        return batch["frames"].shape[0] * batch["frames"].shape[1]


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
        Comparison("rollout/psnr_k4", "dreamed frames against the truth, few steps a frame", "dB", references=_BOUNDS),
        Comparison("rollout/psnr_finest", "the same with the finest steps", "dB", references=_BOUNDS),
        Comparison(
            "rollout/action_sensitivity", "error of dreams under wrong actions ÷ under the true ones",
            references={"ignored": 1.0},
        ),
    )  # fmt: skip

    def __init__(
        self, task: DynamicsTask, *, context: int = 32, clips: int = 64, shown: int = 4, every: int | None = None
    ):
        for name, value in (("context", context), ("clips", clips), ("shown", shown)):
            if value < 1:
                raise ValueError(f"rollout.{name} must be at least 1, got {value}")
        self.task, self.context, self.clips, self.shown, self.every = task, context, clips, shown, every
        self._rollout = jax.jit(self._rollout_batch)

    def check(self, example: Batch | None) -> None:
        """Raises ConfigError where held-out clips are no longer than the context."""
        if example is not None and example["frames"].shape[1] <= self.context:
            raise ConfigError(
                f"rollouts give {self.context} frames and dream on, but held-out clips have "
                f"{example['frames'].shape[1]}; set eval_data.length above task.rollout.context."
            )

    def _rollout_batch(
        self, params: functional.Params, tokenizer: functional.Params, batch: Batch, rng: jax.Array
    ) -> dict[str, jax.Array]:
        task, past = self.task, self.context
        model, truth = task.model(params), to_float(batch["frames"])
        spatial, labelled = task.encode(tokenizer, batch), task.labelled_frames(batch)
        actions = batch["actions"] if task.config.actions else {}
        shuffled = jax.tree.map(lambda a: jnp.concatenate([a[:, :past], jnp.roll(a[:, past:], 1, axis=0)], 1), actions)
        finest = dataclasses.replace(task.sampler, steps=task.config.max_steps)

        def dream(actions: Any, sampler: Sampler) -> jax.Array:
            return task.decode(tokenizer, generate(model, spatial[:, :past], actions, labelled, rng, sampler))

        quick = dream(actions, task.sampler)
        frames = {
            "k4": quick,
            "finest": dream(actions, finest),
            "shuffled": dream(shuffled, task.sampler),
            "ceiling": task.decode(tokenizer, spatial),
            "repeat_last": jnp.broadcast_to(truth[:, past - 1 : past], truth.shape),
        }
        errors = {name: jnp.mean(jnp.square(f - truth)[:, past:], axis=(2, 3, 4)) for name, f in frames.items()}
        return {"prediction": quick, **errors}

    def evaluate(
        self, *, params: functional.Params, frozen: Mapping[str, Any], extra: Any, rng: jax.Array,
        batches: Iterable[Batch], step: int,
    ) -> Evaluation:  # fmt: skip
        """Measures `clips` clips."""
        del extra, step
        errors, truth, prediction, count, sizes = [], None, None, 0, []
        for index, batch in enumerate(batches):
            frames = np.asarray(batch["frames"])
            sizes.append(len(frames))
            out = jax.device_get(self._rollout(params, frozen["tokenizer"], batch, jax.random.fold_in(rng, index)))
            take = min(len(frames), self.clips - count)
            count += take
            if truth is None:
                truth, prediction = frames[: self.shown], out["prediction"][: self.shown]
            errors.append({name: e[:take] for name, e in out.items() if name != "prediction"})
            if count >= self.clips:
                break
        if truth is None or prediction is None:
            return Evaluation()
        mse = {name: np.concatenate([e[name] for e in errors]).mean(axis=0) for name in errors[0]}
        scalars = {"rollout/clips": float(count)}
        scalars |= {f"rollout/psnr_{name}": float(psnr(mse[name].mean())) for name in mse if name != "shuffled"}
        horizon = len(mse["k4"])
        for t in (1, 16, 32):
            if t <= horizon:
                scalars[f"rollout/psnr_k4_t{t}"] = float(psnr(mse["k4"][t - 1]))
        if self.task.config.actions and all(rows > 1 for rows in sizes):  # a single row has nothing to be shuffled with
            scalars["rollout/action_sensitivity"] = float(mse["shuffled"].mean() / mse["k4"].mean())
        strips = [pictures.rollout_strip(t, p, self.context) for t, p in zip(truth, prediction, strict=True)]
        return Evaluation(
            scalars=scalars,
            images={"rollout": np.concatenate(strips[:2])},
            videos={"rollout": pictures.rollout_video(truth, prediction, self.context)},
        )
