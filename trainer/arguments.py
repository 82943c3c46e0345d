"""What kind of value a setting is, and whether it fits the annotation of the argument that it is for."""

import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

# The types that a setting may have, as a message says them.
KINDS: Mapping[type, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none",
}  # fmt: skip


def signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or class; annotations that cannot be read here stay texts.

    Raises:
      TypeError, ValueError: it has no signature.
    """
    plain = inspect.signature(function)
    try:
        return inspect.signature(function, eval_str=True).parameters
    except Exception:  # an annotation may speak of names that are imported for type checkers alone
        return plain.parameters


def misfit(annotation: Any, value: Any) -> str:
    """What an argument with this annotation expects, where `value` is something else; "" where it fits.

    Only numbers, texts, truth values, None, literals and unions of them are looked at: any other annotation fits all. A
    whole number is a number, a truth value is none.
    """
    choices = _choices(annotation)
    if choices is None or any(_fits(choice, value) for choice in choices):
        return ""
    return " or ".join(dict.fromkeys(text for choice in choices for text in _texts(choice)))


def _choices(annotation: Any) -> list[Any] | None:
    """The types and literals that a union is of; None where one of them is something else."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [_choices(part) for part in typing.get_args(annotation)]
        return None if None in parts else [choice for part in parts for choice in part or ()]
    annotation = type(None) if annotation is None else annotation
    known = typing.get_origin(annotation) is typing.Literal or (isinstance(annotation, type) and annotation in KINDS)
    return [annotation] if known else None


def _fits(choice: Any, value: Any) -> bool:
    if typing.get_origin(choice) is typing.Literal:
        return any(value == literal and type(value) is type(literal) for literal in typing.get_args(choice))
    if choice in (int, float):
        kind = numbers.Integral if choice is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, choice)


def _texts(choice: Any) -> list[str]:
    if typing.get_origin(choice) is typing.Literal:
        return [repr(literal) for literal in typing.get_args(choice)]
    return [KINDS[choice]]


def kind_of(value: Any, kind: type | None = None) -> str:
    """The type of a field, as a message says it."""
    kind = kind or type(value)
    if issubclass(kind, ConfigDict):
        return "a group of fields"
    if issubclass(kind, tuple):
        of = {type(v) for v in value or ()}
        return f"a tuple of {of.pop().__name__}" if len(of) == 1 else "a tuple (a,b)"
    return KINDS.get(kind, f"a {kind.__name__}")
