"""One process per run folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UserError


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds `folder/.lock` while the context is open; the kernel frees it even when the process is killed.

    Raises:
      UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(
            f"cannot write to the run folder {folder}: {error.strerror}. Make it writable, or give another "
            "--workdir=DIR."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"Another process (pid {owner}) is using the run folder {folder}. "
                "Wait for it, stop it, or give this run another folder with --workdir=DIR."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield  # closing the file frees the lock; the file stays, since removing it would race with the next owner
