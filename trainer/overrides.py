"""Settings from the command line: `--config.KEY=VALUE`, read as the type of the field."""

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from trainer.arguments import kind_of
from trainer.config import ENTRIES, OPEN
from trainer.errors import ConfigError, near_matches


def override_all(config: ConfigDict, settings: Iterable[tuple[str, str]]) -> None:
    """Sets several fields, one after the other; a group that one of them adds is open to the next. See `override`."""
    added: set[str] = set()
    for key, text in settings:
        override(config, key, text, added)


def override(config: ConfigDict, key: str, text: str, added: set[str] | None = None) -> None:
    """Sets the field `key` (dotted) to `text`, read as the field's type.

    Integers may be written `1e4`; tuples `a,b` or `(a,b)`, their texts in quotes where they hold commas or brackets;
    `none` where there is no value. Below the groups in `OPEN` fields may be added. A group that holds nothing but
    groups, as `callbacks` does, holds parts with names of the user's own: further ones may be added, and one that is
    set to `none` is left out.

    Args:
      config: is changed.
      key: the field.
      text: its value.
      added: groups that earlier settings have added, to which fields may be added; this one's are put in.

    Raises:
      ConfigError: no such field, or a value of another type; the message is one line.
    """
    group, path, added = config, key.split("."), set() if added is None else added
    for depth, name in enumerate(path[:-1]):
        parent = ".".join(path[:depth])
        if name not in group:
            if not (_is_open(parent, added) or _holds_parts(parent, group)) or not name.isidentifier():
                raise _no_field(key, name, group, parent)
            group[name] = ConfigDict()
            added.add(".".join(path[: depth + 1]))
        group = group[name]
        if not isinstance(group, ConfigDict):
            here = ".".join(path[: depth + 1])
            raise ConfigError(f"--config.{key}={text}: {here} = {group!r} is a value, not a group of fields.")
    parent, name = ".".join(path[:-1]), path[-1]
    left_out = text.lower() in ("none", "off")
    if name not in group:
        if parent in ENTRIES and not left_out:
            field = "run" if parent == "upstream" else "target"
            raise ConfigError(
                f"--config.{key}={text}: an entry of {parent} is a group of fields; give --config.{key}.{field}=…"
            )
        if parent in ENTRIES or not _is_open(parent, added) or not name.isidentifier():
            raise _no_field(key, name, group, parent)
        group[name] = _guess(text)
        return
    current = group[name]
    if isinstance(current, ConfigDict):
        if left_out and _holds_parts(parent, group):
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


def _holds_parts(path: str, group: ConfigDict) -> bool:
    """Whether the entries of a group are parts with names of their own, as those of `callbacks` are."""
    return path in ENTRIES or (bool(path) and all(isinstance(value, ConfigDict) for value in group.values()))


def _is_open(group: str, added: Collection[str]) -> bool:
    """Whether fields may be added to a group."""
    return any(group == name or group.startswith(f"{name}.") for name in (*OPEN, *added))


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
        plain = [part if (quoted := _unquoted(part)) is None else quoted for part in parts]
        return tuple(_read(part, item, (current or (None,))[0]) for part in plain)
    if kind is str:
        return text
    raise ValueError(text)


_CLOSING = {"(": ")", "[": "]"}


def _split(text: str) -> list[str]:
    """The parts of `a,b` or `(a,b)`. Commas in inner brackets do not separate, and in quotes nothing counts."""
    text = text.strip()
    commas, end = _commas(text)
    if text[:1] in _CLOSING and not commas and end == len(text) - 1:
        text = text[1:-1]
        commas, _ = _commas(text)
    starts, ends = [0, *(comma + 1 for comma in commas)], [*commas, len(text)]
    parts = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    return parts if parts[-1] else parts[:-1]


def _commas(text: str) -> tuple[list[int], int]:
    """Where the commas outside of brackets and quotes are, and where the first pair of brackets ends (-1: nowhere)."""
    commas, end, expected, quote, before = [], -1, "", "", ","
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and before in "([,":  # elsewhere it is an apostrophe
            quote = char
        elif char in _CLOSING:
            expected += _CLOSING[char]
        elif char in _CLOSING.values():
            if not expected.endswith(char):
                raise ValueError(text)
            expected = expected[:-1]
            end = place if end < 0 and not expected else end
        elif char == "," and not expected:
            commas.append(place)
        before = before if char.isspace() else char
    if expected or quote:
        raise ValueError(text)
    return commas, end


def _unquoted(text: str) -> str | None:
    """What stands in the quotes around a text, as it is; None where there are none."""
    for quote in ("'", '"'):
        if len(text) > 1 and text[0] == text[-1] == quote and quote not in text[1:-1]:
            return text[1:-1]
    return None


def _guess(text: str) -> Any:
    """Reads `text` where no type is known: none, true, false, a number, a tuple in brackets, else a text."""
    quoted = _unquoted(text)
    if quoted is not None:
        return quoted
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float) if not text.strip().lower().startswith(("inf", "nan")) else ():
        try:
            return kind(text)
        except ValueError:
            pass
    if text[:1] in _CLOSING:
        try:
            parts = _split(text)
        except ValueError:
            return text
        return text if parts == [text] else tuple(_guess(part) for part in parts)  # such as (up|down)$
    return text
