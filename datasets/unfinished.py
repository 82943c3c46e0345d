"""`folder`: where a data set is written until it is whole, and `clear`: removes what killed processes left there."""

import contextlib
import fcntl
import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK = "lock"


@contextlib.contextmanager
def folder(root: Path, name: str) -> Iterator[str]:
    """A hidden folder in `root` for the data set `name`, locked by this process, and removed at the end."""
    with (
        tempfile.TemporaryDirectory(prefix=_prefix(name), dir=root, ignore_cleanup_errors=True) as path,
        open(Path(path, f"{_LOCK}.new"), "w", encoding="utf-8") as file,
    ):
        file.write(socket.gethostname())
        file.flush()
        # Without locks on this file system the folder has no lock file, and `clear` leaves it alone.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(file.name, Path(path, _LOCK))  # Whoever sees it under this name sees it locked.
        yield path


def clear(root: Path, name: str) -> None:
    """Removes the folders of dead processes for the data set `name`, and tells what cannot be judged.

    The kernel frees the lock of a process that dies. Locks are only believed of processes on this machine.
    """
    for path in sorted(root.glob(f"{_prefix(name)}*")):
        if path.is_symlink() or not path.is_dir():
            continue
        dead = _dead(path)
        if dead:
            shutil.rmtree(path, ignore_errors=True)
            _say(f"removed {path}, which a killed process left")
        elif dead is None:
            command = f"rm -r {shlex.quote(str(path))}"
            _say(f"{path} is unfinished; if no other process is writing {name} there, remove it: {command}")


def _dead(path: Path) -> bool | None:
    """Whether the process that wrote here has ended; None where nobody can tell."""
    try:
        with open(path / _LOCK, encoding="utf-8") as file:
            if file.read() != socket.gethostname():
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _prefix(name: str) -> str:
    return f".{name}-incomplete-"


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)
