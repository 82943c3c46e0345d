"""How well a policy does in the real environment, beside a random one, the clone and the oracle.

The environment's frames reach the agent as imagined ones do: one at a time, each seen once, with all of its past.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from models import functional
from models.actions import ActionSpace, no_action
from models.cache import Cache
from models.dynamics import pack
from models.imagination import Actions, Moment, Policy, Rollout, WorldModel, roll_out
from models.returns import alive
from models.tokenizer import to_float
from tasks import figures, pictures
from tasks.batches import first_rows, require_features
from trainer import hosts
from trainer.errors import ConfigError
from trainer.state import PyTree
from trainer.task import Batch, Comparison, Evaluation, Evaluator

if TYPE_CHECKING:
    from tasks.heads import HeadsTask

RANDOM, CLONED, OPTIMAL = "random", "cloned", "optimal"


class Eyes(Protocol):
    """How an agent looks at an environment: frame by frame, with all of its past, as it does in imagination."""

    def begin(self, rows: int) -> Any:
        """The state before the first frame."""

    def look(self, state: Any, frame: jax.Array, actions: Actions | None, rng: jax.Array) -> tuple[Any, jax.Array]:
        """Takes in a frame [B, H, W, C] of bytes and what led to it (None: a reset).

        Returns:
          The next state, and the features [B, D] that a policy acts by.
        """


class Agent(Protocol):
    """What a task offers to be evaluated by `Control`.

    Attributes:
      environment: see `datasets.environment.Environment`.
      actions: the action space, one categorical component.
      context: frames that a rollout in imagination starts from.
    """

    environment: Any
    actions: ActionSpace
    context: int

    def player(
        self, params: PyTree, frozen: Mapping[str, Any], rows: int, *, greedy: bool = False
    ) -> tuple[Eyes, Policy]:
        """(traced) How it looks and acts: by chance, as it learned to, or `greedy`."""

    def clone(self, params: PyTree, frozen: Mapping[str, Any]) -> PyTree | None:
        """Parameters for `player` of what it was before reinforcement learning; None where it was nothing."""

    def imagined_returns(
        self, params: PyTree, frozen: Mapping[str, Any], batch: Batch, rng: jax.Array, steps: int
    ) -> jax.Array:
        """(traced) Returns [B] of `steps` steps in imagination, from a batch's contexts."""


class RealState(NamedTuple):
    """A state of `RealWorld`.

    Attributes:
      environment: the simulator's.
      alive: episodes that have not ended.
      seen: the eyes'.
    """

    environment: Any
    alive: jax.Array
    seen: Any


class RealWorld:
    """A batch of environments as a `models.imagination.World`; after an episode's end rewards and continues are 0.

    Args:
      environment: see `datasets.environment.Environment`.
      eyes: look at the frames; None for policies that need no features.
    """

    def __init__(self, environment: Any, eyes: Eyes | None = None):
        self.environment, self.eyes = environment, eyes

    def begin(self, keys: jax.Array, rng: jax.Array) -> tuple[RealState, Moment]:
        """Resets an environment per key."""
        state, time_step = jax.vmap(self.environment.reset)(keys)
        seen = None if self.eyes is None else self.eyes.begin(len(keys))
        return self._look(RealState(state, jnp.ones(len(keys), bool), seen), time_step, None, rng)

    def step(self, state: RealState, actions: Actions, rng: jax.Array) -> tuple[RealState, Moment]:
        """Acts."""
        (chosen,) = actions.values()
        environment, time_step = jax.vmap(self.environment.step)(state.environment, chosen)
        return self._look(state._replace(environment=environment), time_step, actions, rng)

    def _look(
        self, state: RealState, time_step: Any, actions: Actions | None, rng: jax.Array
    ) -> tuple[RealState, Moment]:
        reward = jnp.where(state.alive, time_step.reward, 0.0)
        alive = state.alive & ~time_step.is_last
        features = jnp.zeros((len(reward), 0))
        if self.eyes is not None:
            seen, features = self.eyes.look(state.seen, time_step.frame, actions, rng)
            state = state._replace(seen=seen)
        moment = Moment(features, reward, alive.astype(jnp.float32), time_step.frame)
        return state._replace(alive=alive), moment


class WorldModelEyes:
    """Frames stream through the caches of tokenizer and dynamics.

    Args:
      heads: the task of the world model with heads.
      tokenizer: its tokenizer's parameters.
      model: the world model, for its pass over finished frames.
    """

    def __init__(self, heads: "HeadsTask", tokenizer: functional.Params, model: WorldModel):
        self.heads, self.model = heads, model
        self.tokenizer = heads.tokenizer.model(tokenizer)

    def begin(self, rows: int) -> tuple[Cache, Cache]:
        """Empty caches."""
        return self.tokenizer.encoder.init_cache(rows), self.model.dynamics.init_cache(rows)

    def look(
        self, state: tuple[Cache, Cache], frame: jax.Array, actions: Actions | None, rng: jax.Array
    ) -> tuple[tuple[Cache, Cache], jax.Array]:
        """Encodes a frame once, and passes over it."""
        encoder, dynamics = state
        config, rows = self.heads.config, len(frame)
        labelled = jnp.full((rows, 1), actions is not None)
        actions = no_action(config.actions, (rows,)) if actions is None else actions
        latents, encoder = self.tokenizer.encode(to_float(frame)[:, None], cache=encoder)
        spatial = pack(latents, config.packing) * config.latent_scale
        action = jax.tree.map(lambda a: a[:, None], actions)
        dynamics, moment = self.model.observe(dynamics, spatial, action, labelled, rng)
        return (encoder, dynamics), moment.features


def returns(rollout: Rollout) -> jax.Array:
    """Undiscounted returns [B]; what comes after an episode's end counts nothing."""
    return jnp.sum(rollout.rewards * alive(rollout.continues)[:, :-1], axis=1)


class Control(Evaluator):
    """Returns in the real environment, on the same episodes for all policies, and in imagination.

    Args:
      task: the task.
      episodes: environments, each for one episode.
      steps: steps of an episode.
      contexts: held-out contexts for the return in imagination.
      shown: episodes in the video.
      every: steps between two evaluations.
    """

    def __init__(
        self, task: Agent, *, episodes: int = 256, steps: int = 32, contexts: int = 64, shown: int = 4,
        every: int | None = None,
    ):  # fmt: skip
        for name, value in (("episodes", episodes), ("steps", steps), ("contexts", contexts), ("shown", shown)):
            if value < 1:
                raise ValueError(f"evaluation.{name} must be at least 1, got {value}")
        self.task, self.episodes, self.steps, self.contexts, self.shown, self.every = (
            task, episodes, steps, contexts, shown, every,
        )  # fmt: skip
        self.has_oracle = hasattr(task.environment, "optimal_action")
        references = {name: f"control/return_{name}" for name in (RANDOM, CLONED)}
        normalized = {"random": 0.0, "cloned": "control/normalized_return_cloned"}
        oracle = {"oracle": "control/return_optimal"} if self.has_oracle else {}
        self.comparisons = (
            Comparison(
                "control/return", f"return of {steps} steps in the real environment", references=references | oracle
            ),
            *((Comparison("control/normalized_return", "0: random, 1: optimal",
                          references=normalized | {"oracle": 1.0}),) if self.has_oracle else ()),
            Comparison("control/imagined_return", f"return of {steps} steps in imagination",
                       references={"real": "control/return"}),
        )  # fmt: skip
        self._agent = jax.jit(self._run_agent, static_argnames="greedy")
        self._plain = jax.jit(self._run_plain, static_argnames="name")
        self._imagine = jax.jit(self._imagined)
        self._fixed: dict[str, dict[str, np.ndarray]] = {}  # of policies that do not learn

    def check(self, example: Batch | None) -> None:
        """Raises ConfigError where held-out clips have no actions, or are shorter than a context."""
        if example is None:
            return
        require_features(example, ("actions",), "eval_data", "contexts of imagined returns need actions")
        if example["frames"].shape[1] < self.task.context:
            raise ConfigError(
                f"a context has {self.task.context} frames, and held-out clips have {example['frames'].shape[1]}: set "
                f"eval_data.length to {self.task.context} or more."
            )

    def _run_agent(self, params: Any, frozen: Any, rng: jax.Array, greedy: bool) -> dict[str, jax.Array]:
        reset_rng, see_rng, rng = jax.random.split(rng, 3)
        eyes, policy = self.task.player(params, frozen, self.episodes, greedy=greedy)
        world = RealWorld(self.task.environment, eyes)
        start = world.begin(jax.random.split(reset_rng, self.episodes), see_rng)
        return self._summary(roll_out(world, start, policy, rng, self.steps, pictures=True))

    def _run_plain(self, rng: jax.Array, name: str) -> dict[str, jax.Array]:
        environment = self.task.environment
        (component,) = self.task.actions

        def act(state: RealState, moment: Moment, t: jax.Array, rng: jax.Array) -> Actions:
            if name == OPTIMAL:
                return {component: jax.vmap(environment.optimal_action)(state.environment)}
            return {component: jax.random.randint(rng, (self.episodes,), 0, environment.action_spec.num_actions)}

        reset_rng, see_rng, rng = jax.random.split(rng, 3)
        world = RealWorld(environment)
        start = world.begin(jax.random.split(reset_rng, self.episodes), see_rng)
        return self._summary(roll_out(world, start, act, rng, self.steps, pictures=True))

    def _summary(self, rollout: Rollout) -> dict[str, jax.Array]:
        assert rollout.pictures is not None
        return {
            "returns": returns(rollout), "rewards": rollout.rewards.mean(axis=0),
            "frames": rollout.pictures[: self.shown],
        }  # fmt: skip

    def _imagined(self, params: Any, frozen: Any, batch: Batch, rng: jax.Array) -> jax.Array:
        return self.task.imagined_returns(params, frozen, batch, rng, self.steps)

    def evaluate(
        self, *, params: Any, frozen: Mapping[str, Any], extra: Any, rng: jax.Array, batches: Iterable[Batch],
        step: int,
    ) -> Evaluation:  # fmt: skip
        """Runs `episodes` episodes."""
        del extra, step
        imagine_rng, rng = jax.random.split(rng)

        def fixed(name: str, run: Callable[[], Any]) -> dict[str, np.ndarray]:
            if name not in self._fixed:
                self._fixed[name] = hosts.whole(run())
            return self._fixed[name]

        results = {"agent": hosts.whole(self._agent(params, frozen, rng, greedy=False))}
        greedy = hosts.whole(self._agent(params, frozen, rng, greedy=True))
        clone = self.task.clone(params, frozen)
        if clone is not None:
            results[CLONED] = fixed(CLONED, lambda: self._agent(clone, frozen, rng, greedy=False))
        results[RANDOM] = fixed(RANDOM, lambda: self._plain(rng, RANDOM))
        if self.has_oracle:
            results[OPTIMAL] = fixed(OPTIMAL, lambda: self._plain(rng, OPTIMAL))
        means = {name: float(result["returns"].mean()) for name, result in results.items()}
        scalars = {"control/return": means["agent"], "control/return_greedy": float(greedy["returns"].mean())}
        scalars |= {f"control/return_{name}": mean for name, mean in means.items() if name != "agent"}
        scalars["control/return_sd"] = float(results["agent"]["returns"].std())
        if self.has_oracle:
            span = means[OPTIMAL] - means[RANDOM]
            scalars["control/normalized_return"] = (means["agent"] - means[RANDOM]) / span
            if CLONED in means:
                scalars["control/normalized_return_cloned"] = (means[CLONED] - means[RANDOM]) / span
            scalars["control/normalized_return_greedy"] = (scalars["control/return_greedy"] - means[RANDOM]) / span
        imagined: list[np.ndarray] = []
        for index, batch, take in first_rows(batches, self.contexts):
            key = jax.random.fold_in(imagine_rng, index)
            imagined.extend(hosts.whole(self._imagine(params, frozen, batch, key))[:take])
        if imagined:
            scalars["control/imagined_return"] = float(np.mean(imagined))
        return Evaluation(
            scalars=scalars,
            images={
                "control": figures.rewards_of_policies(
                    {name: result["rewards"] for name, result in results.items()},
                    {name: result["returns"] for name, result in results.items()},
                ),
                "control_episodes": pictures.episodes_strip(_frames(results)),
            },
            videos={"control": pictures.episodes_video(_frames(results))},
        )


def _frames(results: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Frames [episodes, T, H, W, C] by policy, from before learning to the oracle."""
    titles = {RANDOM: "random", CLONED: "before RL", "agent": "after RL", OPTIMAL: "oracle"}
    return {title: results[name]["frames"] for name, title in titles.items() if name in results}
