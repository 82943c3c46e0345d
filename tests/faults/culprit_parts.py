"""Callbacks and a writer that break a run: by an error of their own, or by taking the disk away."""

import concurrent.futures
import os
import resource
import threading

from fault_parts import PATIENCE, await_file

from trainer.callbacks import Callback
from trainer.writers import Writer

_failed = threading.Event()


def _watch_failures() -> None:
    """Sets `_failed` when something that runs in another thread raises, such as a save."""
    set_exception = concurrent.futures.Future.set_exception

    def watched(future, error):
        _failed.set()
        set_exception(future, error)

    concurrent.futures.Future.set_exception = watched


class Fault(Callback):
    """Makes saving impossible from before the update `first` until before the update `last`, if that is given."""

    def __init__(self, first: int, last: int = 0):
        super().__init__()
        self.first, self.last = first, last

    def on_step_start(self, run):
        """Begins, when the last checkpoint is on the disk, or ends, when one has failed."""
        if run.step + 1 == self.first:
            await_file(run.workdir / f"checkpoints/{run.saved}")
            _watch_failures()
            self.begin(run)
        if run.step + 1 == self.last:
            assert _failed.wait(PATIENCE), "no save has failed"
            self.end(run)


class SmallFiles(Fault):
    """No file may grow beyond `size` bytes: EFBIG. By default checkpoints are larger, metrics are not."""

    def __init__(self, first: int, last: int = 0, size: int = 30_000):
        super().__init__(first, last)
        self.size = size

    def begin(self, run):
        """Sets a limit for the process."""
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self._limits[1]))

    def end(self, run):
        """Takes it back."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


class FullDisk(Fault):
    """A file beside the run folder leaves 60,000 bytes of the disk: ENOSPC."""

    def begin(self, run):
        """Writes it."""
        disk = os.statvfs(run.workdir)
        (run.workdir.parent / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 60_000))

    def end(self, run):
        """Removes it."""
        (run.workdir.parent / "filler").unlink()


class Broken(Callback):
    """Raises in a hook, from a step on: an error of its own or, if `system`, one of the operating system."""

    def __init__(self, hook: str, step: int = 7, system: bool = False):
        super().__init__()
        self.hook, self.step, self.system = hook, step, system

    def _raise(self, hook, run) -> None:
        if self.hook == hook and run.step >= self.step:
            raise (OSError if self.system else ZeroDivisionError)("the callback is broken")

    def on_step_start(self, run):
        """Remembers the step for `state`."""
        self._step = run.step + 1

    def on_step_end(self, run, metrics):
        """May raise."""
        self._raise("on_step_end", run)

    def on_log(self, run, scalars):
        """May raise."""
        self._raise("on_log", run)

    def on_eval(self, run, scalars):
        """May raise."""
        self._raise("on_eval", run)

    def on_checkpoint(self, run, step):
        """May raise."""
        self._raise("on_checkpoint", run)

    def on_fit_end(self, run):
        """May raise."""
        self._raise("on_fit_end", run)

    def state(self):
        """May raise."""
        if self.hook == "state" and self._step >= self.step:
            raise ZeroDivisionError("the callback is broken")
        return {}


class BrokenWriter(Writer):
    """Raises in a method, from a step on."""

    def __init__(self, method: str, step: int = 7):
        self.method, self.step, self.last = method, step, 0

    def _raise(self, method) -> None:
        if self.method == method and self.last >= self.step:
            raise ZeroDivisionError("the writer is broken")

    def write_scalars(self, step, scalars):
        """May raise."""
        self.last = step
        self._raise("write_scalars")

    def flush(self):
        """May raise."""
        self._raise("flush")

    def close(self):
        """May raise."""
        self._raise("close")
