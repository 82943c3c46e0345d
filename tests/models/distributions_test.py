import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import distributions
from models.actions import Component
from models.distributions import TwoHot, symexp, symlog

SPACE = {"move": Component("categorical", 4), "keys": Component("binary", 3)}


def random_logits(seed, *shape, scale=2.0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * rng.normal(size=(*shape, c.size)), jnp.float32) for name, c in SPACE.items()}


def all_actions():
    """Every action of SPACE, [32]."""
    grid = list(itertools.product(range(4), *[(0, 1)] * 3))
    return {"move": jnp.array([a[0] for a in grid]), "keys": jnp.array([a[1:] for a in grid])}


def enumerated(logits):
    """Log-probabilities of all actions, [32]."""
    logits = {name: jnp.broadcast_to(array, (32, *array.shape)) for name, array in logits.items()}
    return distributions.log_prob(logits, all_actions(), SPACE)


def test_symlog_and_symexp_are_inverse_and_odd():
    x = jnp.array([-1e6, -3.0, -1e-6, 0.0, 1e-6, 3.0, 1e6])
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-5)
    np.testing.assert_array_equal(symlog(-x), -symlog(x))
    assert symlog(jnp.float32(np.e - 1)) == pytest.approx(1.0)


@pytest.mark.parametrize(("bins", "limit"), [(255, 20.0), (3, 1.0), (41, 5.0)])
def test_centers_are_symexp_of_an_even_grid_and_antisymmetric(bins, limit):
    centers = TwoHot(bins=bins, limit=limit).centers
    assert centers.dtype == np.float32
    np.testing.assert_allclose(symlog(jnp.asarray(centers)), np.linspace(-limit, limit, bins), atol=1e-5)
    np.testing.assert_array_equal(centers, -centers[::-1])
    assert centers[bins // 2] == 0


@pytest.mark.parametrize("settings", [{"bins": 4}, {"bins": 1}, {"limit": 0.0}, {"limit": 100.0}, {"limit": np.nan}])
def test_wrong_bins_are_refused(settings):
    with pytest.raises(ValueError, match=f"got {next(iter(settings.values()))}"):
        TwoHot(**settings)


def test_the_code_of_a_number_is_two_neighbours_whose_mean_is_the_number():
    two_hot = TwoHot()
    x = np.concatenate([np.random.default_rng(0).normal(size=50) * 10.0 ** np.linspace(-3, 8, 50), [0.0, 1.0, -30.0]])
    x = np.concatenate([x, two_hot.centers]).astype(np.float32)
    code = np.asarray(two_hot.encode(jnp.asarray(x)), np.float64)
    np.testing.assert_allclose(code @ two_hot.centers.astype(np.float64), x, rtol=1e-5, atol=1e-6)
    assert (code >= 0).all()
    np.testing.assert_allclose(code.sum(-1), 1, rtol=1e-6)
    for row in code:
        assert np.ptp(np.flatnonzero(row)) <= 1
    np.testing.assert_array_equal(code[-two_hot.bins :], np.eye(two_hot.bins))
    # Interpolated on the grid instead, the mean would be another number.
    wrong = np.interp(symlog(x[:50]), np.linspace(-20, 20, 255), two_hot.centers)
    assert np.abs(wrong / x[:50] - 1).max() > 1e-4


def test_numbers_beyond_the_outer_bins_are_clipped_and_what_is_no_number_stays_none():
    two_hot = TwoHot(bins=5, limit=2.0)
    np.testing.assert_array_equal(two_hot.encode(jnp.array([1e9, -jnp.inf])), np.eye(5)[[4, 0]])
    assert np.isnan(two_hot.encode(jnp.float32(jnp.nan))).all()


def test_the_mean_is_that_of_the_bins_and_symmetric_logits_give_exactly_zero():
    two_hot = TwoHot(bins=41, limit=5.0)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 41)), jnp.float32)
    expected = np.asarray(jax.nn.softmax(logits), np.float64) @ two_hot.centers.astype(np.float64)
    np.testing.assert_allclose(two_hot.mean(logits), expected, rtol=1e-4, atol=1e-4)
    assert (TwoHot().mean(jnp.zeros((2, 255))) == 0).all()
    assert (TwoHot(bins=41).mean(logits + logits[..., ::-1]) == 0).all()
    assert two_hot.mean(jnp.log(two_hot.encode(jnp.float32(-7.3)))) == pytest.approx(-7.3, rel=1e-5)


def test_the_loss_is_least_where_the_mean_is_the_number_and_moves_logits_only():
    two_hot, x = TwoHot(bins=41, limit=5.0), jnp.float32(3.21)
    best = jnp.log(two_hot.encode(x) + 1e-12)
    gradient, to_number = jax.grad(two_hot.loss, (0, 1))(best, x)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    assert to_number == 0
    share = two_hot.encode(x)
    entropy = -np.sum(share[share > 0] * np.log(share[share > 0]))
    assert two_hot.loss(best, x) == pytest.approx(float(entropy), rel=1e-4)
    assert two_hot.loss(jnp.zeros((2, 41)), jnp.array([x, -40.0])) == pytest.approx([np.log(41)] * 2)
    with pytest.raises(ValueError, match=r"\[..., 41\], got \[40\]"):
        two_hot.loss(jnp.zeros(40), x)


def test_probabilities_are_products_over_components_and_bits():
    logits, actions = random_logits(0), all_actions()
    logs = enumerated(logits)
    assert jnp.sum(jnp.exp(logs)) == pytest.approx(1.0, rel=1e-5)
    ones = jax.nn.sigmoid(logits["keys"])
    bits = jnp.prod(jnp.where(actions["keys"] == 1, ones, 1 - ones), -1)
    np.testing.assert_allclose(jnp.exp(logs), jax.nn.softmax(logits["move"])[actions["move"]] * bits, rtol=1e-5)


def test_entropy_and_divergence_are_the_sums_over_all_actions():
    logits, others = random_logits(1), random_logits(2)
    p, q = np.exp(enumerated(logits)), np.exp(enumerated(others))
    assert distributions.entropy(logits, SPACE) == pytest.approx(-np.sum(p * np.log(p)), rel=1e-4)
    forward, backward = np.sum(p * np.log(p / q)), np.sum(q * np.log(q / p))
    assert distributions.kl(logits, others, SPACE) == pytest.approx(forward, rel=1e-4)
    assert abs(forward - backward) > 0.1
    assert distributions.kl(logits, logits, SPACE) == 0


def test_leading_axes_stay():
    logits = random_logits(3, 2, 5)
    actions = distributions.sample(jax.random.key(0), logits, SPACE)
    logs = distributions.log_prob(logits, actions, SPACE)
    assert logs.shape == (2, 5)
    one = ({name: array[1, 3] for name, array in part.items()} for part in (logits, actions))
    assert logs[1, 3] == pytest.approx(float(distributions.log_prob(*one, SPACE)), rel=1e-5)
    assert distributions.entropy(logits, SPACE).shape == (2, 5)
    assert distributions.kl(logits, logits, SPACE).shape == (2, 5)


def test_samples_come_as_often_as_probable_and_components_are_independent():
    logits = random_logits(4, scale=1.0)
    many = {name: jnp.broadcast_to(array, (40_000, *array.shape)) for name, array in logits.items()}
    actions = distributions.sample(jax.random.key(0), many, SPACE)
    assert {array.dtype for array in actions.values()} == {jnp.dtype("int32")}
    code = np.asarray(actions["move"] * 8 + actions["keys"] @ jnp.array([4, 2, 1]))
    np.testing.assert_allclose(np.bincount(code, minlength=32) / 40_000, np.exp(enumerated(logits)), atol=0.008)
    again = distributions.sample(jax.random.key(0), dict(reversed(many.items())), dict(reversed(SPACE.items())))
    np.testing.assert_array_equal(again["keys"], actions["keys"])
    np.testing.assert_array_equal(again["move"], actions["move"])


def test_equal_components_are_drawn_apart():
    space = {name: Component("binary", 1000) for name in "ab"}
    actions = distributions.sample(jax.random.key(0), {name: jnp.zeros(1000) for name in "ab"}, space)
    assert jnp.mean(actions["a"] == actions["b"]) == pytest.approx(0.5, abs=0.06)


def test_bits_that_cannot_be_are_never_drawn():
    space, count = {"keys": Component("binary", 2)}, 2**24  # `bernoulli` would draw about two wrongly
    draw = jax.jit(lambda rng: distributions.sample(rng, {"keys": jnp.full((count, 2), 40.0) * wrong}, space)["keys"])
    wrong = jnp.array([1.0, -1.0])
    np.testing.assert_array_equal(jnp.sum(draw(jax.random.key(2)), 0), [count, 0])


def test_the_mode_is_the_most_probable_action():
    logits = random_logits(5)
    best = jnp.argmax(enumerated(logits))
    for name, action in distributions.mode(logits, SPACE).items():
        np.testing.assert_array_equal(action, all_actions()[name][best])


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_share_of_uniform_actions_is_mixed_in(share):
    logits = random_logits(6)
    mixed = distributions.mix_uniform(logits, share, SPACE)
    move = (1 - share) * jax.nn.softmax(logits["move"]) + share / 4
    np.testing.assert_allclose(jax.nn.softmax(mixed["move"]), move, atol=1e-6)
    keys = (1 - share) * jax.nn.sigmoid(logits["keys"]) + share / 2
    np.testing.assert_allclose(jax.nn.sigmoid(mixed["keys"]), keys, atol=1e-6)


def test_a_share_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        distributions.mix_uniform(random_logits(0), 1.5, SPACE)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_large_logits_give_finite_numbers_and_gradients(size, share):
    logits = {"move": jnp.array([size, -size, 0.0, 0.0]), "keys": jnp.array([size, -size, 0.0])}
    other = {name: -array for name, array in logits.items()}
    unlikely = {"move": jnp.array(1), "keys": jnp.array([0, 1, 0])}

    def everything(logits):
        logits = distributions.mix_uniform(logits, share, SPACE)
        return (
            distributions.log_prob(logits, unlikely, SPACE),
            distributions.entropy(logits, SPACE),
            distributions.kl(logits, other, SPACE),
            distributions.kl(other, logits, SPACE),
        )

    for value in everything(logits):
        assert jnp.isfinite(value)
    for index in range(4):
        gradient = jax.grad(lambda logits, index=index: everything(logits)[index])(logits)
        assert all(jnp.isfinite(array).all() for array in gradient.values())
    if share == 0:
        assert everything(logits)[0] == pytest.approx(-4 * size - np.log(2), rel=1e-5)


def test_a_category_that_is_none_has_no_probability():
    space = {"move": Component("categorical", 4)}
    logs = distributions.log_prob({"move": jnp.zeros((3, 4))}, {"move": jnp.array([4, -1, 3])}, space)
    np.testing.assert_allclose(logs, [np.nan, np.nan, -np.log(4)], rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"move": Component("categorical", 4), "aim": Component("continuous", 2)},
            "categorical or binary; 'aim' is con",
        ),
        ({}, "the action space is empty"),
    ],
)
def test_what_no_policy_can_have_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        distributions.check_policy_space(space)
    with pytest.raises(ValueError, match=message):
        distributions.entropy({name: jnp.zeros(component.size) for name, component in space.items()}, space)
    distributions.check_policy_space(SPACE)


LOGITS = {"move": jnp.zeros((2, 4)), "keys": jnp.zeros((2, 3))}
ACTIONS = {"move": jnp.zeros(2, int), "keys": jnp.zeros((2, 3), int)}


@pytest.mark.parametrize(
    ("logits", "actions", "message"),
    [
        (jnp.zeros((2, 4)), ACTIONS, r"logits must be a mapping from the components \['keys', 'move'\]"),
        (LOGITS, jnp.zeros(2, int), "actions must be a mapping"),
        ({"move": LOGITS["move"]}, ACTIONS, r"components \['keys', 'move'\], the logits have \['move'\]"),
        (LOGITS, {"move": ACTIONS["move"]}, r"the actions have \['move'\]"),
        ({**LOGITS, "move": jnp.zeros((2, 5))}, ACTIONS, r"'move' should be \[..., 4\], got \[2, 5\]"),
        ({**LOGITS, "move": jnp.zeros((3, 4))}, ACTIONS, "leading shape"),
        (LOGITS, {**ACTIONS, "move": jnp.zeros((2, 1), int)}, r"'move' \(categorical\) should be \[2\] for"),
        (LOGITS, {**ACTIONS, "keys": jnp.zeros(2, int)}, r"'keys' \(binary\) should be \[2, 3\] for"),
    ],
)
def test_what_does_not_fit_the_space_is_told(logits, actions, message):
    with pytest.raises(ValueError, match=message):
        distributions.log_prob(logits, actions, SPACE)


def test_logits_to_compare_need_one_shape():
    with pytest.raises(ValueError, match=r"differ in shape: \[2, 3\] and \[3\]"):
        distributions.kl(LOGITS, {"move": jnp.zeros(4), "keys": jnp.zeros(3)}, SPACE)
