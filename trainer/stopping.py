"""Stopping is a value: whoever wants a run to end leaves a reason, and the loop ends at the next stop test."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

EXIT_RESUMABLE = 75  # sysexits' EX_TEMPFAIL: start me again with the same command
_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")  # SIGUSR1 is what batch systems send before the time is up


class StopReason(NamedTuple):
    """Why a run ended before its last step.

    Attributes:
      reason: what a person reads.
      resumable: whether the run should be started again (exit code 75) or is finished.
    """

    reason: str
    resumable: bool


class StopFlag:
    """Holds the first stop request; setting it is safe from threads and signal handlers.

    Attributes:
      made: `time.monotonic()` when it was made; one that stops a whole command was made when the command began.
    """

    def __init__(self) -> None:
        self._value: StopReason | None = None
        self.made = time.monotonic()

    @property
    def value(self) -> StopReason | None:
        """The request that came first, or None."""
        return self._value

    def request(self, reason: str, resumable: bool) -> None:
        """Asks the run to end after the current step; the first request wins."""
        if self._value is None:
            self._value = StopReason(reason, resumable)


@contextlib.contextmanager
def stop_on_signals(given: StopFlag | None = None) -> Iterator[StopFlag]:
    """Turns SIGTERM, SIGUSR1 and Ctrl-C into a resumable stop request while the context is open.

    A second Ctrl-C raises KeyboardInterrupt at once. The handlers found are put back at the end. Outside the main
    thread Python allows no handlers, and none are put up.

    Args:
      given: a flag that somebody else listens for already: it is yielded, and nothing changes.

    Yields:
      The flag that is set.
    """
    flag = StopFlag() if given is None else given
    if given is not None or threading.current_thread() is not threading.main_thread():
        yield flag
        return
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        name = signal.Signals(number).name
        if number == signal.SIGINT:
            interrupts += 1
            if interrupts > 1:
                raise KeyboardInterrupt
            # os.write: print() may not be entered again from a handler.
            os.write(2, b"\nCtrl-C: stopping after this step. Press it again to stop at once.\n")
        flag.request(f"received {name}", resumable=True)

    before: dict[int, Any] = {}
    try:
        for name in _SIGNALS:
            if hasattr(signal, name):
                number = getattr(signal, name)
                before[number] = signal.signal(number, handle)
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
