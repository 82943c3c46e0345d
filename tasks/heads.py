"""Phase 3: policy, reward and continue heads on the world model (Dreamer 4, arXiv:2509.24527, §3.3)."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import distributions, functional
from models.actions import as_components
from models.dynamics import DynamicsConfig
from models.generation import Sampler, observe
from models.heads import ContinueHead, HeadsConfig, PolicyHead, TwoHotHead, ahead, masked_mean, within
from models.imagination import WorldModel
from models.normalization import RunningRms, init_rms, normalize
from tasks.batches import require_features, rows_and_frames
from tasks.dynamics import DynamicsTask
from tasks.environments import check_environment, make_environment
from tasks.heads_evaluation import HeadsEvaluation
from trainer import hosts
from trainer.errors import ConfigError, DataError, check_fields
from trainer.task import Batch, Evaluator, LossOutput, Upstream


class HeadsTask(DynamicsTask):
    """Teaches the world model what an agent needs: what was done, what it brought, and when it ended.

    Agent tokens carry a task's embedding; heads on their outputs h[t] predict `actions[t + 1 … t + L]`,
    `rewards[t … t + L - 1]` and `continues[t … t + L - 1]` (multi-token prediction). Features come from finished
    frames at the context level, the same input as in imagination and in an environment; the dynamics loss stays on,
    on noisy ones.

    Args:
      heads: fields of `models.heads.HeadsConfig`.
      tasks: tasks there are; a batch may tell a row's by `task` [B].
      task_id: the task of rows that do not tell.
      dynamics_share: share of a batch's rows that the dynamics loss is taken on.
      weights: of the terms `dynamics`, `policy`, `reward` and `continue`; 1 where not given.
      normalized: divide every term by its running RMS (Dreamer 4); false to add them as they are.
      objective: fields of `models.shortcut.ShortcutConfig` that differ from the upstream's; None for the upstream's.
      sampler: fields of `models.generation.Sampler`, likewise.
      rollout: settings of the evaluator `tasks.rollout.Rollout`.
      evaluation: settings of the evaluator `tasks.heads_evaluation.HeadsEvaluation`.
      environment: where the data was recorded, `target` and arguments: what the figures are compared with.
      cache_latents: see `tasks.dynamics.DynamicsTask`.
    """

    def __init__(
        self, *, heads: Mapping[str, Any] | None = None, tasks: int = 1, task_id: int = 0, dynamics_share: float = 1.0,
        weights: Mapping[str, float] | None = None, normalized: bool = True,
        objective: Mapping[str, Any] | None = None, sampler: Mapping[str, Any] | None = None,
        rollout: Mapping[str, Any] | None = None, evaluation: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None, cache_latents: bool = False,
    ):  # fmt: skip
        super().__init__(model={}, objective=objective, sampler=sampler, rollout=rollout, cache_latents=cache_latents)
        self.tasks, self.task_id, self.dynamics_share, self.normalized = tasks, task_id, dynamics_share, normalized
        self._heads_fields, self._weights_given = dict(heads or {}), dict(weights or {})
        self._evaluation_fields, self._environment_fields = dict(evaluation or {}), dict(environment or {})
        if tasks < 1 or not 0 <= task_id < tasks:
            raise ValueError(f"task_id must be in 0 … tasks - 1, got task_id={task_id} and tasks={tasks}")
        if not 0 < dynamics_share <= 1:
            raise ValueError(f"dynamics_share must be above 0 and at most 1, got {dynamics_share}")

    def setup(self, upstream: Mapping[str, Upstream], example: Batch) -> None:
        """Takes the dynamics that training starts from, and checks that it and the settings fit the data."""
        dynamics = upstream.get("dynamics")
        if dynamics is None or not isinstance(dynamics.task, DynamicsTask) or isinstance(dynamics.task, HeadsTask):
            raise ConfigError(
                "HeadsTask needs a trained dynamics: set config.upstream.dynamics to "
                '{"run": "logs/dynamics-cpu", "config": "configs/dynamics.py:cpu"}.'
            )
        base = dynamics.task
        self._pretrained = dynamics.params
        for fields, own in ((base.objective, self._objective_fields), (base.sampler, self._sampler_fields)):
            given = {name: value for name, value in own.items() if value is not None}
            own |= dataclasses.asdict(fields) | given  # type: ignore[call-overload]
        if not base.config.actions:
            raise ConfigError(f"the dynamics of {dynamics.run} has no action space, so there is nothing to clone.")
        require_features(example, ("rewards", "actions"), "data", "heads are learned by actions and rewards")
        config: DynamicsConfig = dataclasses.replace(base.config, tasks=self.tasks)
        self.tokenizer_run = base.tokenizer_run
        self._adopt(base.tokenizer, dynamics.frozen["tokenizer"], config, example, dynamics.run)
        self.has_continues = "continues" in example
        self.environment = make_environment(self._environment_fields)
        if self.environment is not None:
            check_environment(self.environment, config.actions)
        terms = ("dynamics", "policy", "reward", *(("continue",) if self.has_continues else ()))
        if unknown := set(self._weights_given) - {"dynamics", "policy", "reward", "continue"}:
            raise ConfigError(
                f"task.weights names {sorted(unknown)}; the terms are dynamics, policy, reward, continue."
            )
        self.weights = {name: float(self._weights_given.get(name, 1.0)) for name in terms}
        if wrong := {name: weight for name, weight in self.weights.items() if not 0 <= weight < float("inf")}:
            raise ConfigError(f"task.weights must be finite and at least 0, got {wrong}.")
        check_fields(HeadsConfig, self._heads_fields, "task.heads")
        check_fields(HeadsEvaluation, self._evaluation_fields, "task.evaluation")
        try:
            self.heads = HeadsConfig(**self._heads_fields)
            distributions.check_policy_space(config.actions)
            self._evaluation = HeadsEvaluation(self, **self._evaluation_fields)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e

    def check_batch(self, batch: Batch) -> None:
        """Raises DataError where actions or task ids lie outside of what the model knows.

        Says so where none of the rows has anything to be cloned.
        """
        super().check_batch(batch)
        cloned = np.asarray(batch.get("labelled", True)) & np.asarray(batch.get("relevant", True))
        if not cloned.any():
            hosts.say(
                "No row of the first batch has known actions that are relevant. Where all are like that, no policy is "
                "learned, and cross_entropy_1 reads 0."
            )
        ids = np.asarray(batch.get("task", self.task_id))
        if ids.min() < 0 or ids.max() >= self.tasks:
            raise DataError(
                f"the data has task ids {ids.min()} … {ids.max()}, and the model knows 0 … {self.tasks - 1}: set "
                f"--config.task.tasks={ids.max() + 1}, or name other data."
            )

    def init_params(self, rng: jax.Array, batch: Batch) -> functional.Params:
        """Fresh parameters of dynamics and heads, by part."""
        del batch
        rngs = jax.random.split(rng, len(self._makers))
        return {name: functional.init(make, key) for (name, make), key in zip(self._makers.items(), rngs, strict=True)}

    @property
    def _makers(self) -> dict[str, Any]:
        width, space, heads = self.config.transformer.width, self.config.actions, self.heads
        makers = {
            "dynamics": self._make,
            "policy": lambda rngs: PolicyHead(width, space, heads, rngs=rngs),
            "reward": lambda rngs: TwoHotHead(width, heads, rngs=rngs),
        }
        if self.has_continues:
            makers["continue"] = lambda rngs: ContinueHead(width, heads, rngs=rngs)
        return makers

    def warm_start(self, params: functional.Params) -> functional.Params:
        """The upstream's dynamics; the task embedding and the heads are new."""
        return {**params, "dynamics": {**params["dynamics"], **self._pretrained}}

    def model(self, params: functional.Params) -> Any:
        """The dynamics with these parameters."""
        return functional.bind(self._make, params["dynamics"])

    def head(self, params: functional.Params, name: str) -> Any:
        """The head `policy`, `reward` or `continue` with these parameters."""
        return functional.bind(self._makers[name], params[name])

    def world_model(self, params: functional.Params, task: jax.Array) -> WorldModel:
        """The imagination of rows with these task ids [B]."""
        continues = self.head(params, "continue") if self.has_continues else None
        return WorldModel(self.model(params), self.head(params, "reward"), continues, self.sampler, task)

    def for_imagination(self, sampler: Mapping[str, Any]) -> "HeadsTask":
        """This task with another sampler, given by the fields that differ.

        Raises:
          ConfigError: the model cannot sample so.
        """
        task = copy.copy(self)
        check_fields(Sampler, sampler, "task.sampler")
        try:
            task.sampler = dataclasses.replace(self.sampler, **{k: v for k, v in sampler.items() if v is not None})
            task._check_sampler()
            finest = self.config.max_steps
            known, asked = (it.sampler.context_signal or finest for it in (self, task))
            if self.objective.forcing == "teacher" and asked != known:
                raise ValueError(
                    f"sampler.context_signal = {asked} (of {finest}), but by teacher forcing the dynamics knows past "
                    f"frames at {known} only: leave it out, or train phases 2 and 3 with this one"
                )
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e
        return task

    def init_extra(self, params: functional.Params) -> RunningRms:
        """The running scales of the loss terms."""
        del params
        return init_rms(tuple(self.weights))

    def task_ids(self, batch: Batch) -> jax.Array:
        """Task ids [B]."""
        rows, _ = rows_and_frames(batch)
        return jnp.asarray(batch["task"], jnp.int32) if "task" in batch else jnp.full(rows, self.task_id, jnp.int32)

    def features(self, params: functional.Params, spatial: jax.Array, batch: Batch, rng: jax.Array) -> jax.Array:
        """h [B, T, D] of recorded frames, whose packed, scaled latents are `spatial`."""
        features, _ = observe(
            self.model(params), None, spatial, batch["actions"], self.labelled_frames(batch), rng, self.sampler,
            task=self.task_ids(batch), independent=batch.get("independent"),
        )  # fmt: skip
        assert features is not None
        return features

    def loss(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, *, rng: jax.Array, step: jax.Array,
        extra: RunningRms, train: bool,
    ) -> LossOutput:  # fmt: skip
        """The dynamics loss on noisy frames, and the heads' cross-entropies on finished ones."""
        del step, train
        dynamics_rng, context_rng = jax.random.split(rng)
        spatial = jax.lax.stop_gradient(self.encode(frozen["tokenizer"], batch))
        rows = max(1, round(self.dynamics_share * len(spatial)))
        shortcut = self.shortcut_terms(params, spatial, batch, dynamics_rng, rows if rows < len(spatial) else None)
        errors = self.head_errors(params, self.features(params, spatial, batch, context_rng), batch)
        means = {name: masked_mean(*errors[name]) for name in self.weights if name in errors}
        terms = {"dynamics": shortcut.flow + shortcut.bootstrap, **means}
        if self.normalized:
            loss, extra = normalize(terms, self.weights, extra)
        else:
            loss = jnp.asarray(sum(self.weights[name] * term for name, term in terms.items()))
        first = {"cross_entropy_1": masked_mean(errors["policy"][0][..., 0], errors["policy"][1][..., 0])}
        return LossOutput(loss, {**shortcut._asdict(), **means, **first}, extra)

    def head_errors(
        self, params: functional.Params, features: jax.Array, batch: Batch
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Cross-entropies [B, T, L] of the heads, and where each counts.

        Index n of axis L stands for `actions[t + n + 1]`, `rewards[t + n]` and `continues[t + n]`. What lies beyond the
        clip or behind a reset does not count, nor rows of unrelated frames; actions count in labelled frames of rows
        that are `relevant`, rewards where a step led to the frame.
        """
        count = self.heads.distances
        now, later = range(count), range(1, count + 1)
        frames, rows = features.shape[1], jnp.ones((len(features), 1, 1), bool)
        if "independent" in batch:
            rows = rows & ~batch["independent"][:, None, None]
        known = self.labelled_frames(batch)
        first = batch.get("is_first", jnp.zeros(known.shape, bool))
        same_episode = jnp.cumprod(ahead(~first, now).at[:, :, 0].set(True), axis=2, dtype=bool)
        mask = {
            "policy": rows & within(frames, later) & jnp.cumprod(ahead(known, later), axis=2, dtype=bool),
            "reward": rows & within(frames, now) & same_episode & ahead(~first, now),
            "continue": rows & within(frames, now) & same_episode,
        }
        if "relevant" in batch:
            mask["policy"] = mask["policy"] & batch["relevant"][:, None, None]
        actions = {
            name: ahead(array, later) for name, array in as_components(batch["actions"], self.config.actions).items()
        }
        logits = self.head(params, "policy")(features)
        reward = self.head(params, "reward")
        errors = {
            "policy": -distributions.log_prob(logits, actions, self.config.actions),
            "reward": reward.two_hot.loss(reward(features), ahead(batch["rewards"], now)),
        }
        if self.has_continues:
            errors["continue"] = optax.sigmoid_binary_cross_entropy(
                self.head(params, "continue")(features), ahead(batch["continues"], now)
            )
        return {name: (error, mask[name]) for name, error in errors.items()}

    def evaluators(self) -> Mapping[str, Evaluator]:
        """Open-loop rollouts of the dynamics, and the heads' errors."""
        return {**super().evaluators(), "heads": self._evaluation}
