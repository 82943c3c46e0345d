"""`DataError`: a data set cannot be found, prepared or read, and the message says what to do."""

import difflib
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
