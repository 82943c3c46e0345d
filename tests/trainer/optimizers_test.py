import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainer.config import base_config
from trainer.errors import ConfigError
from trainer.optimizers import build_optimizer, build_schedule

_FULL_RANK = [[4.0, 1, 0, 0], [1, 3, 1, 0], [0, 1, 2, 1], [0, 0, 1, 2]]
PARAMS = {"embed": jnp.ones((6, 4)), "w": jnp.eye(4) + 0.1, "b": jnp.full(4, 0.5)}
GRADS = {"embed": jnp.ones((6, 4)) / 7, "w": jnp.array(_FULL_RANK), "b": jnp.array([1.0, -1, 2, 0.5])}


def settings(**given):
    config = base_config().optimizer
    for name, value in given.items():
        config[name] = value
    return config


def updates(config, grads=GRADS, steps=100):
    tx, _ = build_optimizer(config, steps)
    return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize(
    "options", [{}, {"ns_steps": 3}, {"adaptive": True}, {"nesterov": False, "consistent_rms": None}], ids=str
)
def test_muon_of_stacked_matrices_is_that_of_each(options):
    shapes = {"a": (6, 4), "b": (6, 4), "c": (4, 6), "d": (4,), "e": (2, 6, 4)}
    params = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    only = {name: optax.contrib.MuonDimensionNumbers() if len(shape) == 2 else None for name, shape in shapes.items()}
    reference = optax.contrib.muon(
        3e-4, weight_decay=0.1, muon_weight_dimension_numbers=only, **{"consistent_rms": 0.2, **options}
    )
    tx, _ = build_optimizer(settings(name="muon", weight_decay=0.1, options=options), 100)
    state, expected_state = tx.init(params), reference.init(params)
    for i in range(3):
        grads = jax.tree.map(lambda x, i=i: jax.random.normal(jax.random.key(i), x.shape) * x, params)
        got, state = tx.update(grads, state, params)
        expected, expected_state = reference.update(grads, expected_state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-8), got, expected)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(params))


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ({"name": "adam", "b1": 0.8}, optax.adam(3e-4, b1=0.8)),
        ({"name": "sgd", "options": {"momentum": 0.9}}, optax.sgd(3e-4, momentum=0.9)),
        ({"name": "optax:lion", "b2": 0.99}, optax.lion(3e-4, b2=0.99, weight_decay=0.0)),
    ],
)
def test_matches_optax(given, reference):
    tx, _ = build_optimizer(settings(**given), 100)
    state, expected_state = tx.init(PARAMS), reference.init(PARAMS)
    for scale in (1.0, -3.0, 0.5):  # decay rates and momentum show from the second update on
        grads = jax.tree.map(lambda g, scale=scale: scale * g, GRADS)
        got, state = tx.update(grads, state, PARAMS)
        expected, expected_state = reference.update(grads, expected_state, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), got, expected)


def test_weight_decay_falls_on_matrices_alone():
    plain, decayed = updates(settings(name="adamw")), updates(settings(name="adamw", weight_decay=0.1))
    np.testing.assert_allclose(decayed["w"] - plain["w"], -3e-4 * 0.1 * PARAMS["w"], rtol=1e-2, atol=1e-8)
    np.testing.assert_array_equal(decayed["b"], plain["b"])


def test_gradients_are_clipped_by_their_global_norm():
    clipped = updates(settings(name="sgd", learning_rate=1.0, clip_norm=0.5))
    np.testing.assert_allclose(optax.tree.norm(clipped), 0.5, rtol=1e-5)
    by_adam = updates(settings(name="adam", learning_rate=1.0, clip_norm=0.5))
    np.testing.assert_allclose(np.abs(by_adam["b"]), 1.0, rtol=1e-4)  # gradients are, and not Adam's first updates


def test_muon_orthogonalises_matrices_and_leaves_the_excluded_to_adam():
    everything = updates(settings(name="muon", learning_rate=1.0))
    excluded = updates(settings(name="muon", learning_rate=1.0, muon_exclude=("^emb",)))
    spectrum = np.linalg.svd(excluded["w"], compute_uv=False)
    assert spectrum.max() / spectrum.min() < 2  # that of the gradient: 7
    signs = np.abs(np.asarray(excluded["embed"]))
    np.testing.assert_allclose(signs, signs[0, 0])  # Adam: equal gradients, equal updates
    assert not np.allclose(everything["embed"], excluded["embed"])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", {0: 0.1, 9: 1.0, 50: 1.0, 100: 1.0}),
        ("linear", {0: 0.1, 9: 1.0, 40: 0.7, 55: 0.55, 100: 0.1}),
        ("cosine", {0: 0.1, 10: 1.0, 40: 0.775, 55: 0.55, 100: 0.1}),
        ("wsd", {0: 0.1, 9: 1.0, 79: 1.0, 80: 1.0, 90: 0.55, 100: 0.1}),
    ],
)
def test_schedules(shape, expected):
    rate = build_schedule(settings(schedule=shape, warmup_steps=10, learning_rate=1.0, final_scale=0.1), 100)
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, atol=1e-6, err_msg=f"{shape} at step {step}")


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"name": "addam"}, ["no plugin 'addam' in trainer.optimizers", "Did you mean 'adam'", "module:function"]),
        ({"name": "optax:adan_"}, ["optax has no 'adan_'", "'adan'"]),
        ({"name": "adam", "weight_decay": 0.1}, ["optimizer.weight_decay = 0.1", "Use adamw"]),
        ({"name": "sgd", "b1": 0.5}, ["optimizer.b1 = 0.5", "'sgd' has no such setting"]),
        ({"name": "sgd", "options": {"momentm": 0.9}}, ["no option 'momentm'", "Did you mean 'momentum'"]),
        ({"schedule": "cos"}, ["no schedule 'cos'", "'cosine'"]),
        ({"schedule": "cosine", "warmup_steps": 200}, ["200 + 0 does not fit into steps = 100"]),
        ({"decay_steps": 5}, ["a constant schedule does not decay"]),
        ({"learning_rate": -1.0}, ["learning_rate = -1.0"]),
        ({"clip_norm": -1.0}, ["clip_norm = -1.0"]),
        ({"name": "muon", "muon_exclude": ("(",)}, ["muon_exclude", "no regular expression"]),
        ({"name": "muon", "muon_exclude": ("head",)}, ["'head' matches no parameter", "b, embed, w"]),
    ],
)
def test_a_wrong_setting_gets_one_line(given, parts):
    with pytest.raises(ConfigError) as e:
        build_optimizer(settings(**given), 100)[0].init(PARAMS)
    assert all(part in str(e.value) for part in parts), e.value
    assert "\n" not in str(e.value)
