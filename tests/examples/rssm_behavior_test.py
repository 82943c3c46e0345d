"""Actor and critic of the recurrent world model: their losses against plain numbers, and that they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_heads import log_softmax, two_hot_loss, two_hot_mean
from reverie_rssm.actor_critic import ReturnRange, actor_loss
from small_world import BATCH, HEADS, TIME, behavior, enlarged, keys, make_batch

from models import functional
from models.heads import HeadsConfig, PolicyHead, TwoHotHead
from models.imagination import Moment, Rollout

ROWS, HORIZON, KEY = 5, 4, jax.random.key(3)


def logits_of(kind, params, features, *space):
    """What a head says of features."""
    config = HeadsConfig(**HEADS, distances=1)
    head = functional.bind(lambda rngs: kind(features.shape[-1], *space, config, rngs=rngs), params)
    out = head.next(features)["move"] if space else head(features)[..., 0, :]
    return np.asarray(out, np.float64)


def test_the_losses_are_those_of_plain_numbers():
    task = behavior(discount=0.8, trace=0.6, entropy_weight=0.05, return_decay=0.9, slow_decay=0.75)
    params = enlarged(task.init_params(jax.random.key(0), make_batch()), seed=1)
    slow = enlarged(params["value"], seed=2)
    numbers = np.random.default_rng(0)
    features = numbers.normal(size=(ROWS, HORIZON + 1, task.world.config.rssm.features)).astype(np.float32)
    rewards = 4 * numbers.normal(size=(ROWS, HORIZON))
    continues = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0.5, 1, 0.25, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    moves = numbers.integers(0, 3, (ROWS, HORIZON))
    starts = np.array([1.0, 1, 1, 1, 0])

    values = two_hot_mean(logits_of(TwoHotHead, params["value"], features))
    returns, following = np.zeros((ROWS, HORIZON)), values[:, -1]
    for t in reversed(range(HORIZON)):
        following = rewards[:, t] + 0.8 * continues[:, t] * (0.4 * values[:, t + 1] + 0.6 * following)
        returns[:, t] = following
    reached = np.cumprod(np.concatenate([starts[:, None], continues[:, :-1]], axis=1), axis=1)
    low, high = np.quantile(returns, (0.05, 0.95))
    scale = ((0.9 * 5 + 0.1 * high) - (0.9 * -2 + 0.1 * low)) / (0.9 * 0.5 + 0.1)
    advantage = returns - values[:, :-1]
    logs = log_softmax(logits_of(PolicyHead, params["policy"], features[:, :-1], task.actions))
    chosen, entropy = np.take_along_axis(logs, moves[..., None], -1)[..., 0], -(np.exp(logs) * logs).sum(-1)
    logits = logits_of(TwoHotHead, params["value"], features[:, :-1])
    slowly = two_hot_mean(logits_of(TwoHotHead, slow, features[:, :-1]))

    def mean(x):
        return (x * reached).sum() / reached.sum()

    wanted = {
        "actor": -mean(advantage / scale * chosen + 0.05 * entropy),
        "critic": mean(two_hot_loss(logits, returns) + two_hot_loss(logits, slowly)),
        "entropy": mean(entropy),
        "value_mae": mean(np.abs(advantage)),
        "return_scale": scale,
        "imagined_reward": mean(rewards),
    }
    rollout = Rollout(features, {"move": moves}, rewards.astype(np.float32), continues.astype(np.float32), None)
    seen = ReturnRange(jnp.float32(-2), jnp.float32(5), jnp.float32(0.5))
    loss, metrics, after = jax.jit(task.objective)(params, {"range": seen, "slow": slow}, rollout, starts)
    assert set(metrics) == set(wanted)
    for name, figure in wanted.items():
        np.testing.assert_allclose(metrics[name], figure, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(loss, wanted["actor"] + wanted["critic"], rtol=1e-4)
    np.testing.assert_allclose(after["range"], [0.9 * -2 + 0.1 * low, 0.9 * 5 + 0.1 * high, 0.55], rtol=1e-4)
    followed = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, slow, params["value"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after["slow"], followed)


def test_dreams_start_at_every_frame_and_none_that_follows_an_end_is_learned_from(monkeypatch):
    task, params = behavior(), behavior().init_params(jax.random.key(0), make_batch())
    objective, given = task.objective, []
    monkeypatch.setattr(task, "objective", lambda *args: given.append(args) or objective(*args))
    batch, frozen = make_batch(), task.frozen()

    def loss(batch):
        out = task.loss(params, frozen, batch, rng=KEY, step=0, extra=task.init_extra(params), train=True)
        return out.loss, given[-1][2:]

    _, (rollout, starts) = jax.jit(loss)(batch)
    context_rng, _ = jax.random.split(KEY)
    states = jax.jit(task.contexts)(frozen, batch, context_rng)
    np.testing.assert_allclose(rollout.features[:, 0], states.features.reshape(BATCH * TIME, -1), atol=1e-5)
    np.testing.assert_array_equal(starts, batch["continues"].reshape(-1))
    world_model = task.world.model(frozen["world"])
    np.testing.assert_allclose(rollout.rewards, world_model.reward.now(rollout.features[:, 1:]), atol=1e-5)
    np.testing.assert_allclose(rollout.continues, world_model.continues.now(rollout.features[:, 1:]), atol=1e-5)
    endless = {name: array for name, array in batch.items() if name != "continues"}
    assert jax.jit(loss)(endless)[1][1].all()


@pytest.mark.parametrize("good", ["what is rewarded", "what does not end the episode"])
def test_the_policy_learns(good):
    """Of three actions, 2 is as good as its name says."""
    task = behavior(discount=0.9, entropy_weight=0.0, slow_decay=0.5)
    params = task.init_params(jax.random.key(0), make_batch())
    extra, tx = task.init_extra(params), optax.adam(3e-2)
    features = jax.random.normal(jax.random.key(1), (16, 5, task.world.config.rssm.features))
    moment = Moment(features[:, :-1], None, None, None)

    @jax.jit
    def step(params, extra, opt_state, rng):
        actions = task.policy(params["policy"])(None, moment, 0, rng)
        right = (actions["move"] == 2).astype(jnp.float32)
        rewards, continues = (right, jnp.ones_like(right)) if good == "what is rewarded" else (right * 0 + 1, right)
        rollout = Rollout(features, actions, rewards, continues, None)

        def loss(params):
            value, metrics, after = task.objective(params, extra, rollout, jnp.ones(len(features)))
            return value, (metrics, after)

        grads, (metrics, extra_after) = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), extra_after, opt_state, metrics

    opt_state, errors = tx.init(params), []
    for key in keys(2, 60):
        params, extra, opt_state, metrics = step(params, extra, opt_state, key)
        errors.append(metrics["value_mae"])
    assert jnp.mean(task.policy(params["policy"])(None, moment, 0, jax.random.key(3))["move"] == 2) > 0.9
    assert errors[-1] < 0.7 * max(errors)  # the critic has learned what to expect


def test_a_greedy_player_does_what_is_likeliest():
    task = behavior()
    params = enlarged(task.init_params(jax.random.key(0), make_batch()), seed=1)
    features = jax.random.normal(jax.random.key(1), (200, task.world.config.rssm.features))
    likeliest = logits_of(PolicyHead, params["policy"], features, task.actions).argmax(-1)
    moves = {}
    for greedy in (True, False):
        _, policy = task.player(params, task.frozen(), 200, greedy=greedy)
        moves[greedy] = policy(None, Moment(features, None, None, None), 0, KEY)["move"]
    np.testing.assert_array_equal(moves[True], likeliest)
    assert 0.2 < np.mean(moves[False] == likeliest) < 0.99


def test_the_range_of_returns():
    ranges = ReturnRange.empty()
    assert ranges.scale == 1
    for _ in range(2):
        ranges = ranges.update(jnp.linspace(-100, 100, 201), 0.99)
        assert float(ranges.scale) == pytest.approx(180, rel=1e-4)  # at once, not after a hundred batches
    assert ReturnRange.empty().update(jnp.zeros(5), 0.9).scale == 1


def test_an_undecided_policy_is_rewarded_and_good_actions_are_reinforced():
    logits = jnp.zeros((1, 2, 3))

    def loss(logits, advantage, entropy_weight):
        logs = jax.nn.log_softmax(logits)
        entropy = -jnp.sum(jnp.exp(logs) * logs, -1)
        return actor_loss(
            logs[..., 1], entropy, advantage, jnp.float32(2.0), jnp.array([[1.0, 0.0]]), entropy_weight=entropy_weight
        )

    push = -jax.grad(loss)(logits, jnp.array([[4.0, 4.0]]), 0.0)
    np.testing.assert_allclose(push[0], [[-2 / 3, 4 / 3, -2 / 3], [0, 0, 0]], atol=1e-6)  # 4 ÷ 2, where it is reached
    peaked = logits.at[..., 0].set(2.0)
    assert jax.grad(loss)(peaked, jnp.zeros((1, 2)), 1.0)[0, 0, 0] > 0
