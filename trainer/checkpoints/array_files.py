"""Arrays as files: nested dicts of numpy arrays in a folder; the only file that touches Orbax."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from trainer.checkpoints.manifest import DamagedError


def write_arrays(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Writes nested dicts of arrays, none of them empty, into a new folder; this process alone."""
    _quiet_orbax()
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.StandardSave(arrays))
    (folder / "commit_success.txt").unlink(missing_ok=True)  # no local reader needs it: a path of this machine


def read_arrays(folder: Path) -> Any:
    """Reads what `write_arrays` wrote; this process alone.

    Raises:
      DamagedError: it cannot be read.
    """
    _quiet_orbax()
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(folder.absolute(), args=ocp.args.StandardRestore(None))
    except Exception as error:
        raise DamagedError(f"{folder.name}: {(str(error) or repr(error)).splitlines()[0]}") from error


def _checkpointer() -> ocp.Checkpointer:
    """One that does not wait for the other processes of a run: the arrays are whole, on the host."""
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process-{this}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


class _OrbaxFilter(logging.Filter):
    """Passes Orbax's warnings alone: of information it logs some 30 lines per save, and errors are raised as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname or logging.WARNING <= record.levelno < logging.ERROR


def _quiet_orbax() -> None:
    logger = logging.getLogger("absl")  # Orbax has none of its own
    if not any(isinstance(f, _OrbaxFilter) for f in logger.filters):
        logger.addFilter(_OrbaxFilter())
