"""A line at the bottom of a terminal that is drawn again and again; other lines are printed above it."""

import logging
import os
import shutil
import sys
import threading
import unicodedata
from typing import Any, TextIO

_CLEAR = "\r\x1b[K"


class Bar:
    """Draws a line on stderr, and takes it away before anything else is printed.

    ::

      bar = Bar()
      bar.open()
      bar.draw(f"[###...] step {step}")
      bar.close()

    While it is open, `sys.stdout`, `sys.stderr` and the handlers of the root logger clear it before they write.
    """

    def __init__(self) -> None:
        self._stream: TextIO = sys.stderr
        self._replaced: dict[str, Any] = {}
        self._handlers: list[logging.Handler] = []
        self._drawn = False
        self._lock = threading.RLock()

    def open(self) -> None:
        """Begins to watch what others print."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():
                self._replaced[name] = _Above(stream, self)
                setattr(sys, name, self._replaced[name])
        self._handlers = list(logging.getLogger().handlers)  # they hold streams of their own
        for handler in self._handlers:
            handler.addFilter(self._clear_first)

    def draw(self, text: str) -> None:
        """Puts the line in the place of the one before; it should be shorter than `columns()`."""
        with self._lock:
            self._stream.write(_CLEAR + text)
            self._stream.flush()
            self._drawn = True

    def clear(self) -> None:
        """Takes the line away."""
        with self._lock:
            if self._drawn:
                self._drawn = False
                self._stream.write(_CLEAR)
                self._stream.flush()

    def close(self) -> None:
        """Takes the line away and leaves everything as it was found."""
        self.clear()
        for name, above in self._replaced.items():
            if getattr(sys, name) is above:
                setattr(sys, name, above.stream)
        for handler in self._handlers:
            handler.removeFilter(self._clear_first)
        self._replaced, self._handlers = {}, []

    def columns(self) -> int:
        """The width of the terminal."""
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            width = 0
        return width or shutil.get_terminal_size().columns

    def _clear_first(self, record: logging.LogRecord) -> bool:
        self.clear()
        return True


class _Above:
    """A stream that clears the bar before it writes."""

    def __init__(self, stream: TextIO, bar: Bar) -> None:
        self.stream, self._bar = stream, bar

    def write(self, text: str) -> int:
        if text:
            self._bar.clear()
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def is_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def fit_line(share: float, parts: list[str], columns: int) -> str:
    """A line `[████····] part  part` shorter than `columns`; parts for which there is no room are left out.

    Args:
      share: how full the bar is, 0 … 1.
      parts: the most important one first; it is cut where even that is too long.
      columns: of the terminal.
    """
    room, text = columns - 1, parts[0]  # a full line would move some terminals to the next one
    while width(text) > room:
        text = text[:-1]
    for part in parts[1:]:
        if width(text) + 2 + width(part) <= room - 8:
            text += f"  {part}"
    cells = min(24, room - width(text) - 3)
    if cells < 5:
        return text
    full, empty = "█·" if (sys.stderr.encoding or "").lower().startswith("utf") else "#."
    done = int(cells * min(max(share, 0.0), 1.0))
    return f"[{full * done}{empty * (cells - done)}] {text}"


def width(text: str) -> int:
    """The columns that a text takes: some letters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
