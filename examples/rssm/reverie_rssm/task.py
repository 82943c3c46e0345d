"""Phase 1: the world model (Dreamer 3, arXiv:2301.04104, "World model learning")."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import functional
from models.actions import as_components
from models.heads import masked_mean
from models.tokenizer import to_float
from reverie_rssm.inputs import known_actions
from reverie_rssm.losses import balanced_kl
from reverie_rssm.world_model import WorldModel, WorldModelConfig
from tasks.rollout import Rollout, shuffled_after
from trainer import ConfigError, DataError, Evaluator, LossOutput, Task, Upstream
from trainer.task import Batch


class Dreams(Rollout):
    """Figures of open-loop dreams; this model dreams in one way, so none of them is the finest."""

    comparisons = tuple(row for row in Rollout.comparisons if row.metric != "rollout/psnr_finest")


class RssmTask(Task):
    """Learns to foresee frames, rewards and the end of episodes, in a recurrent state that needs no frames to go on.

    Args:
      model: fields of `reverie_rssm.rssm.RssmConfig`, and `actions`, `depth`, `patch`, `stages` of
        `reverie_rssm.world_model.WorldModelConfig`.
      heads: fields of `models.heads.HeadsConfig` of reward and continue heads (`distances` is 1).
      free: nats of a frame's KL that cost nothing.
      weights: of the terms `image`, `reward`, `continue`, `dynamics` and `representation`.
      rollout: settings of the evaluator `tasks.rollout.Rollout`.
    """

    WEIGHTS: Mapping[str, float] = {
        "image": 1.0, "reward": 1.0, "continue": 1.0, "dynamics": 1.0, "representation": 0.1,
    }  # fmt: skip

    def __init__(
        self, *, model: Mapping[str, Any], heads: Mapping[str, Any] | None = None, free: float = 1.0,
        weights: Mapping[str, float] | None = None, rollout: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        unknown = set(weights or {}) - set(self.WEIGHTS)
        if unknown:
            raise ValueError(f"weights has {sorted(unknown)}; the terms are {', '.join(self.WEIGHTS)}")
        self.weights = {**self.WEIGHTS, **(weights or {})}
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"weights.{name} must be a number, 0 or more, got {weight}")
        if free < 0:
            raise ValueError(f"free must be 0 or more, got {free}")
        self.free = free
        self._model_fields, self._heads_fields = dict(model), dict(heads or {})
        self._rollout = Dreams(self, **(rollout or {}))

    def setup(self, upstream: Mapping[str, Upstream], example: Batch) -> None:
        """Sizes the model for the data, and checks that the data has what is to be learned."""
        del upstream
        missing = [name for name in ("actions", "rewards") if name not in example]
        if missing:
            raise ConfigError(f"RssmTask learns from frames, actions and rewards; the data has no {missing[0]}.")
        try:
            self.config = WorldModelConfig.from_dict(
                self._model_fields, image=tuple(example["frames"].shape[-3:]), heads=self._heads_fields
            )
            as_components(example["actions"], self.config.actions)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e

    def check_batch(self, batch: Batch) -> None:
        """Raises DataError where categories lie outside of the action space."""
        known = np.asarray(known_actions(batch))
        for name, actions in as_components(batch["actions"], self.config.actions).items():
            component, values = self.config.actions[name], np.asarray(actions)[known]
            if (
                component.kind == "categorical"
                and values.size
                and not 0 <= values.min() <= values.max() < component.size
            ):
                raise DataError(
                    f"action {name!r} should lie in 0 … {component.size - 1}; the data has {values.min()} … "
                    f"{values.max()}. Set task.model.actions.{name}.size."
                )

    def model(self, params: functional.Params) -> WorldModel:
        """The world model with these parameters."""
        return functional.bind(self._make, params)

    def _make(self, rngs: Any) -> WorldModel:
        return WorldModel(self.config, rngs=rngs)

    def init_params(self, rng: jax.Array, batch: Batch) -> functional.Params:
        """Fresh parameters."""
        del batch
        return functional.init(self._make, rng)

    def loss(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, *, rng: jax.Array, step: jax.Array,
        extra: Any, train: bool,
    ) -> LossOutput:  # fmt: skip
        """Prediction of frames, rewards and continues from posterior states, and the balanced KL to the prior.

        The image term is the squared error summed over a frame's pixels. Nothing was received at an episode's first
        frame, so its reward is not learned.
        """
        del frozen, step, train
        model, frames = self.model(params), to_float(batch["frames"])
        states, posterior = model.observe(batch, jax.random.split(rng, frames.shape[1]))
        features, none = states.features, jnp.zeros(frames.shape[:2], bool)
        arrived = ~batch.get("is_first", none)
        reward = model.reward(features)[..., 0, :]
        errors = model.reward.two_hot.loss(reward, batch["rewards"])
        continues = batch.get("continues", jnp.ones(frames.shape[:2]))
        logits = model.continues(features)[..., 0].astype(jnp.float32)
        dynamics, representation = balanced_kl(posterior, model.rssm.prior(states.deter), self.free)
        squared = jnp.square(model.decode(features) - frames)
        terms = {
            "image": jnp.mean(jnp.sum(squared, axis=(2, 3, 4))),
            "reward": masked_mean(errors, arrived),
            "continue": jnp.mean(jax.nn.softplus(logits) - continues * logits),
            "dynamics": jnp.mean(dynamics),
            "representation": jnp.mean(representation),
        }
        loss = sum(self.weights[name] * term for name, term in terms.items())
        mean = model.reward.two_hot.mean(reward)
        shown = {
            "psnr": -10 * jnp.log10(jnp.mean(squared)),
            "reward_mae": masked_mean(jnp.abs(mean - batch["rewards"]), arrived),
        }
        return LossOutput(loss, terms | shown, extra)

    def dream(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, context: int, rng: jax.Array
    ) -> dict[str, jax.Array]:
        """Dreams on from the first frames of held-out clips; see `tasks.rollout.Dreamer`."""
        del frozen
        model, known = self.model(params), known_actions(batch)
        keys = jax.random.split(rng, known.shape[1])
        states, _ = model.observe(batch, keys, context)
        last = jax.tree.map(lambda x: x[:, -1], states)

        def frames(actions: Any) -> jax.Array:
            later = jax.tree.map(lambda a: a[:, context:], actions)
            dreamed = model.dream(last, later, known[:, context:], keys[context:])
            features = jnp.concatenate([states.features, dreamed.features], axis=1)
            return jnp.clip(model.decode(features), 0, 1)

        whole, _ = model.observe(batch, keys)
        return {
            "k4": frames(batch["actions"]),
            "shuffled": frames(shuffled_after(batch["actions"], context)),
            "ceiling": jnp.clip(model.decode(whole.features), 0, 1),
        }

    def evaluators(self) -> Mapping[str, Evaluator]:
        """Open-loop rollouts against the truth."""
        return {"rollout": self._rollout}

    def frames_per_batch(self, batch: Batch) -> int:
        """B × T."""
        return batch["frames"].shape[0] * batch["frames"].shape[1]
