"""Phase 2: an actor-critic in latent imagination (Dreamer 3, arXiv:2301.04104, "Critic learning", "Actor learning")."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from models import distributions, functional
from models.actions import ActionSpace, as_components
from models.heads import HeadsConfig, PolicyHead, TwoHotHead
from models.imagination import Actions, Moment, Policy, Rollout, roll_out
from models.returns import alive, lambda_returns
from reverie_rssm.actor_critic import ReturnRange, actor_loss, critic_loss, weighted_mean
from reverie_rssm.imagination import Imagination, RssmEyes
from reverie_rssm.rssm import State
from reverie_rssm.task import RssmTask
from tasks.control import Control, returns
from tasks.environments import check_environment, make_environment
from trainer import ConfigError, Evaluator, LossOutput, Task, Upstream
from trainer.task import Batch


class RssmBehaviorTask(Task):
    """Learns a policy and its values from dreams alone; the world model stays as it is.

    Dreams start from the posterior states of all frames of the batch's contexts. The running state holds the range of
    returns and a slow copy of the critic.

    Args:
      context: frames of a context; batches have to be as long or longer, and their first frames are used.
      horizon: imagined steps (H).
      discount: γ.
      trace: λ of the returns.
      entropy_weight: η.
      return_decay: of the running percentiles.
      slow_decay: of the critic's slow copy.
      policy: fields of `models.heads.HeadsConfig` of the policy (`distances` is 1).
      value: likewise, of the critic.
      environment: where the policy is tried out, `target` and arguments.
      evaluation: settings of the evaluator `tasks.control.Control`.
    """

    def __init__(
        self, *, context: int = 8, horizon: int = 15, discount: float = 0.997, trace: float = 0.95,
        entropy_weight: float = 3e-4, return_decay: float = 0.99, slow_decay: float = 0.98,
        policy: Mapping[str, Any] | None = None, value: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None, evaluation: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        for name, count in (("context", context), ("horizon", horizon)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        shares = {"discount": discount, "trace": trace, "return_decay": return_decay, "slow_decay": slow_decay}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        self.context, self.horizon, self.discount, self.trace = context, horizon, discount, trace
        self.entropy_weight, self.return_decay, self.slow_decay = entropy_weight, return_decay, slow_decay
        self._policy_sizes = HeadsConfig(**{**(policy or {}), "distances": 1})
        self._value_sizes = HeadsConfig(**{**(value or {}), "distances": 1})
        self._environment_fields, self._evaluation_fields = dict(environment or {}), dict(evaluation or {})

    def setup(self, upstream: Mapping[str, Upstream], example: Batch) -> None:
        """Takes the frozen world model, and checks that the data and the environment fit it."""
        world = upstream.get("world")
        if world is None or not isinstance(world.task, RssmTask):
            raise ConfigError(
                "RssmBehaviorTask needs a trained RSSM: set config.upstream.world to "
                '{"run": "logs/rssm-cpu", "config": "reverie_rssm/configs/rssm.py:cpu"}.'
            )
        self.world, self._world_params = world.task, world.params
        frames, image = example["frames"].shape[1], tuple(example["frames"].shape[-3:])
        if image != self.world.config.image:
            raise ConfigError(f"{world.run} was trained on frames of {self.world.config.image}, the data has {image}.")
        if frames < self.context:
            raise ConfigError(
                f"a context has {self.context} frames, and clips have {frames}: set data.length to {self.context} or "
                "more, or lower task.context."
            )
        if "actions" not in example:
            raise ConfigError(f"contexts need actions, and the data has none; name the data of {world.run}.")
        self.environment = make_environment(self._environment_fields)
        self._control = None
        try:
            as_components(example["actions"], self.actions)
            distributions.check_policy_space(self.actions)
            if self.environment is not None:
                check_environment(self.environment, self.actions)
                self._control = Control(self, **self._evaluation_fields)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e

    def check_batch(self, batch: Batch) -> None:
        """Raises DataError where actions lie outside of the action space."""
        self.world.check_batch(batch)

    def frozen(self) -> Mapping[str, functional.Params]:
        """The world model."""
        return {"world": self._world_params}

    @property
    def actions(self) -> ActionSpace:
        """The action space."""
        return self.world.config.actions

    def _make_policy(self, rngs: Any) -> PolicyHead:
        return PolicyHead(self.world.config.rssm.features, self.actions, self._policy_sizes, rngs=rngs)

    def _make_value(self, rngs: Any) -> TwoHotHead:
        return TwoHotHead(self.world.config.rssm.features, self._value_sizes, rngs=rngs)

    def init_params(self, rng: jax.Array, batch: Batch) -> functional.Params:
        """A policy that is almost uniform, and a critic that says 0."""
        del batch
        policy_rng, value_rng = jax.random.split(rng)
        return {
            "policy": functional.init(self._make_policy, policy_rng),
            "value": functional.init(self._make_value, value_rng),
        }

    def init_extra(self, params: functional.Params) -> dict[str, Any]:
        """No returns seen, and the critic itself as its slow copy."""
        return {"range": ReturnRange.empty(), "slow": params["value"]}

    def policy(self, params: functional.Params, *, greedy: bool = False) -> Policy:
        """Acts by features: drawn, or the likeliest action."""
        head = functional.bind(self._make_policy, params)

        def act(state: Any, moment: Moment, t: jax.Array, rng: jax.Array) -> Actions:
            logits = head.next(moment.features)
            if greedy:
                return distributions.mode(logits, self.actions)
            return distributions.sample(rng, logits, self.actions)

        return act

    def contexts(self, frozen: Mapping[str, Any], batch: Batch, rng: jax.Array) -> State:
        """Posterior states [B, context] of the batch's first frames."""
        keys = jax.random.split(rng, self.context)
        return self.world.model(frozen["world"]).observe(batch, keys, self.context)[0]

    def imagine(
        self, params: functional.Params, frozen: Mapping[str, Any], start: State, rng: jax.Array, horizon: int
    ) -> Rollout:
        """Rollouts of the policy from states [N], without a gradient."""
        world = Imagination(self.world.model(frozen["world"]))
        policy = self.policy(jax.lax.stop_gradient(params["policy"]))
        return jax.lax.stop_gradient(roll_out(world, (start, world.arrive(start)), policy, rng, horizon))

    def objective(
        self, params: functional.Params, extra: Mapping[str, Any], rollout: Rollout, starts: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """Actor and critic loss over all states of a rollout but the last, metrics, and the next running state.

        States count by the probability that they are reached, undiscounted. [Dreamer 3 discounts them.]

        Args:
          params: policy and value.
          extra: the running state.
          rollout: from `imagine`.
          starts: [N], 0 for rollouts from a state in which the episode has ended, else 1.
        """
        features = rollout.features[:, :-1]
        critic = functional.bind(self._make_value, params["value"])
        slow = functional.bind(self._make_value, extra["slow"]).now(features)
        logits = critic(features)[..., 0, :]
        ends = critic.now(rollout.features[:, -1:])
        values = jax.lax.stop_gradient(jnp.concatenate([critic.two_hot.mean(logits), ends], axis=1))
        target = lambda_returns(rollout.rewards, rollout.continues, values, discount=self.discount, trace=self.trace)
        weight = starts[:, None] * alive(rollout.continues)[:, :-1]
        ranges = extra["range"].update(target, self.return_decay)
        advantage = target - values[:, :-1]
        chosen = functional.bind(self._make_policy, params["policy"]).next(features)
        entropy = distributions.entropy(chosen, self.actions)
        actor = actor_loss(
            distributions.log_prob(chosen, rollout.actions, self.actions), entropy, advantage, ranges.scale, weight,
            entropy_weight=self.entropy_weight,
        )  # fmt: skip
        value = critic_loss(critic.two_hot, logits, target, slow, weight)
        metrics = {
            "actor": actor,
            "critic": value,
            "entropy": weighted_mean(entropy, weight),
            "value_mae": weighted_mean(jnp.abs(advantage), weight),
            "return_scale": ranges.scale,
            "imagined_reward": weighted_mean(rollout.rewards, weight),
        }
        slower = jax.tree.map(
            lambda old, new: old + (1 - self.slow_decay) * (jax.lax.stop_gradient(new).astype(old.dtype) - old),
            extra["slow"], params["value"],
        )  # fmt: skip
        return actor + value, metrics, {"range": ranges, "slow": slower}

    def loss(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, *, rng: jax.Array, step: jax.Array,
        extra: Mapping[str, Any], train: bool,
    ) -> LossOutput:  # fmt: skip
        """One rollout from every frame of the contexts, and what is learned from it; nothing goes on after an end."""
        del step, train
        context_rng, rng = jax.random.split(rng)
        start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.contexts(frozen, batch, context_rng))
        rollout = self.imagine(params, frozen, start, rng, self.horizon)
        starts = batch.get("continues", jnp.ones(batch["frames"].shape[:2]))[:, : self.context].reshape(-1)
        loss, metrics, extra = self.objective(params, extra, rollout, starts)
        return LossOutput(loss, metrics, extra)

    def player(
        self, params: functional.Params, frozen: Mapping[str, Any], rows: int, *, greedy: bool = False
    ) -> tuple[RssmEyes, Policy]:
        """How the agent looks and acts; see `tasks.control.Agent`."""
        del rows
        return RssmEyes(self.world.model(frozen["world"])), self.policy(params["policy"], greedy=greedy)

    def clone(self, params: functional.Params, frozen: Mapping[str, Any]) -> None:
        """Nothing was cloned: the policy starts at random."""

    def imagined_returns(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, rng: jax.Array, steps: int
    ) -> jax.Array:
        """Returns [B] of `steps` steps in imagination, from the last frames of a batch's contexts."""
        context_rng, rng = jax.random.split(rng)
        last = jax.tree.map(lambda x: x[:, -1], self.contexts(frozen, batch, context_rng))
        return returns(self.imagine(params, frozen, last, rng, steps))

    def evaluators(self) -> Mapping[str, Evaluator]:
        """Returns in the real environment, where there is one."""
        return {} if self._control is None else {"control": self._control}

    def frames_per_batch(self, batch: Batch) -> int:
        """Imagined states."""
        return batch["frames"].shape[0] * self.context * self.horizon
