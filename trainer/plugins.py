"""Finds and builds the parts that a config names: tasks, data, callbacks, writers, evaluators, optimisers."""

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from trainer.arguments import misfit, signature
from trainer.errors import ConfigError, near_matches
from trainer.kinds import check_kind

# What a run is made of. Tasks may look up plugins of further kinds in groups of their own, see `groups`.
GROUPS = ("tasks", "data", "callbacks", "writers", "evaluators", "optimizers")
_PREFIX = "trainer."
# Names that need no entry point.
BUILTIN: Mapping[str, Mapping[str, str]] = {
    "callbacks": {
        "early_stopping": "trainer.callbacks.early_stopping:EarlyStopping",
        "learning_rate_monitor": "trainer.callbacks.learning_rate:LearningRateMonitor",
        "non_finite_guard": "trainer.callbacks.non_finite_guard:NonFiniteGuard",
        "profiler": "trainer.callbacks.profiler:Profiler",
        "progress": "trainer.callbacks.progress:Progress",
        "report": "trainer.callbacks.report:Report",
        "summary": "trainer.callbacks.summary:Summary",
        "time_limit": "trainer.callbacks.time_limit:TimeLimit",
    },
    "writers": {
        "console": "trainer.writers.console:ConsoleWriter",
        "jsonl": "trainer.writers.jsonl:JsonlWriter",
        "media": "trainer.writers.media:MediaWriter",
        "tensorboard": "trainer.writers.tensorboard:TensorBoardWriter",
        "wandb": "trainer.writers.wandb:WandbWriter",
    },
    "optimizers": {
        "adam": "optax:adam",
        "adamw": "optax:adamw",
        "muon": "trainer.optimizers:muon",
        "sgd": "optax:sgd",
    },
}


def groups() -> list[str]:
    """`GROUPS`, and all others that installed packages have entry points in."""
    found = {
        name.removeprefix(_PREFIX) for name in importlib.metadata.entry_points().groups if name.startswith(_PREFIX)
    }
    return [*GROUPS, *sorted(found - set(GROUPS))]


def available(group: str) -> dict[str, str]:
    """The names of a group and where each is defined (`module:Class`), without loading any; built-in names win."""
    return {name: sorted(places)[0] for name, places in _entry_points(group).items()} | {**BUILTIN.get(group, {})}


def _entry_points(group: str) -> dict[str, dict[str, str]]:
    """By name: where installed packages define it, and which package does."""
    found: dict[str, dict[str, str]] = {}
    for entry in importlib.metadata.entry_points(group=_PREFIX + group):
        package = entry.dist.name if entry.dist else "a package"
        found.setdefault(entry.name, {}).setdefault(entry.value, package)
    return found


def clash(name: str, group: str) -> str:
    """What is wrong with a name that several define, and what to do; "" where nothing is."""
    places = dict(_entry_points(group).get(name, {}))
    if name in BUILTIN.get(group, {}):
        places[BUILTIN[group][name]] = "built in"
    if len(places) < 2:
        return ""
    where = ", ".join(f"{place} ({package})" for place, package in sorted(places.items()))
    return f"{name!r} is defined more than once: {where}. Give the one that you mean in its place, as module:Class."


def resolve(target: str, group: str, *, builtin: bool = False) -> Callable[..., Any]:
    """The class or function that `target` names.

    Args:
      target: a name that `available` lists, or `module:Class`.
      group: one of `groups()`, or another one.
      builtin: whether a built-in of this name is meant, whoever else defines it.

    Raises:
      ConfigError: no such name, a name that several define, or the plugin cannot be imported.
    """
    names = available(group)
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{group}: target = {target!r}; expected a name or module:Class. {near_matches('', names)}")
    if problem := clash(target, group):
        if not (builtin and target in BUILTIN.get(group, {})):
            raise ConfigError(f"trainer.{group}: {problem}")
        _warn_once(f"trainer.{group}: {problem} The built-in one is used, as the config does not ask for another.")
    location = target if ":" in target else names.get(target)
    if location is None:
        raise ConfigError(
            f"no plugin {target!r} in trainer.{group}. {near_matches(target, names)} "
            f"Or give module:{'function' if group in ('optimizers', 'environments') else 'Class'}."
        )
    return load(location, f"{group} plugin {target!r}")


@functools.cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


def load(location: str, what: str) -> Callable[..., Any]:
    """Imports `module:name`; `what` names it in messages."""
    module_name, _, name = location.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{what}: expected module:name, as in mypackage.mymodule:MyClass.")
    try:
        module = importlib.import_module(module_name)
    except Exception as e:
        for missed in (module_name, getattr(e, "name", None)):  # itself, or what it imports
            _check_shadowed(missed or "", what)
        error = " ".join(str(e).split())
        missing = (
            isinstance(e, ModuleNotFoundError) and e.name is not None and f"{module_name}.".startswith(f"{e.name}.")
        )
        if missing:
            raise ConfigError(f"{what}: there is no module {e.name!r} (looked for {module_name!r}).") from e  # type: ignore[attr-defined]
        raise ConfigError(f"{what} cannot be imported: {module_name}: {type(e).__name__}: {error}") from e
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            _check_shadowed(module_name, what)
            here = [n for n, v in vars(value).items() if callable(v) and not n.startswith("_")]
            own = [n for n in here if getattr(vars(value)[n], "__module__", None) == module_name]
            names = own or difflib.get_close_matches(part, here, n=5, cutoff=0.5)
            raise ConfigError(f"{what}: {module_name} has no {part!r}. {near_matches(part, names, 'There')}")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(f"{what}: {location} is {type(value).__name__}, not a class or function.")
    return value


def _check_shadowed(module_name: str, what: str) -> None:
    """Says what to do where another distribution's `datasets` (or `models` …) hides ours."""
    top, home = module_name.split(".")[0], Path(__file__).resolve().parent.parent
    if not (home / top / "__init__.py").is_file():
        return
    module_spec = importlib.util.find_spec(top)
    origin = module_spec.origin if module_spec else None
    if origin and Path(origin).resolve().parent != home / top:
        raise ConfigError(
            f"{what}: the package {top!r} at {Path(origin).parent}, of another distribution, hides the one at "
            f"{home / top}. Run from {home} (cd {home} && python -m trainer …), or install into an environment of its "
            f"own without the other package."
        )


def check(
    spec: Mapping[str, Any], group: str, name: str = "", **offered: Any
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Resolves `spec.target` and checks the other fields against its signature and annotations, without calling it.

    Args:
      spec: `target` and keyword arguments.
      group: one of `GROUPS`.
      name: the entry's name in the config, for messages.
      **offered: arguments that are passed where the signature names them and the config does not give them.

    Returns:
      The class or function, and its keyword arguments.
    """
    arguments = _plain(spec)
    target = arguments.pop("target", "")
    plugin = resolve(target, group, builtin=_is_default(group, name, target))
    what = f"{group}{f'.{name}' if name else ''} ({target})"
    if inspect.isclass(plugin):
        check_kind(plugin, group, what)
    try:
        parameters = signature(plugin)
    except (TypeError, ValueError):
        return plugin, arguments
    named = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in arguments:
        if key not in named and not takes_any:
            raise ConfigError(
                f"{what} takes no argument {key!r}. {near_matches(key, named - set(offered), 'Arguments')}"
            )
        if key in named and (expected := misfit(parameters[key].annotation, arguments[key])):
            raise ConfigError(f"{what}: {key} must be {expected}, not {arguments[key]!r}.")
    arguments |= {key: value for key, value in offered.items() if key in named and key not in arguments}
    missing = [n for n in parameters if n in named and parameters[n].default is inspect.Parameter.empty]
    missing = [n for n in missing if n not in arguments]
    if missing:
        raise ConfigError(
            f"{what} needs {', '.join(repr(m) for m in missing)}: give it in the config. "
            f"{near_matches('', named - set(offered), 'Arguments')}"
        )
    return plugin, arguments


def default(target: str, group: str, argument: str) -> Any:
    """The default of a plugin's argument; None where its signature does not tell."""
    try:
        parameter = signature(resolve(target, group, builtin=True)).get(argument)
    except (ConfigError, TypeError, ValueError):
        return None
    return parameter.default if parameter else None


def build(spec: Mapping[str, Any], group: str, name: str = "", **offered: Any) -> Any:
    """Builds what `spec` names and checks that it is a plugin of `group`; see `check`.

    Raises:
      ConfigError: an unknown name or argument, a failing import or constructor argument, an object of another kind.
    """
    plugin, arguments = check(spec, group, name, **offered)
    what = f"{group}{f'.{name}' if name else ''} ({spec['target']})"
    try:
        built = plugin(**arguments)
    except ValueError as e:
        raise ConfigError(f"{what}: {e}") from e
    except TypeError as e:
        raise ConfigError(f"{what} cannot be built: {e} (--debug shows where).") from e
    check_kind(built, group, what)
    return built


def _is_default(group: str, name: str, target: str) -> bool:
    """Whether an entry of a config is one that every config has unless it says otherwise."""
    from trainer.config import SCHEMA

    entries = SCHEMA[group][0] if group in SCHEMA else {}
    return entries.get(name, {}).get("target") == target


def _plain(value: Any) -> Any:
    """Groups as dicts, at every depth."""
    if isinstance(value, ConfigDict | Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value
