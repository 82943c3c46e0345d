"""The environment that a config names: where an agent is tried out, and what its data is judged by."""

from collections.abc import Mapping
from typing import Any

from datasets.environment import Environment
from models.actions import ActionSpace
from trainer import plugins
from trainer.errors import ConfigError


def make_environment(spec: Mapping[str, Any]) -> Any:
    """Builds the environment of `spec`, `{"target": NAME or "module:function", …arguments}`; None for an empty
    one, or an empty target. Names are those of the entry-point group `trainer.environments`.

    Arguments that are None are left out.

    Raises:
      ConfigError: there is no such environment, or it does not take these arguments.
    """
    arguments = {name: value for name, value in spec.items() if value is not None}
    target = arguments.pop("target", None)
    if not target:
        if arguments and "target" not in spec:
            raise ConfigError(f"task.environment has arguments and no target: {arguments}.")
        return None
    make = plugins.resolve(target, "environments")
    try:
        environment = make(**arguments)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"task.environment ({target}): {e}") from e
    if not isinstance(environment, Environment):
        raise ConfigError(
            f"task.environment ({target}) is a {type(environment).__name__} without action_spec, reset and step; see "
            "datasets.environment.Environment."
        )
    return environment


def check_environment(environment: Any, space: ActionSpace) -> None:
    """Raises ConfigError where a model's actions are not the environment's."""
    count = environment.action_spec.num_actions
    sizes = {name: (component.kind, component.size) for name, component in space.items()}
    if list(sizes.values()) != [("categorical", count)]:
        shown = ", ".join(f"{name}: {kind}, {size}" for name, (kind, size) in sizes.items()) or "none"
        raise ConfigError(
            f"the environment takes one categorical action of {count}, the world model was trained with ({shown}). "
            "Name the environment that the data was recorded in, in task.environment, or a world model of this one."
        )
