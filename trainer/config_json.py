"""A config as JSON data, what it differs in from another, and its hash."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from trainer import plugins
from trainer.errors import ConfigError

# Fields that may change while a run goes on: they say where and how it runs, what it keeps and who watches, not what it
# learns.
NEUTRAL = (
    "name", "root", "upstream_autotrain", "compilation_cache", "callbacks", "writers", "keep_checkpoints", "keep_every",
    "keep_best", "best_metric", "best_mode", "on_save_error", "sanity_eval", "deterministic", "mesh_shape",
    "sharding_rules", "quick_compilation",
)  # fmt: skip
# Fields that are one plugin each, and its group; in the others, such as `callbacks`, every entry is a plugin.
_PLUGIN_GROUPS = {"task": "tasks", "data": "data", "eval_data": "data"}


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON data: tuples become lists.

    Raises:
      ConfigError: a value is no number, text, truth value, None, tuple or group, or a number is not finite.
    """
    return _jsonable(config, "")


def _jsonable(value: Any, key: str) -> Any:
    if isinstance(value, ConfigDict | Mapping):
        return {str(k): _jsonable(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ConfigError(
        f"config.{key} = {value!r} cannot be stored: expected a finite number, a text, true or false, none, a tuple "
        "or a group of fields."
    )


def from_json(data: Mapping[str, Any]) -> ConfigDict:
    """The config that `to_json` wrote: lists become tuples."""
    return ConfigDict({k: _from_json(v) for k, v in data.items()})


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _from_json(v) for k, v in value.items()}
    return tuple(_from_json(v) for v in value) if isinstance(value, list) else value


def diff(stored: ConfigDict, given: ConfigDict, ignore: Sequence[str] = ()) -> list[str]:
    """The fields that differ, as lines `key: stored → given`; those below `ignore` do not count.

    A run outlives the code's new fields: what `stored` lacks may be given at the trainer's default, and a plugin's
    field that one of them lacks stands for the default in the plugin's signature.
    """
    from trainer.config import base_config  # which imports this module

    a, b, base = _flat(to_json(stored)), _flat(to_json(given)), _flat(to_json(base_config()))
    lines = []
    for key in sorted(a.keys() | b.keys()):
        if any(key == name or key.startswith(f"{name}.") for name in ignore):
            continue
        if key in a and key in b:
            same = _equal(a[key], b[key])
        else:
            same = (key not in a and key in base and _equal(base[key], b[key])) or _at_default(key, a, b)
        if not same:
            lines.append(f"{key}: {_show(a, key)} → {_show(b, key)}")
    return lines


def _equal(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _at_default(key: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether a field that only one config has is a plugin's, both name this plugin, and the value is the default."""
    group, *path = key.split(".")
    entry = [group] if group in _PLUGIN_GROUPS else [group, *path[:1]]
    target = a.get(".".join([*entry, "target"]))
    if target is None or target != b.get(".".join([*entry, "target"])):
        return False
    argument = key.removeprefix(".".join(entry) + ".")
    try:
        default = _jsonable(plugins.default(target, _PLUGIN_GROUPS.get(group, group), argument), key)
    except ConfigError:
        return False
    return _equal(default, a[key] if key in a else b[key])


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _show(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "(absent)"


def config_hash(config: ConfigDict | Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with every field that can change the run."""
    data = {k: v for k, v in _jsonable(config, "").items() if k not in NEUTRAL}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
