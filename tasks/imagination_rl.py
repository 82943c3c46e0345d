"""Phase 4: a better policy, learned inside the world model (Dreamer 4, arXiv:2509.24527, §3.3)."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from models import distributions, functional
from models.actions import ActionSpace, as_components
from models.generation import observe
from models.heads import HeadsConfig, PolicyHead, TwoHotHead, masked_mean
from models.imagination import Actions, AgentView, Moment, Policy, Rollout, World, WorldModel, roll_out
from models.pmpo import pmpo, reinforce
from models.returns import alive, lambda_returns
from tasks.batches import rows_and_frames
from tasks.control import Control, WorldModelEyes, returns
from tasks.environments import check_environment, make_environment
from tasks.heads import HeadsTask
from trainer.data import DataSource
from trainer.errors import ConfigError, check_fields
from trainer.task import Batch, Evaluator, LossOutput, Task, Upstream

POLICY_LOSSES = ("pmpo", "reinforce")


class ImaginationRLTask(Task):
    """Learns a policy and a value head from rollouts in imagination; by default the transformer stays as it is.

    A rollout starts from every context of the batch. The policy starts as the clone, and a frozen copy of the clone is
    its prior. Values are symexp two-hot on λ-returns; the policy learns by PMPO on the sign of the advantage.

    With `train_transformer` the agent reads frames through a copy of the transformer that learns with its heads. What
    dreams, rewards and serves as prior stays the frozen world model, so that a policy cannot bend its own world.

    Args:
      context: frames of a context; batches have to be as long or longer, and their first frames are used.
      horizon: imagined frames (H).
      discount: γ.
      trace: λ of the returns.
      policy_loss: "pmpo", or "reinforce": ln π times the advantage itself, with the same baseline and prior.
      from_clone: the policy starts as the clone; false for a fresh one (the clone stays the prior).
      positive_share: α, the weight of states with a positive advantage; the others have 1 - α.
      prior_weight: β.
      uniform_share: of the policy's actions this share is drawn evenly, so that every action is tried. [ours]
      value_warmup: steps at the start in which only the value learns. A fresh one is far from all returns and calls
        every action good, or every action bad, by which a policy can unlearn all but one for good. [ours]
      train_transformer: the agent's copy of the transformer learns too. [ours]
      value: fields of `models.heads.HeadsConfig` of the value head (`distances` is 1).
      sampler: fields of `models.generation.Sampler` that differ from the upstream's; None for the upstream's.
      task_id: the task to get better at; None for the upstream's.
      environment: where the policy is tried out, `target` and arguments.
      evaluation: settings of the evaluator `tasks.control.Control`.
      cache_latents: see `tasks.dynamics.DynamicsTask`.
    """

    def __init__(
        self, *, context: int = 16, horizon: int = 32, discount: float = 0.997, trace: float = 0.95,
        policy_loss: Literal["pmpo", "reinforce"] = "pmpo", from_clone: bool = True,
        positive_share: float = 0.5, prior_weight: float = 0.3, uniform_share: float = 0.0,
        value_warmup: int = 0, train_transformer: bool = False, value: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None, task_id: int | None = None,
        environment: Mapping[str, Any] | None = None, evaluation: Mapping[str, Any] | None = None,
        cache_latents: bool = False,
    ):  # fmt: skip
        self.cache_latents = cache_latents
        for name, count in (("context", context), ("horizon", horizon)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        shares = {
            "discount": discount, "trace": trace, "positive_share": positive_share, "uniform_share": uniform_share,
        }  # fmt: skip
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        if policy_loss not in POLICY_LOSSES:
            raise ValueError(f"policy_loss should be one of {', '.join(POLICY_LOSSES)}, got {policy_loss!r}")
        for name, least in (("prior_weight", prior_weight), ("value_warmup", value_warmup)):
            if least < 0:
                raise ValueError(f"{name} must be 0 or more, got {least}")
        self.context, self.horizon, self.discount, self.trace = context, horizon, discount, trace
        self.policy_loss, self.from_clone = policy_loss, from_clone
        self.positive_share, self.prior_weight, self.uniform_share = positive_share, prior_weight, uniform_share
        self.value_warmup, self.train_transformer, self._task_id = value_warmup, train_transformer, task_id
        self._value_fields, self._sampler_fields = dict(value or {}), dict(sampler or {})
        self._environment_fields, self._evaluation_fields = dict(environment or {}), dict(evaluation or {})

    def setup(self, upstream: Mapping[str, Upstream], example: Batch) -> None:
        """Takes the frozen world model with its heads, and checks that the data and the environment fit it."""
        heads = upstream.get("heads")
        if heads is None or not isinstance(heads.task, HeadsTask):
            raise ConfigError(
                "ImaginationRLTask needs a world model with heads: set config.upstream.heads to "
                '{"run": "logs/heads-cpu", "config": "configs/heads.py:cpu"}.'
            )
        self.heads, self._upstream = heads.task.for_imagination(self._sampler_fields), heads
        config = self.heads.config
        self.task_id = self.heads.task_id if self._task_id is None else self._task_id
        if not 0 <= self.task_id < self.heads.tasks:
            raise ConfigError(
                f"task.task_id = {self.task_id}, but the heads of {heads.run} know the tasks "
                f"0 … {self.heads.tasks - 1}; give one of these."
            )
        if "actions" not in example:
            raise ConfigError(f"contexts need actions, and the data has none; name the data of {heads.run}.")
        frames, image = example["frames"].shape[1], tuple(example["frames"].shape[-3:])
        if image != self.heads.tokenizer.config.image:
            raise ConfigError(
                f"{heads.run} was trained on frames of {self.heads.tokenizer.config.image}, the data has {image}."
            )
        if frames < self.context:
            raise ConfigError(
                f"a context has {self.context} frames, and clips have {frames}: set data.length to {self.context} or "
                "more, or lower task.context."
            )
        self.environment = make_environment(self._environment_fields)
        self._control = None
        check_fields(HeadsConfig, self._value_fields, "task.value")
        check_fields(Control, self._evaluation_fields, "task.evaluation")
        try:
            as_components(example["actions"], config.actions)
            self.value = HeadsConfig(**{**self._value_fields, "distances": 1})
            if self.environment is not None:
                check_environment(self.environment, config.actions)
                self._control = Control(self, **self._evaluation_fields)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task: {e}") from e

    def check_batch(self, batch: Batch) -> None:
        """Raises DataError where actions lie outside of the action space."""
        self.heads.check_batch(batch)

    def prepare_data(self, data: DataSource) -> DataSource:
        """As phases 2 and 3 have it."""
        return self.heads.with_latents(data) if self.cache_latents else data

    def frozen(self) -> Mapping[str, functional.Params]:
        """The tokenizer, and the world model with its heads: the cloned policy among them is the prior."""
        return {"tokenizer": self._upstream.frozen["tokenizer"], "heads": self._upstream.params}

    def _make_policy(self, rngs: Any) -> PolicyHead:
        return PolicyHead(self.heads.config.transformer.width, self.heads.config.actions, self.heads.heads, rngs=rngs)

    def _make_value(self, rngs: Any) -> TwoHotHead:
        return TwoHotHead(self.heads.config.transformer.width, self.value, rngs=rngs)

    def init_params(self, rng: jax.Array, batch: Batch) -> functional.Params:
        """A policy head of the clone's shape, a fresh value head, and a transformer where that is trained."""
        policy_rng, value_rng = jax.random.split(rng)
        params = {
            "policy": functional.init(self._make_policy, policy_rng),
            "value": functional.init(self._make_value, value_rng),
        }
        if self.train_transformer:
            params["dynamics"] = self.heads.init_params(jax.random.fold_in(rng, 2), batch)["dynamics"]
        return params

    def warm_start(self, params: functional.Params) -> functional.Params:
        """The policy is the clone, unless it is to be a fresh one, and reads as the clone does."""
        fresh = {"value"} if self.from_clone else {"value", "policy"}
        learned = {name: self._upstream.params[name] for name in params if name not in fresh}
        return {**params, **learned}

    def logits(self, policy: functional.Params, features: jax.Array) -> dict[str, jax.Array]:
        """Logits of the next action, by component."""
        logits = functional.bind(self._make_policy, policy).next(features)
        if not self.uniform_share:
            return logits
        return distributions.mix_uniform(logits, self.uniform_share, self.heads.config.actions)

    def policy(self, params: functional.Params, *, greedy: bool = False) -> Policy:
        """Acts by the policy head's features: drawn, or the likeliest action."""
        space = self.heads.config.actions

        def act(state: Any, moment: Moment, t: jax.Array, rng: jax.Array) -> Actions:
            logits = self.logits(params, moment.features)
            return distributions.mode(logits, space) if greedy else distributions.sample(rng, logits, space)

        return act

    def reader(self, params: functional.Params, frozen: Mapping[str, Any], rows: int) -> WorldModel:
        """What the agent sees frames through: its own transformer where that is trained, or the world model's."""
        heads = {**frozen["heads"], "dynamics": params["dynamics"]} if self.train_transformer else frozen["heads"]
        # The agent's task, whatever a recording was about.
        return self.heads.world_model(heads, jnp.full(rows, self.task_id, jnp.int32))

    def _contexts(self, frozen: Mapping[str, Any], batch: Batch) -> tuple[jax.Array, Actions, jax.Array]:
        """Latents, actions, and whether those are known, of a batch's contexts."""
        batch = jax.tree.map(lambda a: a[:, : self.context] if a.ndim > 1 else a, dict(batch))
        actions = as_components(batch["actions"], self.heads.config.actions)
        return self.heads.encode(frozen["tokenizer"], batch), actions, self.heads.labelled_frames(batch)

    def begin(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[World, tuple[Any, Moment]]:
        """The imagination, and where the rollouts of a batch start in it."""
        reader = self.reader(params, frozen, rows_and_frames(batch)[0])
        world: Any = reader
        if self.train_transformer:
            world = AgentView(self.heads.world_model(frozen["heads"], reader.task), reader)
        return world, world.begin(*self._contexts(frozen, batch), rng)

    def imagine(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, rng: jax.Array,
        horizon: int | None = None,
    ) -> Rollout:  # fmt: skip
        """Rollouts of the policy from the batch's contexts, without a gradient."""
        begin_rng, rng = jax.random.split(rng)
        params = jax.lax.stop_gradient(params)
        world, start = self.begin(params, frozen, batch, begin_rng)
        policy = self.policy(params["policy"])
        rollout = roll_out(world, start, policy, rng, horizon or self.horizon, pictures=self.train_transformer)
        return jax.lax.stop_gradient(rollout)

    def reread(
        self, reader: WorldModel, frozen: Mapping[str, Any], batch: Batch, rollout: Rollout, rng: jax.Array
    ) -> jax.Array:
        """Features [B, H + 1, D] of a rollout's states, read again from its frames, in one pass: with a gradient.

        Args:
          reader: the transformer.
          frozen: for the tokenizer.
          batch: the contexts that `rollout` started from.
          rollout: from `imagine`.
          rng: a key, used where the context level is a noisy one.
        """
        assert rollout.pictures is not None
        latents, actions, labelled = self._contexts(frozen, batch)
        latents = jnp.concatenate([latents, rollout.pictures[:, 1:]], axis=1)
        actions = jax.tree.map(lambda past, new: jnp.concatenate([past, new], axis=1), actions, rollout.actions)
        labelled = jnp.pad(labelled, [(0, 0), (0, rollout.rewards.shape[1])], constant_values=True)
        features, _ = observe(reader.dynamics, None, latents, actions, labelled, rng, reader.sampler, task=reader.task)
        assert features is not None
        return features[:, self.context - 1 :]

    def learn(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, rollout: Rollout, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`objective` of a rollout from the batch; where the transformer is trained, it is what reads the frames.

        Agent and prior then read the same frames, under the noise of `rng` where the context level is a noisy one.
        """
        prior, starts = frozen["heads"]["policy"], self.goes_on(batch)
        if not self.train_transformer:
            return self.objective(params, prior, rollout, starts)
        reader = self.reader(params, frozen, len(rollout.rewards))
        world = self.heads.world_model(frozen["heads"], reader.task)
        cloned = jax.lax.stop_gradient(self.reread(world, frozen, batch, rollout, rng))
        rollout = rollout._replace(features=self.reread(reader, frozen, batch, rollout, rng))
        return self.objective(params, prior, rollout, starts, cloned)

    def goes_on(self, batch: Batch) -> jax.Array:
        """[B] 0 for contexts that end with their episode, from which there is nothing to imagine; else 1."""
        if "continues" not in batch:
            return jnp.ones(rows_and_frames(batch)[0])
        return batch["continues"][:, self.context - 1].astype(jnp.float32)

    def objective(
        self, params: functional.Params, prior: functional.Params, rollout: Rollout, starts: jax.Array,
        cloned: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
        """The policy's and the value's loss on a rollout, over all of its states but the last.

        Args:
          params: policy and value.
          prior: the cloned policy's parameters.
          rollout: from `imagine`.
          starts: [B], how much rollouts count: 0 where the episode had ended before, else 1.
          cloned: features [B, H + 1, D] that the prior reads; None for the rollout's own.
        """
        space, states = self.heads.config.actions, rollout.features[:, :-1]
        value = functional.bind(self._make_value, params["value"])
        values = jax.lax.stop_gradient(value.now(rollout.features))
        target = lambda_returns(rollout.rewards, rollout.continues, values, discount=self.discount, trace=self.trace)
        weight = starts[:, None] * alive(rollout.continues)[:, :-1]
        logits = self.logits(params["policy"], states)
        clone = self.logits(prior, states if cloned is None else cloned[:, :-1])
        kl = distributions.kl(logits, clone, space)
        advantage = target - values[:, :-1]
        log_prob = distributions.log_prob(logits, rollout.actions, space)
        if self.policy_loss == "pmpo":
            terms = pmpo(
                log_prob, advantage, kl, weight, alpha=self.positive_share, beta=self.prior_weight
            )  # fmt: skip
        else:
            terms = reinforce(log_prob, advantage, kl, weight, beta=self.prior_weight)
        errors = value.two_hot.loss(value(states)[..., 0, :], target)
        value_loss = jnp.sum(weight * errors) / jnp.maximum(jnp.sum(weight), 1e-6)
        loss = terms.positive + terms.negative + terms.prior + value_loss
        return loss, {
            "policy": terms.positive + terms.negative,
            "prior": terms.prior,
            "value": value_loss,
            "value_mae": masked_mean(jnp.abs(advantage), weight > 0.5),
            "kl": masked_mean(kl, weight > 0.5),
            "entropy": masked_mean(distributions.entropy(logits, space), weight > 0.5),
            "positive": masked_mean((advantage >= 0).astype(jnp.float32), weight > 0.5),
            "imagined_reward": masked_mean(rollout.rewards, weight > 0.5),
        }

    def loss(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, *, rng: jax.Array, step: jax.Array,
        extra: Any, train: bool,
    ) -> LossOutput:  # fmt: skip
        """Rollouts from a batch's contexts, and the loss on them; of the value alone at first, see `value_warmup`."""
        rollout = self.imagine(params, frozen, batch, rng)
        loss, metrics = self.learn(params, frozen, batch, rollout, jax.random.fold_in(rng, 2))  # 0, 1: the rollout's
        if train:
            loss = jnp.where(step < self.value_warmup, metrics["value"], loss)
        imagined = masked_mean(returns(rollout), self.goes_on(batch) > 0.5)
        return LossOutput(loss, {**metrics, "imagined_return": imagined}, extra)

    @property
    def actions(self) -> ActionSpace:
        """The action space."""
        return self.heads.config.actions

    def player(
        self, params: functional.Params, frozen: Mapping[str, Any], rows: int, *, greedy: bool = False
    ) -> tuple[WorldModelEyes, Policy]:
        """How the agent looks and acts; see `tasks.control.Agent`."""
        eyes = WorldModelEyes(self.heads, frozen["tokenizer"], self.reader(params, frozen, rows))
        return eyes, self.policy(params["policy"], greedy=greedy)

    def clone(self, params: functional.Params, frozen: Mapping[str, Any]) -> functional.Params:
        """The cloned policy, and the transformer it reads with."""
        return {name: frozen["heads"][name] for name in params if name != "value"}

    def imagined_returns(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, rng: jax.Array, steps: int
    ) -> jax.Array:
        """Returns [B] of rollouts in imagination."""
        return returns(self.imagine(params, frozen, batch, rng, steps))

    def evaluators(self) -> Mapping[str, Evaluator]:
        """Returns in the real environment, where there is one."""
        return {} if self._control is None else {"control": self._control}

    def frames_per_batch(self, batch: Batch) -> int:
        """Imagined frames."""
        return rows_and_frames(batch)[0] * self.horizon
