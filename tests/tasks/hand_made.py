"""A world in which everything is known: a number, shown as brightness, to which every action adds 0 … 3.

The reward of arriving at a number is `REWARD[number]`, and from `END` on the episode is over. The story is one episode
of it, from `START` to `END`; recorded clips are windows of the story told again and again.
"""

import types
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fakes import TOKENIZER, TRANSFORMER, FlatTokenizer, FlatTokenizerTask, generic, shapes, upstream
from flax import nnx

from datasets.environment import ActionSpec, TimeStep
from models.actions import as_components
from models.distributions import TwoHot
from models.dynamics import Prediction
from tasks.dynamics import DynamicsTask
from tasks.heads import HeadsTask
from tasks.imagination_rl import ImaginationRLTask
from tasks.tokenizer import TokenizerTask
from trainer.task import Upstream

NUMBERS, CHOICES, LENGTH, START, DISTANCES = 128, 4, 24, 20, 4
TWO_HOT = TwoHot(bins=21, limit=3.0)
_draw = np.random.default_rng(0)
REWARD = TWO_HOT.centers[_draw.integers(0, TWO_HOT.bins, NUMBERS)]
ACTIONS = _draw.integers(1, CHOICES, LENGTH).astype(np.int32)  # the first one is not taken
SHOWN = START + np.cumsum(np.where(np.arange(LENGTH) == 0, 0, ACTIONS))
END = int(SHOWN[-1])
MODEL = {
    "packing": 2, "registers": 1, "max_steps": 2, "latent_scale": 2.0, "transformer": TRANSFORMER,
    "actions": {"move": {"kind": "categorical", "size": CHOICES}},
}  # fmt: skip


def story(starts=(0, 3, LENGTH - 6, 9), frames=10):
    """A batch of windows; each starts at another place of the story, and after its end the story starts anew."""
    place = (np.asarray(starts)[:, None] + np.arange(frames)) % LENGTH
    first = place == 0
    return {
        "frames": np.broadcast_to(SHOWN[place][..., None, None, None], (*place.shape, 4, 4, 3)).astype(np.uint8),
        "actions": np.where(first, 0, ACTIONS[place]).astype(np.int32),
        "rewards": np.where(first, 0, REWARD[SHOWN[place]]).astype(np.float32),
        "continues": (SHOWN[place] < END).astype(np.float32),
        "is_first": first,
    }


def told(values, shift):
    """Of each number of the story the values of the frames 0 … L - 1 ahead, `shift` later: [NUMBERS, L, …]."""
    values = np.asarray(values)
    places = np.searchsorted(SHOWN, np.arange(NUMBERS))[:, None] + np.arange(DISTANCES) + shift
    return values[np.clip(places, 0, LENGTH - 1)]


def knowing(policy=0, reward=0, goes_on=0, sure=30.0):
    """Parameters of heads that know the story; a shift makes one of them wrong by as many frames."""
    return {
        "policy": {"table": jnp.asarray(sure * np.eye(CHOICES)[told(ACTIONS, 1 + policy)], jnp.float32)},
        "reward": {"table": sure * TWO_HOT.encode(told(REWARD[SHOWN], reward))},
        "continue": {"table": jnp.asarray(sure * np.sign(told(SHOWN < END, goes_on) - 0.5), jnp.float32)},
    }


class Table(nnx.Module):
    """A head that looks its outputs up by the number that the features hold."""

    def __init__(self, *shape):
        self.table = nnx.Param(jnp.zeros((NUMBERS, *shape)))
        self.two_hot = TWO_HOT

    def __call__(self, features):
        return self.table[...][jnp.round(features[..., 0]).astype(int)]


class PolicyTable(Table):
    def __call__(self, features):
        return {"move": super().__call__(features)}

    def next(self, features):
        return {"move": self(features)["move"][..., 0, :]}


class RewardTable(Table):
    def now(self, features):
        return self.two_hot.mean(self(features)[..., 0, :])


class ContinueTable(Table):
    def now(self, features):
        return nnx.sigmoid(self(features)[..., 0])


class SeeingTokenizerTask(FlatTokenizerTask):
    """Frame by frame it needs no past."""

    def model(self, params):
        tokenizer = FlatTokenizer(self.config, params, self.calls)
        tokenizer.encoder = types.SimpleNamespace(init_cache=lambda batch: None)
        return tokenizer


class KnowingDynamics:
    """Adds the action to the number; features are the number, and the action that led to it or -1, then zeros."""

    def __init__(self, config):
        self.config, self.recall = config, lambda cache: cache

    def init_cache(self, batch):
        return jnp.zeros((batch, 1, self.config.spatial_tokens, self.config.spatial_channels))

    def __call__(self, noisy, signal, halvings, actions, labelled, *, task=None, cache=None, **others):
        del signal, halvings, others
        move = jnp.where(labelled, as_components(actions, self.config.actions)["move"], 0)
        unit = self.config.latent_scale / 255
        predicted = noisy if cache is None else cache + unit * move[..., None, None]
        features = jnp.stack([noisy.mean((-1, -2)) / unit, jnp.where(labelled, move, -1)], axis=-1)
        features = jnp.pad(features, ((0, 0), (0, 0), (0, self.config.transformer.width - 2)))
        return Prediction(predicted, None if task is None else features, noisy[:, -1:])


class StoryHeadsTask(HeadsTask):
    """Its dynamics knows the world, and its heads are tables."""

    def model(self, params):
        return KnowingDynamics(self.config)

    @property
    def _makers(self):
        makers = {
            "policy": lambda rngs: PolicyTable(DISTANCES, CHOICES),
            "reward": lambda rngs: RewardTable(DISTANCES, TWO_HOT.bins),
            "continue": lambda rngs: ContinueTable(DISTANCES),
        }
        return {name: make for name, make in makers.items() if self.has_continues or name != "continue"}


class StoryRLTask(ImaginationRLTask):
    """Policy and value are tables as well."""

    def _make_policy(self, rngs):
        return PolicyTable(DISTANCES, CHOICES)

    def _make_value(self, rngs):
        return RewardTable(1, TWO_HOT.bins)


def run_of(task, params, name):
    return Upstream(task=task, params=params, run=Path(f"logs/{name}-test"), step=1)


def story_dynamics(batch=None, **model):
    """What a heads task builds on; `model` differs from `MODEL`."""
    task = DynamicsTask(model={**MODEL, **model}, sampler={"steps": 1}, rollout={"context": 2})
    task.setup(upstream(SeeingTokenizerTask(), {"gain": jnp.float32(1)}), shapes(story() if batch is None else batch))
    return run_of(task, {}, "dynamics")


def story_heads(batch=None, cls=StoryHeadsTask, **settings):
    """A task of the story, set up."""
    batch = story() if batch is None else batch
    heads = {"distances": DISTANCES, "hidden": 8, "layers": 1, "bins": TWO_HOT.bins, "limit": TWO_HOT.limit}
    task = cls(**{"heads": heads, "rollout": {"context": 2}, "evaluation": {"context": 3}, **settings})
    task.setup({"dynamics": story_dynamics(batch)}, shapes(batch))
    return task


def story_rl(params=None, heads=None, batch=None, cls=StoryRLTask, **settings):
    """RL in the story's world, from heads that know the story."""
    batch = story() if batch is None else batch
    heads = story_heads(batch) if heads is None else heads
    task = cls(**{"context": 3, "horizon": 5, "environment": {"target": "hand_made:Counting"}, **settings})
    task.setup({"heads": run_of(heads, knowing() if params is None else params, "heads")}, shapes(batch))
    return task


class CountingState(NamedTuple):
    number: jax.Array
    steps: jax.Array


class Counting:
    """The world as an environment; episodes start at START, or up to `spread` above, and go on after their end."""

    def __init__(self, time_limit=1000, spread=3, size=4, end=END, num_actions=CHOICES):
        self.time_limit, self.spread, self.size, self.end = time_limit, spread, size, end
        self.action_spec = ActionSpec(num_actions=num_actions, null_action=0)

    def _see(self, state, first):
        number, no = state.number, jnp.bool_(False)
        texture = (jnp.arange(self.size**2 * 3) * number) % 97 if self.size > 4 else jnp.zeros(48, int)
        frame = (number + texture).reshape(self.size, self.size, 3).astype(jnp.uint8)
        if first:
            return state, TimeStep(frame, jnp.float32(0), ~no, no, no)
        terminal = number >= self.end
        return state, TimeStep(
            frame, jnp.asarray(REWARD)[number], no, terminal | (state.steps >= self.time_limit), terminal
        )

    def reset(self, rng):
        return self._see(CountingState(START + jax.random.randint(rng, (), 0, self.spread), jnp.int32(0)), True)

    def step(self, state, action):
        return self._see(CountingState(state.number + action, state.steps + 1), False)

    def optimal_action(self, state):
        """The best next reward: good enough to be recognised."""
        return jnp.argmax(jnp.asarray(REWARD)[state.number + jnp.arange(CHOICES)])

    def behavior_entropy(self, length, max_distance):
        return 100.0 * length + np.arange(1, max_distance + 1)


def real_heads(batch, actions, frames=8, **settings):
    """A task with a real tokenizer, dynamics and heads of the smallest size; upstream parameters are generic."""
    pixels = {"frames": np.zeros((2, 3, frames, frames, 3), np.uint8)}
    tokenizer = TokenizerTask(model=TOKENIZER)
    tokenizer.setup({}, shapes(pixels))
    dynamics = DynamicsTask(model={**MODEL, "actions": actions}, sampler={"steps": 1}, rollout={"context": 2})
    dynamics.setup(upstream(tokenizer, generic(tokenizer, pixels)), shapes(batch))
    heads = {"distances": 2, "hidden": 8, "layers": 1, "bins": 11, "limit": 2.0}
    task = HeadsTask(**{"heads": heads, "rollout": {"context": 2}, "evaluation": {"context": 3}, **settings})
    task.setup({"dynamics": run_of(dynamics, generic(dynamics, batch, seed=1), "dynamics")}, shapes(batch))
    return task
