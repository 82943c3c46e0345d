"""Lines for the person at the terminal."""

import sys
from collections.abc import Mapping

from trainer.writers.base import Writer


class ConsoleWriter(Writer):
    """Prints scalars and texts to stderr, one line per write."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints `[step] name value  name value …`."""
        self._print(f"[{step}] " + "  ".join(f"{name} {value:.5g}" for name, value in scalars.items()))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Says that there is a text; what it says is for wider places."""
        for name, text in texts.items():
            lines = text.splitlines()
            self._print(f"[{step}] {name}: " + (text if len(lines) == 1 else f"({len(lines)} lines of text)"))

    def flush(self) -> None:
        """Flushes stderr."""
        sys.stderr.flush()

    def _print(self, line: str) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a progress bar may stand there
        print(clear + line, file=sys.stderr, flush=True)
