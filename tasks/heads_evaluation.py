"""How well the heads predict, beside what the recorded data allows (Dreamer 4, arXiv:2509.24527, §3.3)."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from models import distributions, functional
from models.actions import as_components
from models.imagination import Actions, Moment, roll_out
from tasks import figures
from tasks.batches import first_rows, require_features
from trainer import hosts
from trainer.errors import ConfigError
from trainer.task import Batch, Comparison, Evaluation, Evaluator

if TYPE_CHECKING:
    from tasks.heads import HeadsTask


class HeadsEvaluation(Evaluator):
    """How well the heads predict, on recorded frames (teacher-forced) and along the model's own dreams.

    `heads/cross_entropy_n` is the mean over distances 1 … n, in nats per action; its floor is the entropy of the policy
    that recorded the data, where the environment knows it (`behavior_entropy`). `heads/reward_mae` is of the reward
    received on arriving at the frame, in its own unit. Names that end in `_dreamed` are of frames that the model
    imagined under the true actions: a dream counts up to the first one that is unknown, or a reset. Figures of which
    nothing counts are left out.

    Args:
      task: the task.
      context: frames given before a dream.
      clips: held-out clips that are teacher-forced.
      dreams: of these, clips that are dreamed on; all where `clips` are fewer.
      shown: clips in the figure of rewards over time.
      every: steps between two evaluations.
    """

    def __init__(
        self, task: "HeadsTask", *, context: int = 32, clips: int = 512, dreams: int = 64, shown: int = 4,
        every: int | None = None,
    ):  # fmt: skip
        for name, value in (("context", context), ("clips", clips), ("dreams", dreams), ("shown", shown)):
            if value < 1:
                raise ValueError(f"evaluation.{name} must be at least 1, got {value}")
        self.task, self.context, self.clips, self.shown, self.every = task, context, clips, shown, every
        self.dreams = min(dreams, clips)
        self.numbers = [n for n in (1, 2, 8) if n <= task.heads.distances]
        self.knows_floor = hasattr(task.environment, "behavior_entropy")
        self.comparisons = (
            *(
                Comparison(
                    f"heads/cross_entropy_{n}",
                    "cloned policy: nats per action" + (f", mean over 1 … {n} frames ahead" if n > 1 else ""),
                    "nats", "lower", {"floor": f"heads/cross_entropy_floor_{n}"} if self.knows_floor else {},
                )
                for n in self.numbers
            ),
            Comparison("heads/reward_mae", "reward head: mean absolute error", "", "lower", {"floor": 0.0}),
            Comparison("heads/reward_mae_dreamed", "the same along dreams", "", "lower", {"floor": "heads/reward_mae"}),
        )  # fmt: skip
        self._forced = jax.jit(self._teacher_forced)
        self._dreamed = jax.jit(self._dream)

    def check(self, example: Batch | None) -> None:
        """Raises ConfigError where held-out clips are no longer than the context, or lack actions or rewards."""
        if example is None:
            return
        require_features(example, ("rewards", "actions"), "eval_data", "heads are judged by actions and rewards")
        if example["frames"].shape[1] <= self.context:
            raise ConfigError(
                f"heads are evaluated along dreams after {self.context} frames, but held-out clips have "
                f"{example['frames'].shape[1]}; set eval_data.length above task.evaluation.context (data.length with "
                "overfit_batches, which evaluates on training clips)."
            )

    def _teacher_forced(self, params: functional.Params, tokenizer: Any, batch: Batch, rng: jax.Array) -> Any:
        task = self.task
        features = task.features(params, task.encode(tokenizer, batch), batch, rng)
        errors = task.head_errors(params, features, batch)
        policy, policy_mask = errors["policy"]
        reward = task.head(params, "reward").now(features)
        out = {
            "policy": jnp.sum(jnp.where(policy_mask, policy, 0), axis=1),  # [B, L]
            "policy_count": jnp.sum(policy_mask, axis=1),
            "rewards": reward,
            "reward": jnp.where(errors["reward"][1][..., 0], jnp.abs(reward - batch["rewards"]), 0),  # [B, T]
            "reward_count": errors["reward"][1][..., 0].astype(jnp.int32),
        }
        if task.has_continues:
            right = (task.head(params, "continue").now(features) > 0.5) == (batch["continues"] > 0.5)
            out["continue"] = jnp.sum(right & errors["continue"][1][..., 0], axis=1)
            out["continue_count"] = jnp.sum(errors["continue"][1][..., 0], axis=1)
        return out

    def _dream(self, params: functional.Params, tokenizer: Any, batch: Batch, rng: jax.Array) -> Any:
        task, past = self.task, self.context
        context_rng, dream_rng = jax.random.split(rng)
        spatial, labelled = task.encode(tokenizer, batch)[:, :past], task.labelled_frames(batch)
        actions = as_components(batch["actions"], task.config.actions)
        world = task.world_model(params, task.task_ids(batch))
        start = world.begin(spatial, jax.tree.map(lambda a: a[:, :past], actions), labelled[:, :past], context_rng)

        def replay(state: Any, moment: Moment, t: jax.Array, rng: jax.Array) -> Actions:
            return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, past + t, axis=1, keepdims=False), actions)

        horizon = batch["frames"].shape[1] - past
        dream = roll_out(world, start, replay, dream_rng, horizon)
        logits = task.head(params, "policy").next(dream.features[:, :-1])
        taken = jax.tree.map(lambda a: a[:, past:], actions)
        true = jnp.cumprod(labelled[:, past:], axis=1, dtype=bool)  # the model was told what was done, up to here
        cloned = true & batch["relevant"][:, None] if "relevant" in batch else true
        return {
            "rewards": dream.rewards,
            "reward": jnp.where(true, jnp.abs(dream.rewards - batch["rewards"][:, past:]), 0),
            "reward_count": true.astype(jnp.int32),
            "policy": jnp.where(cloned, -distributions.log_prob(logits, taken, task.config.actions), 0),
            "policy_count": cloned.astype(jnp.int32),
        }

    def evaluate(
        self, *, params: functional.Params, frozen: Mapping[str, Any], extra: Any, rng: jax.Array,
        batches: Iterable[Batch], step: int,
    ) -> Evaluation:  # fmt: skip
        """Measures `clips` clips, and `dreams` of them along dreams."""
        del extra, step
        forced: list[dict[str, np.ndarray]] = []
        dreamed: list[dict[str, np.ndarray]] = []
        truth: list[np.ndarray] = []
        count, length, tokenizer = 0, 0, frozen["tokenizer"]
        for index, batch, take in first_rows(batches, self.clips):
            key, length = jax.random.fold_in(rng, index), batch["frames"].shape[1]
            out = hosts.whole(self._forced(params, tokenizer, batch, key))
            forced.append({name: value[:take] for name, value in out.items()})
            if count < self.dreams:
                out = hosts.whole(self._dreamed(params, tokenizer, batch, key))
                truth.append(hosts.whole(batch["rewards"])[: self.dreams - count])
                dreamed.append({name: value[: self.dreams - count] for name, value in out.items()})
            count += take
        if not forced:
            return Evaluation()
        total = {name: np.concatenate([out[name] for out in forced]).sum(axis=0) for name in forced[0]}
        told = np.concatenate([out["rewards"] for out in forced])
        true = np.concatenate(truth)
        counts = np.concatenate([out["reward_count"] for out in forced])[: len(true)] > 0
        dream = {name: np.concatenate([out[name] for out in dreamed]) for name in dreamed[0]}
        by_distance = total["policy"] / np.maximum(total["policy_count"], 1)
        pooled = np.cumsum(total["policy"]) / np.maximum(np.cumsum(total["policy_count"]), 1)
        counted = total["policy_count"][0] > 0  # no row may be relevant, or labelled
        scalars = {f"heads/cross_entropy_{n}": float(pooled[n - 1]) for n in self.numbers if counted}
        for name, sums, head in (
            ("cross_entropy_1_dreamed", dream, "policy"), ("reward_mae", total, "reward"),
            ("reward_mae_dreamed", dream, "reward"),
        ):  # fmt: skip
            if sums[f"{head}_count"].any():
                scalars[f"heads/{name}"] = float(sums[head].sum() / sums[f"{head}_count"].sum())
        if self.task.has_continues:
            scalars["heads/continue_accuracy"] = float(total["continue"] / max(total["continue_count"], 1))
        floor = None
        if self.knows_floor:
            floor = np.asarray(self.task.environment.behavior_entropy(length, self.task.heads.distances))
            scalars |= {f"heads/cross_entropy_floor_{n}": float(floor[n - 1]) for n in self.numbers}
        shown = min(self.shown, len(true))
        images = {
            "heads_cross_entropy": figures.cross_entropy(pooled, by_distance, floor),
            "heads_reward": figures.rewards(
                np.where(counts, true, np.nan)[:shown], told[:shown],
                np.where(dream["reward_count"] > 0, dream["rewards"], np.nan)[:shown],
                _means(total["reward"], total["reward_count"]),
                _means(dream["reward"].sum(axis=0), dream["reward_count"].sum(axis=0)),
            ),
        }  # fmt: skip
        return Evaluation(scalars=scalars, images=images)


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """NaN where nothing counts."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
