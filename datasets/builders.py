"""Finds a TFDS data set by name and writes it to disk where it is missing."""

import contextlib
import importlib
import importlib.util
import io
import pkgutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging

from datasets.errors import DataError, near_matches


def own_names() -> list[str]:
    """The data sets of this package: its folders that hold a `<name>_dataset_builder.py`."""
    paths = importlib.import_module(__package__).__path__
    return [name for _, name, is_package in pkgutil.iter_modules(paths) if is_package and _builder_spec(name)]


def register(name: str) -> None:
    """Makes a data set of this package known to TFDS; other names are left to TFDS's own registry."""
    if name in own_names():
        importlib.import_module(_builder_module(name))


def find_builder(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """Returns the builder of `name[/config][:version]`, e.g. "bouncing_square/reference".

    Raises:
      DataError: no data set or no config is called so.
    """
    try:
        parsed, options = tfds.core.naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        raise DataError(
            f"{name!r} is no data set's name: expected 'name', 'name/config' or 'name/config:1.0.0'."
        ) from error
    base, config = parsed.name, options.get("config")
    register(base)
    try:
        with quiet():
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        own, there = own_names(), _names_in(data_dir)
        others = sorted(set(tfds.list_builders(with_community_datasets=False)) - {*own, *there})
        raise DataError(
            f"There is no data set {base!r}. {near_matches(base, sorted({*there, *own, *others}))}"
            f"This project has: {', '.join(own)}; TFDS has {len(others)} more; {_shown(data_dir)} holds "
            f"{', '.join(there) or 'none'} (another folder: --config.data.data_dir=FOLDER). A new one is written by "
            "`python -m datasets.folder RECORDINGS` or `python -m datasets.record ENVIRONMENT`, see docs/your_data.md."
        ) from error
    except ValueError as error:
        configs = list(tfds.builder_cls(base).builder_configs)
        if config is None or config in configs:
            raise DataError(f"The data set {name!r} cannot be used: {error}") from error
        raise DataError(
            f"The data set {base!r} has no config {config!r}. {near_matches(config, configs)}"
            f"Its configs: {', '.join(configs) or '(none)'}."
        ) from error
    except OSError as error:
        raise _not_prepared(name, data_dir, error) from error
    except ImportError as error:
        raise DataError(
            f"The data set {name!r} has features that cannot be read without another library: {error}. Where that "
            "library is TensorFlow, write them as tfds.features.Tensor or Image instead, or install it."
        ) from error


def prepare(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """Finds a data set and writes it where it is missing.

    What has its final name is complete: TFDS writes beside it and renames.

    Raises:
      DataError: it cannot be found, or not be written.
    """
    builder = find_builder(name, data_dir)
    if _is_prepared(builder):
        return builder
    started = time.monotonic()
    print(f"Preparing the data set {name} (once) in {builder.data_dir} …", file=sys.stderr, flush=True)
    try:
        with quiet():
            builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        # Where another process finished the same data set first, its folder is in the way of the rename.
        builder = find_builder(name, data_dir)
        if not _is_prepared(builder):
            raise _not_prepared(name, data_dir, error) from error
    except (ImportError, AssertionError) as error:
        # What TFDS's data sets raise for a missing library, and for files to be downloaded by hand.
        raise DataError(
            f"The data set {name!r} cannot be prepared here: {error}\n"
            f"One prepared elsewhere (file_format='array_record') can be copied to {builder.data_dir}."
        ) from error
    size = f"{builder.info.splits.total_num_examples:,} examples, {builder.info.dataset_size}"
    print(f"Prepared {name}: {size}, in {time.monotonic() - started:.0f} s.", file=sys.stderr, flush=True)
    return builder


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    with quiet():
        return builder.is_prepared()


def _builder_module(name: str) -> str:
    return f"{__package__}.{name}.{name}_dataset_builder"


def _builder_spec(name: str) -> object:
    return importlib.util.find_spec(_builder_module(name))


def _names_in(data_dir: str | None) -> list[str]:
    """The data sets that were written into a folder: NAME/VERSION or NAME/CONFIG/VERSION."""
    folder = Path(_shown(data_dir)).expanduser()
    found = [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    return sorted({path.relative_to(folder).parts[0] for path in found})


def _shown(data_dir: str | None) -> str:
    return str(data_dir or tfds.core.constants.DATA_DIR)


def _not_prepared(name: str, data_dir: str | None, error: OSError) -> DataError:
    return DataError(
        f"The data set {name!r} could not be prepared in {_shown(data_dir)}: {error}. Nothing unfinished was left. "
        "Another folder is chosen with --config.data.data_dir=FOLDER (or the environment variable TFDS_DATA_DIR)."
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS's progress bars, on a terminal, and drops the messages it prints and logs around them."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.enable_progress_bar()
