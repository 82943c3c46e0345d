"""Lines for the person at the terminal."""

import sys
from collections.abc import Mapping

from trainer.writers.base import Writer


class ConsoleWriter(Writer):
    """Prints scalars and texts to stderr, one line per write."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints `[step] name value  name value …`."""
        say(f"[{step}] " + "  ".join(f"{name} {value:.5g}" for name, value in scalars.items()))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Says that there is a text; what it says is for wider places."""
        for name, text in texts.items():
            lines = text.splitlines()
            say(f"[{step}] {name}: " + (text if len(lines) == 1 else f"({len(lines)} lines of text)"))

    def flush(self) -> None:
        """Flushes stderr."""
        sys.stderr.flush()


def say(line: str) -> None:
    """Prints a line to stderr, as `plain` text."""
    print(plain(line), file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """The text on one line; what a terminal would act on, such as the escape that begins a colour, is spelt out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
