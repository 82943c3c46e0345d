"""What a plugin of each kind has to have: its base class, its methods, and how these are called."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from trainer.errors import ConfigError, near_matches


class Kind(NamedTuple):
    """What the plugins of a group are.

    Attributes:
      module: where the class is that says what they do.
      name: that class.
      needed: the methods by which they are recognised; none where they have to inherit from the class.
      reserved: how the names of all methods begin that the trainer calls by themselves: no other method may.
    """

    module: str
    name: str
    needed: tuple[str, ...] = ()
    reserved: str = ""


KINDS = {
    "tasks": Kind("trainer.task", "Task"),
    "data": Kind("trainer.data", "DataSource", ("prepare", "iterator", "fingerprint")),
    "callbacks": Kind("trainer.callbacks", "Callback", reserved="on_"),
    "writers": Kind("trainer.writers", "Writer", (
        "write_scalars", "write_images", "write_videos", "write_texts", "write_hparams", "flush", "close",
    ), "write_"),
    "evaluators": Kind("trainer.task", "Evaluator"),
}  # fmt: skip


def check_kind(thing: Any, group: str, what: str) -> None:
    """Refuses what is no plugin of `group`.

    Args:
      thing: the plugin, or its class before it is built.
      group: one of `trainer.plugins.GROUPS`.
      what: names the plugin in messages.

    Raises:
      ConfigError: another class, a missing or misspelt method, or one that cannot be called as the trainer calls it.
    """
    kind = KINDS.get(group)
    if kind is None:
        return
    base = getattr(importlib.import_module(kind.module), kind.name)
    cls = thing if inspect.isclass(thing) else type(thing)
    if not kind.needed and not issubclass(cls, base):
        raise ConfigError(f"{what} is a {cls.__name__}, which does not inherit from {kind.module}.{kind.name}.")
    if absent := sorted(getattr(cls, "__abstractmethods__", ())):
        raise ConfigError(f"{what}: {cls.__name__} lacks {', '.join(absent)}, which trainer.{group} needs.")
    missing = [m for m in kind.needed if thing is not cls and not callable(getattr(thing, m, None))]
    if missing:
        raise ConfigError(
            f"{what} is a {cls.__name__} without {', '.join(missing)}, which a plugin of trainer.{group} needs."
        )
    if kind.reserved and issubclass(cls, base):
        ours = [name for name, _ in _methods(base) if name.startswith(kind.reserved)]
        for name in dir(cls):
            if name.startswith(kind.reserved) and name not in ours and callable(getattr(cls, name)):
                raise ConfigError(
                    f"{what}: {cls.__name__}.{name} would never be called. {near_matches(name, ours, 'There')} "
                    f"Call a method of your own _{name}."
                )
    check_calls(thing, base, what)


def check_calls(thing: Any, contract: type, what: str) -> None:
    """Raises ConfigError where a method cannot be called as `contract` defines it: what is positional there by
    position, what is keyword-only by name."""
    cls = thing if inspect.isclass(thing) else type(thing)
    for name, ours in _methods(contract):
        static = inspect.getattr_static(thing, name, None)
        if static is None or static is ours:
            continue
        if thing is cls and not inspect.isfunction(static):
            continue  # what it becomes in an instance shows there
        wanted = list(inspect.signature(ours).parameters.values())
        positional = [p for p in wanted if p.kind is not p.KEYWORD_ONLY][0 if thing is cls else 1 :]
        try:
            signature = inspect.signature(getattr(thing, name))
        except (TypeError, ValueError):
            continue
        try:
            signature.bind(*positional, **{p.name: None for p in wanted if p.kind is p.KEYWORD_ONLY})
        except TypeError as e:
            plain = inspect.Signature([p.replace(annotation=p.empty) for p in wanted])
            raise ConfigError(f"{what}: {cls.__name__}.{name}: {e}. It must be: def {name}{plain}.") from e


def name_of(thing: Any) -> str:
    """The class of an object as `module:Class`."""
    return f"{type(thing).__module__}:{type(thing).__qualname__}"


def _methods(contract: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(contract).items():
        if inspect.isfunction(value) and (not name.startswith("_") or name == "__next__"):
            yield name, value
