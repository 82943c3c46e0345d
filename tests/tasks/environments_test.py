import pytest
from hand_made import Counting

from datasets.bouncing_square.rules import REFERENCE
from models.actions import action_space
from tasks.environments import check_environment, make_environment
from trainer.config import load_config
from trainer.errors import ConfigError
from trainer.overrides import override

FOUR = {"kind": "categorical", "size": 4}


def test_an_environment_by_its_name_and_by_where_it_is():
    known = make_environment({"target": "bouncing_square", "variant": "clean", "time_limit": 7})
    assert (known.action_spec.num_actions, known.time_limit) == (5, 7)
    own = make_environment({"target": "hand_made:Counting", "time_limit": 9})
    assert (type(own), own.time_limit) == (Counting, 9)
    assert make_environment({"target": "hand_made:Counting", "time_limit": None}).time_limit == 1000
    assert make_environment({}) is None
    assert make_environment({"target": None, "variant": None}) is None


def test_a_config_takes_an_environment_without_variants():
    config = load_config("configs/heads.py:cpu")
    assert make_environment(config.task.environment).variant == REFERENCE
    override(config, "task.environment.target", "hand_made:Counting")
    assert isinstance(make_environment(config.task.environment), Counting)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"target": "bouncing_sqare"}, "no plugin 'bouncing_sqare' .*Did you mean 'bouncing_square'.*module:func"),
        ({"target": "hand_made:Countin"}, "Countin"),
        ({"target": "no_such_module:make"}, "no_such_module"),
        ({"target": "bouncing_square", "variant": "clea"}, r"task.environment \(bouncing_square\).*'clea'.*clean"),
        ({"target": "bouncing_square", "time_limt": 3}, r"task.environment \(bouncing_square\).*time_limt"),
        ({"target": "hand_made:SeeingTokenizerTask"}, "a SeeingTokenizerTask without action_spec, reset and step"),
        ({"variant": "clean"}, "arguments and no target.*'variant': 'clean'"),
    ],
)
def test_environments_that_cannot_be_made(spec, message):
    with pytest.raises(ConfigError, match=message):
        make_environment(spec)


@pytest.mark.parametrize(
    "space",
    [
        {"move": {**FOUR, "size": 5}},
        {"move": {"kind": "binary", "size": 4}},
        {"move": FOUR, "look": FOUR},
        {},
    ],
)
def test_a_world_model_of_other_actions_does_not_fit(space):
    with pytest.raises(ConfigError, match="takes one categorical action of 4, the world model was trained with"):
        check_environment(Counting(), action_space(space))
    check_environment(Counting(), action_space({"whatever": FOUR}))
