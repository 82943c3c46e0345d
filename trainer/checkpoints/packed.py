"""Packed checkpoints: parameters and running state, without the optimiser's; see `trainer.packing`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoints import reading
from trainer.checkpoints.array_files import read_arrays, write_arrays
from trainer.checkpoints.manifest import DamagedError, write_manifest
from trainer.errors import CheckpointError
from trainer.state import TrainState

_OPTIMIZER = "opt_state"


def pack_checkpoint(run: Path, target: Path, changes: Mapping[str, Any]) -> int:
    """Writes the newest checkpoint of a run, packed, into the new run folder `target`, and returns its step.

    Args:
      run: a run folder.
      target: a folder.
      changes: entries of `meta.json` that are to be others.

    Raises:
      CheckpointError: the newest checkpoint cannot be read.
    """
    folder = run / reading.FOLDER
    step = reading.steps_in(folder)[-1]
    path, place = reading.path_of(folder, step), target / reading.FOLDER / str(step)
    try:
        meta = reading.read_meta(path)
        arrays = meta["arrays"]
        params = "ema" if "ema" in arrays else "params"
        state = [entry for entry in arrays["state"] if entry["path"][0] != _OPTIMIZER]
        nested = {"params": read_arrays(path / params), "state": read_arrays(path / "state")}
    except DamagedError as error:
        raise CheckpointError(f"The checkpoint {path} is damaged ({error}), so it cannot be packed.") from error
    nested["state"].pop(_OPTIMIZER, None)
    meta |= {**changes, "packed": True, "arrays": {"params": arrays[params], "state": state}}
    place.mkdir(parents=True)
    for name, tree in nested.items():
        write_arrays(place / name, tree)
    (place / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    write_manifest(place)
    return step


def fits(meta: Mapping[str, Any], target: TrainState) -> TrainState:
    """What a checkpoint can give of a training state: of a packed one, no optimiser state."""
    return target._replace(opt_state=(), ema=None) if meta.get("packed") else target
