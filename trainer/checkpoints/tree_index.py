"""The index of a pytree: path, shape and dtype of each leaf as JSON, to store, compare and rebuild it by."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jax
import numpy as np

from trainer.sharding import key_name
from trainer.state import PyTree

Entry = Mapping[str, Any]  # {"path": […], "shape": […], "dtype": "…"}


def index_of(tree: PyTree) -> list[dict[str, Any]]:
    """One entry per leaf; in a path, a dict's key is itself, a sequence's is {"i": n}, any other {"a": name}."""
    return [
        {"path": [_element(e) for e in path], "shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def name_of(entry: Entry) -> str:
    """An entry's path as people write it: `encoder/0/w`."""
    return "/".join(str(_key(element)) for element in entry["path"])


def storage_keys(entry: Entry) -> list[str]:
    """Keys of the nested dicts in which a leaf is stored."""
    # Orbax joins keys with dots, so that {"a.b": …} and {"a": {"b": …}} would be the same.
    return [quote(str(_key(e)), safe="").replace(".", "%2E") for e in entry["path"]] or ["value"]


def mismatches(stored: Sequence[Entry], wanted: Sequence[Entry], prefix: str = "") -> list[str]:
    """Lines "path: stored …, wanted …" for every leaf that differs."""

    def describe(index: Sequence[Entry]) -> dict[str, str]:
        return {"/".join(filter(None, [prefix, name_of(e)])): f"{e['dtype']}{e['shape']}" for e in index}

    have, want = describe(stored), describe(wanted)
    names = [*want, *(name for name in have if name not in want)]
    return [
        f"{name}: stored {have.get(name, '(absent)')}, wanted {want.get(name, '(absent)')}"
        for name in names
        if have.get(name) != want.get(name)
    ]


def nest(index: Sequence[Entry], leaves: Sequence[np.ndarray]) -> PyTree:
    """Rebuilds dicts, with their int and str keys, and lists; whatever else it was becomes a dict."""
    if len(index) == 1 and not index[0]["path"]:
        return leaves[0]
    groups: dict[Any, list[tuple[Entry, np.ndarray]]] = {}
    for entry, leaf in zip(index, leaves, strict=True):
        key, rest = _key(entry["path"][0]), entry["path"][1:]
        groups.setdefault(key, []).append(({**entry, "path": rest}, leaf))
    built = {key: nest(*zip(*group, strict=True)) for key, group in groups.items()}
    is_sequence = bool(index) and isinstance(index[0]["path"][0], dict) and "i" in index[0]["path"][0]
    return list(built.values()) if is_sequence else built


def _element(entry: Any) -> Any:
    key = key_name(entry)
    if isinstance(entry, jax.tree_util.DictKey):
        return key
    return {"i": key} if isinstance(key, int) else {"a": key}


def _key(element: Any) -> str | int:
    return next(iter(element.values())) if isinstance(element, dict) else element
