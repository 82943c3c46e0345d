import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_close, generic, same

from models.actions import ActionEmbedding, Component, action_space, as_components
from models.functional import bind

SPACE = action_space(
    {
        "mouse": {"kind": "categorical", "size": 5},
        "keys": {"kind": "binary", "size": 3},
        "stick": {"kind": "continuous", "size": 2},
    }
)
ACTIONS = {
    "mouse": np.array([[0, 4, 2], [1, 1, 3]]),
    "keys": np.array([[[0, 0, 1], [1, 1, 1], [0, 0, 0]], [[1, 0, 1], [0, 1, 0], [1, 1, 0]]], bool),
    "stick": np.array([[[0.5, -1], [0, 0], [2, 1]], [[-0.5, 0.25], [1, 1], [0, 3]]], np.float32),
}
EVERYWHERE = np.ones((2, 3), bool)
PARAMS = generic(lambda rngs: ActionEmbedding(SPACE, 8, rngs=rngs))


def embed(actions, labelled, space=SPACE, params=PARAMS):
    return bind(lambda rngs: ActionEmbedding(space, 8, rngs=rngs), params)(actions, labelled)


def test_components_are_summed_with_the_learned_vector():
    table = {name: np.asarray(value) for name, value in PARAMS["components"].items()}
    wanted = np.asarray(PARAMS["base"]) + table["mouse"][ACTIONS["mouse"]]
    wanted = wanted + np.where(ACTIONS["keys"], 1.0, -1.0) @ table["keys"] + ACTIONS["stick"] @ table["stick"]
    assert_close(embed(ACTIONS, EVERYWHERE), wanted)


def test_frames_without_a_label_ignore_the_actions():
    labelled = np.array([[True, False, True], [False, False, False]])
    out = embed(ACTIONS, labelled)
    assert same(out[~labelled], np.broadcast_to(PARAMS["base"], (4, 8)))
    assert same(out[labelled], embed(ACTIONS, EVERYWHERE)[labelled])
    others = {name: array[::-1] for name, array in ACTIONS.items()}
    assert same(embed(others, labelled)[~labelled], out[~labelled])


def test_video_without_actions_is_the_learned_vector():
    params = {"base": PARAMS["base"]}
    assert same(embed(None, EVERYWHERE, {}, params), jnp.broadcast_to(params["base"], (2, 3, 8)))


def test_a_space_of_one_component_takes_a_bare_array():
    space = {"mouse": SPACE["mouse"]}
    params = {"base": PARAMS["base"], "components": {"mouse": PARAMS["components"]["mouse"]}}
    named = embed({"mouse": ACTIONS["mouse"]}, EVERYWHERE, space, params)
    assert same(embed(ACTIONS["mouse"], EVERYWHERE, space, params), named)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mouse": ACTIONS["stick"]}, r"'mouse' \(categorical\) should be \[B, T\], got \[2, 3, 2\]"),
        ({"keys": ACTIONS["stick"]}, r"'keys' \(binary\) should be \[B, T, 3\], got \[2, 3, 2\]"),
        ({"stick": ACTIONS["mouse"]}, r"'stick' \(continuous\) should be \[B, T, 2\], got \[2, 3\]"),
        (
            {"wheel": ACTIONS["mouse"]},
            r"\['keys', 'mouse', 'stick'\], the batch has \['keys', 'mouse', 'stick', 'wheel'",
        ),
    ],
)
def test_actions_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        as_components({**ACTIONS, **change}, SPACE)


def test_a_missing_component_is_refused():
    with pytest.raises(ValueError, match=r"the batch has \['keys', 'mouse'\]"):
        as_components({"mouse": ACTIONS["mouse"], "keys": ACTIONS["keys"]}, SPACE)


def test_a_bare_array_for_many_components_is_refused():
    with pytest.raises(ValueError, match=r"\['keys', 'mouse', 'stick'\], the batch has one unnamed array"):
        as_components(ACTIONS["mouse"], SPACE)


@pytest.mark.parametrize(("kind", "size", "message"), [("analog", 2, "got 'analog'"), ("binary", 0, "got 0")])
def test_a_component_that_is_none_is_refused(kind, size, message):
    with pytest.raises(ValueError, match=message):
        Component(kind, size)
