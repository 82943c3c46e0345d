"""Phase 2: the interactive dynamics, trained by shortcut forcing (Dreamer 4, arXiv:2509.24527, §3.2)."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from datasets.pipeline import TfdsData
from models import functional
from models.actions import as_components
from models.dynamics import Dynamics, DynamicsConfig, pack, unpack
from models.generation import Sampler, generate, remember
from models.shortcut import ShortcutConfig, ShortcutLoss, shortcut_loss
from models.tokenizer import to_float
from models.transformer import TransformerConfig
from tasks.batches import rows_and_frames
from tasks.latents import LatentData
from tasks.rollout import Rollout, shuffled_after
from tasks.tokenizer import TokenizerTask
from trainer import hosts
from trainer.data import DataSource
from trainer.errors import ConfigError, DataError, check_fields
from trainer.sharding import split_rows
from trainer.task import Batch, Evaluator, LossOutput, Task, Upstream


class DynamicsTask(Task):
    """Learns to dream: denoises the latents of a frozen tokenizer, given the past and the actions.

    Args:
      model: fields of `models.dynamics.DynamicsConfig`; `latents` and `channels` are the upstream tokenizer's.
      objective: fields of `models.shortcut.ShortcutConfig` (`max_steps` and `prediction` are the model's).
      sampler: fields of `models.generation.Sampler`: how frames are dreamed (`steps` = K). Held-out rollouts are
        measured with 4 and the finest steps, and with these where they are others.
      rollout: settings of the evaluator `tasks.rollout.Rollout`.
      cache_latents: encode the training data once, before the first step, and keep the latents in the tokenizer's run
        folder (`tasks.latents.LatentData`); false to encode every batch.
    """

    def __init__(
        self, *, model: Mapping[str, Any], objective: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None, rollout: Mapping[str, Any] | None = None, cache_latents: bool = False,
    ):  # fmt: skip
        self.cache_latents = cache_latents
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
        check_fields(DynamicsConfig, self._model_fields, "task.model")
        check_fields(TransformerConfig, self._model_fields.get("transformer", {}), "task.model.transformer")
        try:
            config = DynamicsConfig.from_dict({**self._model_fields, **sizes})
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e
        self.tokenizer_run = tokenizer.run
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
        check_fields(ShortcutConfig, self._objective_fields, "task.objective")
        check_fields(Sampler, self._sampler_fields, "task.sampler")
        check_fields(Rollout, self._rollout_fields, "task.rollout")
        try:
            models = {"max_steps": config.max_steps, "prediction": config.prediction}
            self.objective = ShortcutConfig(**{**self._objective_fields, **models})
            self.sampler = Sampler(**self._sampler_fields)
            self._check_sampler()
            if config.residual and self.objective.forcing != "teacher":
                raise ValueError(
                    f"model.residual predicts what changes from the frame before, so that frame must be finished: set "
                    f"objective.forcing to 'teacher' (and objective.clean_share to 0), not {self.objective.forcing!r}, "
                    f"or model.residual to false"
                )
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

    def prepare_data(self, data: DataSource) -> DataSource:
        """The data with the tokenizer's latents in place of frames, where these are to be kept."""
        return self.with_latents(data) if self.cache_latents else data

    def with_latents(self, data: DataSource) -> DataSource:
        """`LatentData` of a TFDS data set, encoded where it is not yet; other data as it is."""
        if not isinstance(data, TfdsData):
            return data
        latents = LatentData(data, self.tokenizer.model, self._tokenizer_params, self.tokenizer_run / "latents")
        latents.prepare()
        return latents

    def _check_sampler(self) -> None:
        """Raises ValueError now for what would otherwise show at the first rollout, after hours of training."""
        finest, steps, signal = self.config.max_steps, self.sampler.steps, self.sampler.context_signal
        self.sampler.check(finest)
        if steps != finest and not self.objective.bootstrap_share:
            hosts.say(
                f"Without bootstrap (objective.bootstrap_share = 0) only steps of 1/{finest} are trained: dreams in "
                f"sampler.steps = {steps} steps go by a label that the model has never seen. {finest} steps do not."
            )
        if self.objective.forcing == "teacher":
            return  # whatever the sampler gives past frames at, training does
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
        """Packed, scaled latents [B, T, M, Y] of a batch's frames, which may have been encoded already."""
        latents = batch.get("latents")
        if latents is None:
            model = self.tokenizer.model(tokenizer_params)
            latents, _ = model.encode(to_float(batch["frames"]), independent=batch.get("independent"))
        return pack(latents, self.config.packing) * self.config.latent_scale

    def decode(self, tokenizer_params: functional.Params, spatial: jax.Array) -> jax.Array:
        """Frames in [0, 1] of packed, scaled latents."""
        latents = unpack(spatial / self.config.latent_scale, self.config.packing)
        return jnp.clip(self.tokenizer.model(tokenizer_params).decode(latents)[0], 0, 1)

    def labelled_frames(self, batch: Batch) -> jax.Array:
        """Frames [B, T] whose action is known and led from the frame before: no reset, no unrelated frame."""
        known = jnp.ones(rows_and_frames(batch), bool)
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
        order_rng, past_rng, rng = jax.random.split(rng, 3)
        condition = (batch["actions"] if self.config.actions else {}, self.labelled_frames(batch))
        first = batch.get("is_first", jnp.zeros(clean.shape[:2], bool))
        parts = (clean, condition, batch.get("independent", jnp.zeros(len(clean), bool)), first)
        if rows is not None or not self.objective.bootstrap_frames:  # else each row stays on the device that has it
            order = jax.random.permutation(order_rng, len(clean))[:rows]  # the first rows are the bootstrap rows
            parts = split_rows(jax.tree.map(lambda x: x[order], parts))
        clean, (actions, labelled), independent, first = parts
        model, past, counted = self.model(params), None, None
        if self.objective.forcing == "teacher":
            counted = first | independent[:, None] | (jnp.arange(clean.shape[1]) > 0)
            past = remember(model, clean, actions, labelled, past_rng, self.sampler, independent=independent)

        def predict(noisy: jax.Array, signal: jax.Array, halvings: jax.Array, rows: slice) -> jax.Array:
            given = (actions, labelled, independent, past)
            action, known, unrelated, seen = split_rows(jax.tree.map(lambda a: a[rows], given))
            noisy, signal, halvings = split_rows((noisy, signal, halvings))
            return model(noisy, signal, halvings, action, known, independent=unrelated, cache=seen).latents

        return shortcut_loss(predict, clean, rng, self.objective, counted=counted)

    def dream(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, context: int, rng: jax.Array
    ) -> dict[str, jax.Array]:
        """Dreams on from the first frames of held-out clips; see `tasks.rollout.Dreamer`."""
        model, tokenizer = self.model(params), frozen["tokenizer"]
        spatial, labelled = self.encode(tokenizer, batch), self.labelled_frames(batch)
        actions = batch["actions"] if self.config.actions else {}
        finest = self.config.max_steps
        few, given = min(4, finest), self.sampler.steps

        def frames(actions: Any, steps: int) -> jax.Array:
            sampler = dataclasses.replace(self.sampler, steps=steps)
            return self.decode(tokenizer, generate(model, spatial[:, :context], actions, labelled, rng, sampler))

        dreams = {"k4": frames(actions, few), "finest": frames(actions, finest)}
        if given not in (few, finest):
            dreams[f"k{given}"] = frames(actions, given)
        if self.config.actions:
            dreams["shuffled"] = frames(shuffled_after(actions, context), few)
        return dreams | {"ceiling": self.decode(tokenizer, spatial)}

    def evaluators(self) -> Mapping[str, Evaluator]:
        """Open-loop rollouts against the truth."""
        return {"rollout": self._rollout}

    def frames_per_batch(self, batch: Batch) -> int:
        """B × T."""
        return math.prod(rows_and_frames(batch))
