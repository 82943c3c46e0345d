"""What the recurrent world model minimises: every term against plain numbers, what it teaches, that it is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_heads import two_hot_loss, two_hot_mean
from reverie_rssm.imagination import Imagination
from reverie_rssm.losses import balanced_kl, kl
from reverie_rssm.rssm import RssmConfig
from small_world import BATCH, MODEL, TIME, make_batch, make_task, world

KEY = jax.random.key(3)


def said(batch, task, params):
    """What the model says of a batch, as numbers: the losses are made of this alone."""

    @jax.jit
    def look(batch):
        model = task.model(params)
        states, posterior = model.observe(batch, jax.random.split(KEY, batch["frames"].shape[1]))
        reward = model.reward(states.features)[..., 0, :]
        goes_on = model.continues(states.features)[..., 0]
        return model.decode(states.features), reward, goes_on, posterior, model.rssm.prior(states.deter)

    return [np.asarray(x, np.float64) for x in look(batch)]


def loss_of(task, params, batch):
    return jax.jit(lambda batch: task.loss(params, {}, batch, rng=KEY, step=0, extra={}, train=True))(batch)


def test_the_loss_is_made_of_the_terms_that_plain_numbers_give():
    task, params = world()
    first = np.zeros((BATCH, TIME), bool)
    first[0, 0] = first[1, 2] = True
    batch = make_batch(is_first=first)
    assert 0 < batch["continues"].sum() < BATCH * TIME
    frames, reward, goes_on, posterior, prior = said(batch, task, params)
    nats = (np.exp(posterior) * (posterior - prior)).sum((-2, -1))
    free = float(np.median(nats))
    probability = 1 / (1 + np.exp(-goes_on))
    terms = {
        "image": ((frames - batch["frames"] / 255) ** 2).sum((2, 3, 4)).mean(),
        "reward": two_hot_loss(reward, batch["rewards"])[~first].mean(),
        "continue": -np.log(np.where(batch["continues"] == 1, probability, 1 - probability)).mean(),
        "dynamics": np.maximum(nats, free).mean(),
        "representation": np.maximum(nats, free).mean(),
    }
    weights = {"image": 0.5, "reward": 2.0, "continue": 3.0, "dynamics": 5.0, "representation": 7.0}
    out = loss_of(make_task(free=free, weights=weights), params, batch)
    for name, term in terms.items():
        np.testing.assert_allclose(out.metrics[name], term, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(out.loss, sum(weights[name] * term for name, term in terms.items()), rtol=1e-4)
    off = np.abs(two_hot_mean(reward) - batch["rewards"])[~first].mean()
    np.testing.assert_allclose(out.metrics["reward_mae"], off, rtol=1e-3)
    # A world that tells of no ends has none.
    del batch["continues"]
    np.testing.assert_allclose(loss_of(task, params, batch).metrics["continue"], -np.log(probability).mean(), rtol=1e-4)


TEACHES = {  # term: (what it teaches in a single frame, what it does not)
    "dynamics": ({"prior_out", "prior_hidden"}, {"encoder", "posterior_out", "decoder", "reward", "continues"}),
    "representation": ({"encoder", "posterior_out"}, {"prior_out", "prior_hidden", "decoder", "reward"}),
    "image": ({"encoder", "posterior_out", "decoder"}, {"prior_out", "reward", "continues"}),
    "reward": ({"encoder", "posterior_out", "reward"}, {"prior_out", "decoder", "continues"}),
    "continue": ({"encoder", "posterior_out", "continues"}, {"prior_out", "decoder", "reward"}),
}


def test_what_each_term_teaches():
    """In a single frame: in several, gradients reach the posterior through the past."""
    _, params = world()
    task, batch = make_task(free=0.0), make_batch(frames=1)

    def terms(params):
        metrics = task.loss(params, {}, batch, rng=KEY, step=0, extra={}, train=True).metrics
        return {name: metrics[name] for name in TEACHES}

    for term, grads in jax.jit(jax.jacrev(terms))(params).items():
        grads |= grads.pop("rssm")
        moved = {name for name, part in grads.items() if any(jnp.any(leaf) for leaf in jax.tree.leaves(part))}
        taught, untaught = TEACHES[term]
        assert moved >= taught, term
        assert not moved & untaught, term


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_share_that_is_even_is_the_one_that_was_set(share):
    task = make_task(model=MODEL | {"unimix": share})
    params = jax.tree.map(lambda x: 300 * x, world()[1])
    for logits in said(make_batch(), task, params)[3:]:
        np.testing.assert_allclose(np.exp(logits).sum(-1), 1, atol=1e-5)
        assert np.exp(logits).min() == pytest.approx(share / MODEL["classes"], rel=1e-3, abs=1e-9)
    assert RssmConfig().unimix == 0.01


def rules(seed, rows=16):
    """A world of one rule: an action is seen at once as a shade, pays `action - 1`, and 1 ends the episode."""
    batch = make_batch(seed, rows=rows)
    shade = (60 + 70 * batch["actions"]).astype(np.uint8)
    batch["frames"] = np.broadcast_to(shade[..., None, None, None], batch["frames"].shape)
    batch["rewards"] = (batch["actions"] - 1).astype(np.float32)
    batch["continues"] = (batch["actions"] != 1).astype(np.float32)
    return batch


def test_it_learns_what_actions_lead_to():
    task = make_task(free=0.1)
    params, tx = task.init_params(jax.random.key(0), make_batch()), optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state, batch, rng):
        grads = jax.grad(lambda p: task.loss(p, {}, batch, rng=rng, step=0, extra={}, train=True).loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for index in range(120):
        params, opt_state = step(params, opt_state, rules(index), jax.random.key(index))

    @jax.jit
    def dream(batch, action):
        model = task.model(params)
        states, _ = model.observe(batch, jax.random.split(KEY, TIME))
        last = jax.tree.map(lambda x: x[:, -1], states)
        actions = {"move": jnp.full(len(batch["frames"]), action)}
        state, moment = Imagination(model).step(last, actions, jax.random.key(1))
        return moment.reward, moment.continues, model.decode(state.features)

    for action in range(3):
        reward, goes_on, frames = dream(rules(1000), action)
        np.testing.assert_allclose(reward, action - 1, atol=0.3)
        np.testing.assert_allclose(goes_on, action != 1, atol=0.3)
        np.testing.assert_allclose(frames.mean((1, 2, 3)), (60 + 70 * action) / 255, atol=0.1)


def test_the_kl_is_balanced_and_free_below_its_bits():
    numbers = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))
    posterior, prior = jax.nn.log_softmax(3 * numbers)

    def term(index, free):
        return jax.grad(lambda p, q: jnp.sum(balanced_kl(p, q, free)[index]), argnums=(0, 1))(posterior, prior)

    np.testing.assert_allclose(balanced_kl(posterior, prior, 0.0), [kl(posterior, prior)] * 2, rtol=1e-6)
    to_posterior, to_prior = term(0, 0.0)
    assert not to_posterior.any()
    np.testing.assert_allclose(to_prior, -jnp.exp(posterior), rtol=1e-5)
    to_posterior, to_prior = term(1, 0.0)
    assert to_posterior.all()
    assert not to_prior.any()
    each = kl(posterior, prior)
    between = float(jnp.sort(each)[2]) + 1e-4
    np.testing.assert_allclose(balanced_kl(posterior, prior, between)[0], jnp.maximum(each, between))
    for index, mine in ((0, 1), (1, 0)):
        taught = np.abs(term(index, between)[mine]).sum(axis=(1, 2)) > 0
        np.testing.assert_array_equal(taught, each > between)
