"""The folder of a run: where it is, whose it is, and the small files that describe it."""

import importlib.metadata
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from trainer.config import read_json
from trainer.config_json import NEUTRAL, config_hash, diff, to_json
from trainer.errors import ConfigError, UserError

CONFIG = "config.json"
EXAMPLE = "example.json"
# What a run leaves behind once it has done anything; a config alone may be replaced.
_RESULTS = ("checkpoints", "metrics.jsonl", "media", "report.html")
_LONGEST = 255  # bytes of a folder's name, of nearly all file systems
# Fields that say what to measure, not what to train: `--mode=eval` may change them.
MEASURING = ("evaluators", "eval_data", "eval_batches", "limit_eval_batches")


def locate(config: ConfigDict, workdir: str | Path | None = None) -> Path:
    """The folder of a run: `workdir`, or ROOT/NAME.

    Raises:
      ConfigError: the name leads out of the root, is too long, or has characters that no checkpoint is saved under.
    """
    if workdir is not None:
        return Path(workdir).expanduser()
    if "\\" in config.name or not config.name.isprintable():
        raise ConfigError(f"the run name {config.name!r} has a backslash or a control character; give a plain name.")
    if (longest := max(len(os.fsencode(part)) for part in config.name.split("/"))) > _LONGEST:
        raise ConfigError(
            f"the run name {config.name[:20]!r}… has {longest} bytes, more than {_LONGEST}; give a shorter one."
        )
    root = Path(config.root).expanduser()
    folder = root / config.name
    inside = Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(root))
    if not inside or os.path.abspath(folder) == os.path.abspath(root):
        raise ConfigError(
            f"the run name {config.name!r} does not name a folder below {str(root)!r}; give a plain name, or "
            "--workdir=DIR."
        )
    return folder


def command(source: str, workdir: Path | None = None, mode: str = "fit") -> str:
    """The command that starts a run, to be pasted into a shell."""
    words = ["python", "-m", "trainer", f"--config={source}"]
    words += [f"--workdir={workdir}"] if workdir is not None else []
    words += [f"--mode={mode}"] if mode != "fit" else []
    return shlex.join(words)


def read_config(folder: Path) -> ConfigDict:
    """The config that a run was started with.

    Raises:
      ConfigError: there is none, or it cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is no run: there is no {CONFIG} in it.")
    return read_json(folder / CONFIG)


def has_results(folder: Path) -> bool:
    """Whether the run in `folder` has logged or saved anything."""
    for name in _RESULTS:
        path = folder / name
        if (path.is_dir() and any(path.iterdir())) or (path.is_file() and path.stat().st_size):
            return True
    return False


def check(folder: Path, config: ConfigDict, ignore: Sequence[str] = ()) -> bool:
    """Refuses a folder that belongs to another config or to something else; changes nothing.

    Args:
      folder: the run folder.
      config: the config to run.
      ignore: fields that may differ, besides those that never count.

    Returns:
      Whether the run has been started before, with this config.

    Raises:
      UserError: the folder holds another config, other files, or cannot be read.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"the run folder {folder} is a file. Give another name or --workdir=DIR.")
        if not (folder / CONFIG).exists():
            foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
            if foreign:
                raise UserError(
                    f"{folder} holds files but no {CONFIG}, so it is no run of ours ({', '.join(foreign[:4])}"
                    f"{', …' if len(foreign) > 4 else ''}). Give another --config.name=NAME or --workdir=DIR."
                )
            return False
    except OSError as e:
        raise UserError(
            f"cannot read the run folder {folder}: {e.strerror}. Give another --config.name=NAME or --workdir=DIR."
        ) from e
    stored = read_config(folder)
    lines = diff(stored, config, (*NEUTRAL, *ignore))
    if not lines:
        return True
    if not has_results(folder):
        return False
    longer = [line for line in lines if line.startswith("steps:")]
    raise UserError(
        f"{folder} was started with another config (stored → given):\n"
        + "".join(f"  {line}\n" for line in lines)
        + ("A run's length is part of its config, as schedules depend on it.\n" if longer else "")
        + f"Nothing was changed. To continue with the stored config:\n  {command(str(folder / CONFIG))}\n"
        "To start a run with the given one, add --config.name=NAME or --workdir=DIR of a new folder."
    )


def store(folder: Path, config: ConfigDict, provenance: Mapping[str, Any]) -> None:
    """Creates the folder, which `check` has accepted, and writes `config.json`, whole or not at all.

    Args:
      folder: the run folder.
      config: the config to run.
      provenance: the upstream runs it builds on, see `trainer.upstream.provenance`.
    """
    write_json(folder / CONFIG, {"version": version(), "config": to_json(config), "upstream": dict(provenance)})


def stored_provenance(folder: Path) -> dict[str, Any]:
    """The upstream runs that the run was started on."""
    return json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("upstream") or {}


def stored_hash(folder: Path) -> str:
    """The hash of the run's config as it was written: fields that the code has gained since do not change it."""
    data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return config_hash(data.get("config", data))


def version() -> str:
    """The version of this library."""
    try:
        return importlib.metadata.version("reverie")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write_json(path: Path, data: Any) -> None:
    """Writes `data` to `path`, whole or not at all; raises UserError naming the folder where it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as f:
            f.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(
            f"cannot write to the run folder {path.parent}: {e.strerror}. Give another --workdir=DIR."
        ) from e


def write_example(folder: Path, batch: Mapping[str, Any]) -> None:
    """Stores the shapes and dtypes of a batch, so that the run's task can be rebuilt without its data."""
    write_json(folder / EXAMPLE, _shapes(batch))


def restore_example(folder: Path, batch: Mapping[str, Any]) -> None:
    """Stores them again where they are missing or damaged."""
    try:
        read_example(folder)
    except ConfigError:
        write_example(folder, batch)


def _shapes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _shapes(v) for k, v in value.items()}
    return {"shape:": list(value.shape), "dtype:": str(value.dtype)}


def read_example(folder: Path) -> dict[str, Any]:
    """A batch of `jax.ShapeDtypeStruct`, as `write_example` stored it.

    Raises:
      ConfigError: the file is missing or damaged.
    """
    import jax
    import jax.numpy as jnp

    def restore(value: Any) -> Any:
        if "shape:" in value:
            return jax.ShapeDtypeStruct(tuple(value["shape:"]), jnp.dtype(value["dtype:"]))
        return {k: restore(v) for k, v in value.items()}

    try:
        return restore(json.loads((folder / EXAMPLE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise ConfigError(
            f"{folder} cannot be used: {EXAMPLE}, the shapes of its batches, is missing or damaged. "
            f"Start the run once more to write it: {command(str(folder / CONFIG))}"
        ) from e
