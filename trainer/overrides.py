"""Settings from the command line: `--config.KEY=VALUE`, read as the type of the field."""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from trainer.config import ENTRIES, OPEN, kind_of
from trainer.errors import ConfigError, near_matches


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets the field `key` (dotted) to `text`, read as the field's type.

    Integers may be written `1e4`; tuples `a,b` or `(a,b)`; `none` where there is no value. Below the groups in `OPEN`
    fields may be added, and an entry of one of them is left out by setting it to `none`.

    Raises:
      ConfigError: no such field, or a value of another type; the message is one line.
    """
    group, path = config, key.split(".")
    for depth, name in enumerate(path[:-1]):
        parent = ".".join(path[:depth])
        if name not in group:
            if not _is_open(parent) or not name.isidentifier():
                raise _no_field(key, name, group, parent)
            group[name] = ConfigDict()
        group = group[name]
        if not isinstance(group, ConfigDict):
            here = ".".join(path[: depth + 1])
            raise ConfigError(f"--config.{key}={text}: {here} = {group!r} is a value, not a group of fields.")
    parent, name = ".".join(path[:-1]), path[-1]
    if name not in group:
        if parent in ENTRIES and text.lower() in ("none", "off"):
            raise _no_field(key, name, group, parent)
        if parent in ENTRIES:
            field = "run" if parent == "upstream" else "target"
            raise ConfigError(
                f"--config.{key}={text}: an entry of {parent} is a group of fields; give --config.{key}.{field}=…"
            )
        if not _is_open(parent) or not name.isidentifier():
            raise _no_field(key, name, group, parent)
        group[name] = _guess(text)
        return
    current = group[name]
    if isinstance(current, ConfigDict):
        if parent in ENTRIES and text.lower() in ("none", "off"):
            del group[name]
            return
        example = next((field for field in ("target", "name", *current) if field in current), "NAME")
        raise ConfigError(
            f"--config.{key}={text}: {key} is a group of fields; give one of them, as in --config.{key}.{example}=…"
        )
    kind = group.get_type(name)
    placeholder = current is None
    try:
        if placeholder and text.lower() in ("none", "null"):
            return
        value = _guess(text) if kind is type(None) else _read(text, kind, current)
    except ValueError:
        raise ConfigError(f"--config.{key}={text}: {text!r} is not {kind_of(current, kind)}.") from None
    with group.ignore_type():
        group[name] = value


def _is_open(group: str) -> bool:
    return any(group == name or group.startswith(f"{name}.") for name in OPEN)


def _no_field(key: str, name: str, group: ConfigDict, parent: str) -> ConfigError:
    known = near_matches(name, group, f"Fields of {parent}" if parent else "Fields")
    elsewhere = [k for k in _keys(group, parent) if k.split(".")[-1] == key.split(".")[-1]]
    if elsewhere:
        known = f"Did you mean {' or '.join(repr(k) for k in elsewhere[:3])}? {known[known.index('Fields') :]}"
    return ConfigError(f"the config has no field {key!r}. {known}")


def _keys(group: ConfigDict, prefix: str) -> Iterator[str]:
    for name, value in group.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, ConfigDict):
            yield from _keys(value, key)
        else:
            yield key


def _read(text: str, kind: type, current: Any = None) -> Any:
    """Reads `text` as a value of `kind`; raises ValueError where it is none."""
    text = text.strip() if kind is not str else text
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            number = float(text)
            if not number.is_integer():
                raise ValueError(text) from None
            return int(number)
    if kind is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    if kind in (tuple, list):
        of = {type(v) for v in current or ()}
        item = of.pop() if len(of) == 1 else None
        parts = _split(text)
        if item is None or item is type(None):
            return tuple(_guess(part) for part in parts)
        return tuple(_read(part, item, (current or (None,))[0]) for part in parts)
    if kind is str:
        return text
    raise ValueError(text)


def _split(text: str) -> list[str]:
    """The parts of `a,b` or `(a,b)`; commas inside inner brackets do not separate."""
    if text[:1] in ("(", "[") and text[-1:] == {"(": ")", "[": "]"}[text[0]]:
        text = text[1:-1]
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if depth < 0:
            raise ValueError(text)
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    if depth:
        raise ValueError(text)
    if not parts[-1].strip():
        parts.pop()
    return [part.strip().strip("'\"") if part.strip()[:1] in "'\"" else part.strip() for part in parts]


def _guess(text: str) -> Any:
    """Reads `text` where no type is known: none, true, false, a number, a tuple in brackets, else a text."""
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float) if not text.strip().lower().startswith(("inf", "nan")) else ():
        try:
            return kind(text)
        except ValueError:
            pass
    if text[:1] in ("(", "["):
        try:
            return _read(text, tuple)
        except ValueError:
            pass
    return text
