"""Batches on their way to the device: one ahead of the loop, with the position of the last one that was used."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from trainer.data import DataIterator, DataSource
from trainer.errors import ConfigError, DataError
from trainer.kinds import check_calls, name_of
from trainer.sharding import path_name
from trainer.task import Batch

Put = Callable[[Batch], Batch]


class Fed(NamedTuple):
    """A batch that is on the device.

    Attributes:
      batch: arrays on the device.
      position: the data position after it.
    """

    batch: Batch
    position: Mapping[str, Any]


class Feed:
    """Hands out batches and puts the next one on the device ahead of time.

    Attributes:
      position: the data position after the last batch that `take` returned, whatever has been read ahead.
    """

    def __init__(self, iterator: DataIterator, put: Put) -> None:
        self._iterator = iterator
        self._put = put
        self._next: Fed | None = None
        self.position: Mapping[str, Any] = iterator.get_state()

    def take(self) -> Fed | None:
        """The next batch, or None where the data ends."""
        self.read_ahead()
        fed, self._next = self._next, None
        if fed is not None:
            self.position = fed.position
        return fed

    def read_ahead(self) -> None:
        """Reads the next batch and starts its transfer, unless that was done."""
        if self._next is None:
            try:
                host = next(self._iterator)
            except StopIteration:
                return
            self._next = Fed(self._put(host), self._iterator.get_state())


class HeldOut:
    """Held-out batches on the device; every iteration starts at the first one again.

    Args:
      source: held-out data; None for none.
      seed: of the data order.
      put: puts a batch on the device.
      limit: the most batches of an iteration; 0 for all.
    """

    def __init__(self, source: DataSource | None, seed: int, put: Put, limit: int = 0) -> None:
        self._source, self._seed, self._put, self._limit = source, seed, put, limit or None

    def __iter__(self) -> Iterator[Batch]:
        if self._source is not None:
            iterator = open_iterator(self._source, self._seed)
            batches = iter(lambda: next(iterator, None), None)
            yield from map(self._put, itertools.islice(batches, self._limit))


def open_iterator(source: DataSource, seed: int) -> DataIterator:
    """A fresh iterator over this process's share of the rows of every batch."""
    return source.iterator(seed=seed, process_index=jax.process_index(), process_count=jax.process_count())


def first_batch(source: DataSource, seed: int, what: str = "training") -> Batch:
    """The first batch, read with an iterator of its own.

    Args:
      source: the data, prepared.
      seed: of the data order.
      what: "training" or "held-out", for the message.

    Raises:
      DataError: there is none.
      ConfigError: the source's iterator, its position, batch or fingerprint is not what `trainer.data` asks for.
    """
    iterator, name = open_iterator(source, seed), f"The {what} data ({name_of(source)})"
    trains = what == "training"
    needed = ("__next__", "get_state", "set_state") if trains else ("__next__",)
    if missing := [method for method in needed if not callable(getattr(iterator, method, None))]:
        raise ConfigError(
            f"{name}: its iterator is a {type(iterator).__name__} without {', '.join(missing)}; give it the methods of "
            f"trainer.DataIterator, so that a run can be continued."
        )
    try:
        batch = next(iterator)
    except StopIteration:
        raise DataError(f"The {what} data has no batch: {json.dumps(source.fingerprint())}.") from None
    _check_arrays(batch, name)
    if trains:
        check_calls(iterator, DataIterator, name)
        _check_json(iterator.get_state(), f"{name}: {type(iterator).__name__}.get_state")
        _check_json(source.fingerprint(), f"{name}: fingerprint")
    return batch


def _check_arrays(batch: Any, name: str) -> None:
    if not isinstance(batch, Mapping):
        raise ConfigError(f"{name}: a batch is a {type(batch).__name__}; expected a dict of numpy arrays.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ConfigError(
                f"{name}: {path_name(path)} in a batch holds a {type(leaf).__name__}; expected numpy arrays."
            )


def _check_json(value: Any, what: str) -> None:
    try:
        json.dumps(value)
        problem = "" if isinstance(value, Mapping) else f"a {type(value).__name__}"
    except (TypeError, ValueError) as e:
        problem = f"{value!r:.200} ({e})"
    if problem:
        raise ConfigError(f"{what} returned {problem}; expected a dict that JSON can hold, as checkpoints keep it.")


def shapes(batch: Batch) -> Batch:
    """Shapes and dtypes of a batch as it will be on the devices, with the rows of all processes."""

    def shape(x: Any) -> tuple[int, ...]:
        rows, rest = np.shape(x)[:1], np.shape(x)[1:]
        return (*(count * jax.process_count() for count in rows), *rest)

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape(x), jax.dtypes.canonicalize_dtype(x.dtype)), batch)


def peek(source: DataSource, seed: int, what: str = "training") -> Batch:
    """Shapes and dtypes of the first batch; see `first_batch`."""
    return shapes(first_batch(source, seed, what))


def signature(batch: Batch) -> tuple[Any, ...]:
    """What decides whether jit has to compile again."""
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, *((x.shape, x.dtype) for x in leaves)


def differences(stored: Any, wanted: Any, name: str = "") -> list[str]:
    """Lines "name: stored …, wanted …" for every place where two JSON values differ."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = sorted(stored.keys() | wanted.keys())
        parts = [(stored.get(k, "(absent)"), wanted.get(k, "(absent)"), f"{name}.{k}" if name else k) for k in keys]
        return [line for part in parts for line in differences(*part)]
    return [] if stored == wanted else [f"{name or 'value'}: stored {stored!r}, wanted {wanted!r}"]
