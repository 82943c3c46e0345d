"""Errors that a user can mend: the command line prints their message alone, without a traceback."""

import difflib
import inspect
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user gave cannot work; the message says what was given, what was expected and what to do next."""


class ConfigError(UserError):
    """A config, an override or a plugin's arguments are wrong."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or of another shape than the one wanted."""


class DataError(UserError):
    """A data set cannot be found, prepared, read or continued."""


class TrainingError(UserError):
    """The training itself went wrong: it keeps producing values that are not finite."""


_PLACE = "raised in "


def add_place(error: BaseException, where: str) -> None:
    """Notes on an error where it was raised; libraries leave notes of their own, which say nothing to a user."""
    error.add_note(_PLACE + where)


def places(error: BaseException) -> list[str]:
    """What `add_place` has noted, the innermost place first."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith(_PLACE)]


def with_places(error: BaseException) -> str:
    """The message of an error and, in brackets, where it was raised."""
    return str(error) + "".join(f" ({place})" for place in places(error))


def check_fields(takes: Callable[..., object], given: Iterable[str], path: str) -> None:
    """Raises ConfigError where `takes`, a class or function, has no argument of a name in `given`.

    Args:
      takes: what will get them.
      given: names.
      path: the config's group that they stand in, for the message.
    """
    names = list(inspect.signature(takes).parameters)
    for name in given:
        if name not in names:
            raise ConfigError(f"{path} has no {name!r}. {near_matches(name, names, 'Fields')}")


def near_matches(given: str, known: Iterable[str], what: str = "Known") -> str:
    """Returns "Did you mean 'x'? Known: a, b, x." for a name that was not found."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}{what}: {', '.join(known) or '(none)'}."
