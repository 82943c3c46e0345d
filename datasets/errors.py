"""`DataError`: a data set cannot be found, prepared or read, and the message says what to do."""

import difflib
import traceback
from collections.abc import Iterable


class DataError(ValueError):
    """Something the user gave cannot work.

    Attributes:
      user_error: tells the trainer's command line to print the message alone, without a traceback.
    """

    user_error = True


def near_matches(given: str, known: Iterable[str]) -> str:
    """Returns "Did you mean 'x'? " where a known name resembles the given one, else ""."""
    close = difflib.get_close_matches(given, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(repr(name) for name in close)}? " if close else ""


def told(error: Exception) -> str:
    """An error of somebody else's code in one line, with its place."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({place.filename}, line {place.lineno})"


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
