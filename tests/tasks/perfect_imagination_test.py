"""A policy learns from dreams that are the world itself: nothing but the objective is in its way."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

from datasets.bouncing_square.environment import BouncingSquare
from models.actions import action_space
from models.heads import HeadsConfig
from models.imagination import Moment, roll_out
from tasks.control import returns
from tasks.imagination_rl import ImaginationRLTask
from trainer.state import TrainState
from trainer.update import Update

KEY = jax.random.key(0)
WIDTH = 32
SPACE = action_space({"direction": {"kind": "categorical", "size": 4}})
PROJECTION = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)


class TrueWorld:
    """The bouncing square itself, seen through a projection of its state and of the last action."""

    environment = BouncingSquare()

    def look(self, state, time_step, action):
        side = state.world.side[:, None]
        offset = (state.world.corner + side / 2 - 16) / 16
        known = jnp.concatenate([offset, jnp.abs(offset), (side - 10) / 4, jax.nn.one_hot(action, 4)], axis=-1)
        return Moment(known @ PROJECTION, time_step.reward, 1.0 - time_step.is_terminal, jnp.zeros((len(side), 0)))

    def begin(self, keys, rng):
        state, _ = jax.vmap(self.environment.reset)(keys)
        return self.step(state, {"direction": jax.random.randint(rng, (len(keys),), 0, 4)}, rng)

    def step(self, state, actions, rng):
        state, time_step = jax.vmap(self.environment.step)(state, actions["direction"])
        return state, self.look(state, time_step, actions["direction"])


class TrueWorldTask(ImaginationRLTask):
    """RL whose imagination is perfect."""

    def setup(self, upstream, example):
        config = types.SimpleNamespace(actions=SPACE, transformer=types.SimpleNamespace(width=WIDTH))
        self.heads = types.SimpleNamespace(config=config, heads=HeadsConfig(distances=1, hidden=64, layers=2))
        self.value = HeadsConfig(distances=1, hidden=64, layers=2, bins=63, limit=5.0)

    def begin(self, params, frozen, batch, rng):
        world, (keys_rng, action_rng) = TrueWorld(), jax.random.split(rng)
        return world, world.begin(jax.random.split(keys_rng, len(batch["frames"])), action_rng)


def test_in_a_perfect_imagination_the_policy_becomes_nearly_optimal():
    task = TrueWorldTask(horizon=16, discount=0.9, prior_weight=0.1)
    task.setup({}, {})
    start = task.init_params(KEY, {})
    tx, zero, batch = optax.adam(1e-3), jnp.int32(0), {"frames": np.zeros((32, 1))}
    frozen = {"heads": {"policy": start["policy"]}}
    state = TrainState(zero, start, tx.init(start), None, None, KEY, zero)

    @functools.partial(jax.jit, static_argnums=1)
    def train(state, updates):
        def update(state, _):
            state, metrics = task.train_step(state, frozen, batch, Update(tx=tx))
            return state, metrics

        return jax.lax.scan(update, state, length=updates)

    @functools.partial(jax.jit, static_argnums=0)
    def mean_return(name, params):
        world, begun = task.begin(None, frozen, {"frames": np.zeros((256, 1))}, jax.random.key(1))

        def act(state, moment, t, rng):
            if name == "random":
                return {"direction": jax.random.randint(rng, (256,), 0, 4)}
            return {"direction": jax.vmap(world.environment.optimal_action)(state)}

        policy = task.policy(params) if name == "agent" else act
        return returns(roll_out(world, begun, policy, jax.random.key(2), 32)).mean()

    random, optimal = (float(mean_return(name, None)) for name in ("random", "optimal"))

    def normalized(state):
        return (float(mean_return("agent", state.params["policy"])) - random) / (optimal - random)

    assert normalized(state) < 0.1
    state, metrics = train(state, 300)
    assert normalized(state) > 0.95
    assert int(state.skipped) == 0
    assert metrics["imagined_return"][-20:].mean() > metrics["imagined_return"][:20].mean() / 2
