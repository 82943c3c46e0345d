"""`Inspection`: whether recordings fit together as one data set, and all that is wrong where they do not."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets import choices, tables
from datasets.episodes import Alignment, arrived
from datasets.errors import DataError
from datasets.recordings import Recording
from datasets.writing import UNNAMED, Component, Contents, storable


class _Action(NamedTuple):
    """What a file holds of an action component: sizes come from all files together."""

    kind: str
    size: int
    from_table: bool
    values: choices.Values | None = None


@dataclasses.dataclass
class _Facts:
    """What is known of a file once it was looked at."""

    image: tuple[int, ...]
    actions: dict[str, _Action]
    present: frozenset[str]


class Inspection:
    """Looks at one recording after the other, and keeps what must be the same in all of them.

    Attributes:
      problems: what is wrong, each with file, array and place.
      notes: what is unusual.
    """

    def __init__(self, alignment: Alignment, sparse_choices: bool = False):
        self.alignment, self.sparse_choices = alignment, sparse_choices
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._facts: dict[str, _Facts] = {}
        self._unused: dict[str, list[str]] = collections.defaultdict(list)
        self._early_rewards: list[str] = []

    def add(self, name: str, recording: Recording) -> None:
        """Checks a file by itself."""
        problems = [*_frames(recording.frames)]
        length = len(recording.frames) if recording.frames.ndim else 0
        unused = 0 if self.alignment == "before" else length - 1
        actions = {}
        for part, array in recording.actions.items():
            label = f"actions/{part}" if part else "actions"
            action, wrong = _action(label, array, unused, recording.table, length)
            problems += [wrong] if wrong else _missing(label, recording, unused)
            if action is not None:
                actions[part] = action
        for label in recording.arrays:
            problems += _other(label, recording, length, unused)
        self.problems += [f"{name}: {problem}" for problem in problems]
        for label in recording.unused:
            self._unused[label].append(name)
        rewards = recording.arrays.get("rewards")
        if self.alignment == "before" and not problems and rewards is not None and np.nan_to_num(rewards[0]) != 0:
            self._early_rewards.append(name)
        if not problems:
            image = recording.frames.shape[1:]
            present = frozenset(recording.arrays) | ({"actions"} if recording.actions else set())
            self._facts[name] = _Facts(image if len(image) == 3 else (*image, 1), actions, present)

    def contents(self) -> Contents:
        """What all episodes hold.

        Raises:
          DataError: a file is wrong, or files do not fit together; all problems are listed.
        """
        facts = self._facts
        for name, problem in [*_differ("frames", "pixels", {n: f.image for n, f in facts.items()}), *self._uneven()]:
            self.problems.append(f"{name}: {problem}")
        actions = self._actions()
        if self.problems:
            raise _refusal(self.problems)
        self._take_notes()
        present = frozenset().union(*(f.present for f in facts.values()))
        flags = present & {"is_terminal", "relevant"}
        if actions and any("actions" not in f.present for f in facts.values()):
            flags |= {"labelled"}
        return Contents(
            image=next(iter(facts.values())).image, actions=actions, rewards="rewards" in present, flags=flags,
            task="task" in present,
        )  # fmt: skip

    def _uneven(self) -> list[tuple[str, str]]:
        """Arrays that some files have and others lack; actions may be lacking."""
        out = []
        for array in ("rewards", "is_terminal", "task", "relevant"):
            having = [name for name, f in self._facts.items() if array in f.present]
            if 0 < len(having) < len(self._facts):
                lacking = [name for name in self._facts if name not in having]
                wrong = f"has no {array!r}, as {having[0]} has; give it in all files or in none"
                out += [(name, wrong) for name in lacking]
        return out

    def _actions(self) -> dict[str, Component]:
        """The action space."""
        given = {name: f.actions for name, f in self._facts.items() if "actions" in f.present}
        for name, problem in _differ("actions", "components", {n: tuple(sorted(a)) for n, a in given.items()}):
            self.problems.append(f"{name}: {problem}")
        space = {}
        for part in sorted({part for actions in given.values() for part in actions}):
            label = f"actions/{part}" if part else "actions"
            found = {name: actions[part] for name, actions in given.items() if part in actions}
            if len({a.kind for a in found.values()}) > 1:
                found = {name: _as_numbers(a) for name, a in found.items()}
            kinds = {name: a.kind if a.kind == "categorical" else f"{a.kind} [{a.size}]" for name, a in found.items()}
            for name, problem in _differ(label, "values", kinds):
                self.problems.append(f"{name}: {problem}")
            space[part] = Component(next(iter(found.values())).kind, max(a.size for a in found.values()))
            values = {name: action.values for name, action in found.items()}
            if space[part].kind == "categorical" and not self.sparse_choices:
                self.problems += choices.far_ones(label, values)
            if space[part].kind == "continuous":
                self.notes += choices.likely(label, values)
        return space

    def _take_notes(self) -> None:
        for label, names in sorted(self._unused.items()):
            self.notes.append(f"{label!r} is not read ({listed(names)})")
        without = [name for name, f in self._facts.items() if "actions" not in f.present]
        if without and len(without) < len(self._facts):
            self.notes.append(f"not labelled, since they have no actions: {listed(without)}")
        if self._early_rewards:
            self.notes.append(
                f"rewards[0] is not 0 in {listed(self._early_rewards)}; where actions and rewards come after the "
                "frame that they are stored with, give --alignment=after"
            )


def episode(name: str, recording: Recording, contents: Contents, alignment: Alignment) -> dict[str, Any]:
    """A checked recording as `datasets.writing.write` takes it: actions and rewards with the frame they led to."""
    length = len(recording.frames)
    out: dict[str, Any] = {"frames": recording.frames.reshape(length, *contents.image), "source": name}
    if contents.actions:
        given, space = recording.actions, contents.actions
        out["actions"] = {part: _stored(given.get(part), component, length) for part, component in space.items()}
    if "labelled" in contents.flags:
        out["labelled"] = bool(recording.actions)
    if contents.rewards:
        out["rewards"] = _finite(recording.arrays["rewards"]).astype(np.float32)
    if "is_terminal" in contents.flags:
        terminal = recording.arrays["is_terminal"].astype(bool)
        out["is_terminal"] = terminal if terminal.ndim else terminal & (np.arange(length) == length - 1)
    if contents.task:
        out["task"] = int(recording.arrays["task"].flat[0])
    if "relevant" in contents.flags:
        out["relevant"] = bool(recording.arrays["relevant"].flat[0])
    if alignment == "after":
        return arrived(out)
    for actions in out.get("actions", {}).values():
        actions[0] = 0  # Nothing led to the first frame, whatever was stored with it.
    return out


def _stored(array: np.ndarray | None, component: Component, length: int) -> np.ndarray:
    feature = component.feature()
    shape = (length, *feature.shape[1:])
    if array is None:
        return np.zeros(shape, feature.np_dtype)
    return _finite(array).astype(feature.np_dtype).reshape(shape)


def _finite(array: np.ndarray) -> np.ndarray:
    """The array with zeros for what cannot be stored: the entry that led to no frame may be anything."""
    return np.where(storable(array), array, np.zeros((), array.dtype))


def _frames(frames: np.ndarray) -> Iterable[str]:
    shape = f"{frames.dtype} {list(frames.shape)}"
    if frames.ndim not in (3, 4) or 0 in frames.shape:
        yield f"frames: expected uint8 [T, H, W, C] or [T, H, W], given {shape}"
    elif frames.ndim == 4 and frames.shape[-1] not in (1, 3):
        fix = {4: "leave out the fourth with frames[..., :3]"}.get(frames.shape[-1], "give colours last")
        if frames.shape[1] in (1, 3):
            fix = "colours seem to come first: give np.moveaxis(frames, 1, -1)"
        yield f"frames: expected 1 or 3 channels in the last axis, given {shape}; {fix}"
    elif frames.dtype != np.uint8:
        finite = frames[np.isfinite(frames)] if frames.dtype.kind == "f" else frames.astype(np.float64)
        small = finite.size and finite.min() >= 0 and finite.max() <= 1
        fix = "(frames * 255).round().astype(np.uint8)" if small else "frames.astype(np.uint8), if they are 0 … 255"
        span = f", {finite.min():.4g} … {finite.max():.4g}" if finite.size else ""
        yield f"frames: expected uint8, 0 … 255, given {shape}{span}; give {fix}"
    elif len(frames) < 2:
        yield f"frames: only {len(frames)} frame; an episode has 2 or more"
    elif frames.max() == 1:
        yield "frames: all values are 0 or 1, but white is 255; give frames * 255"


def _action(label: str, array: np.ndarray, unused: int, table: str, length: int) -> tuple[_Action | None, str]:
    """Kind and size of a component, or what is wrong; the entry `unused`, which led nowhere, may be anything."""
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or array.size == 0:
        shape = f"{array.dtype} {list(array.shape)}"
        return None, f"{label}: expected whole numbers [T], or bits or numbers [T, K], given {shape}"
    if len(array) != length:
        return None, f"{label}: {len(array)} entries for {length} frames; one for each frame is expected"
    width = array.shape[1] if array.ndim == 2 else 1
    numbers = array.reshape(length, width)
    used = np.arange(length) != unused
    bad = np.flatnonzero(used & ~storable(numbers).all(1))
    if len(bad):
        return None, _unfit(label, array, bad, table)
    if array.dtype.kind == "f":
        return _Action("continuous", width, bool(table), choices.values(numbers, used, table)), ""
    bits = array.dtype.kind == "b" or ((numbers >= 0) & (numbers <= 1))[used].all()
    if array.dtype.kind == "b" or (width > 1 and bits):
        return _Action("binary", width, bool(table)), ""
    if width > 1 and table:
        return _Action("continuous", width, True), ""
    if width > 1:
        return None, (
            f"{label}: whole numbers [T, {width}] are bits, 0 or 1, but it has {numbers[used].min()} … "
            f"{numbers[used].max()}; give each column its own array, as in actions/NAME [T], or float32 for numbers"
        )
    wrong = np.flatnonzero(used & ((numbers < 0) | (numbers >= choices.MOST)).any(1))
    if len(wrong):
        place = tables.place(label, wrong[0], table)
        return None, (
            f"{place}: is {numbers[wrong[0], 0]}; whole numbers are choices, counted from 0 (below {choices.MOST}); "
            "give float32 (in a table: 1.0, not 1) for numbers"
        )
    return _Action(
        "categorical", int(numbers[used].max(initial=0)) + 1, bool(table), choices.values(numbers, used, table)
    ), ""


def _other(label: str, recording: Recording, length: int, unused: int) -> list[str]:
    """What is wrong with the array of this name."""
    array = recording.arrays[label]
    shape = f"{array.dtype} {list(array.shape)}"
    if array.dtype.kind not in "biuf":
        return [f"{label}: expected numbers, given {shape}"]
    if label == "rewards":
        if array.shape != (length,):
            return [f"rewards: expected one number per frame, [{length}], given {shape}"]
        bad = [i for i in np.flatnonzero(~storable(array)) if i != unused]
        return [_unfit(label, array, bad, recording.table)] if bad else _missing(label, recording, unused)
    if label == "task":
        same = array.size and array.dtype.kind in "iu" and (array == array.flat[0]).all() and array.flat[0] >= 0
        return [] if same else [f"task: expected one whole number from 0 for the whole episode, given {shape}"]
    if label == "relevant":
        same = array.size and np.isin(array, (0, 1)).all() and (array == array.flat[0]).all()
        return [] if same else [f"relevant: expected one truth value for the whole episode, given {shape}"]
    if array.shape not in ((), (length,)) or not np.isin(array, (0, 1)).all():
        return [f"is_terminal: expected a truth value, or one per frame, [{length}], given {shape}"]
    early = np.flatnonzero(array[:-1]) if array.ndim else []
    if len(early):
        after = length - 1 - early[0]
        return [f"is_terminal[{early[0]}]: the episode ends here, but {after} frames follow; cut it there"]
    return []


def _unfit(label: str, array: np.ndarray, places: Sequence[int], table: str) -> str:
    """What is wrong with the numbers at these places."""
    found = f"{tables.place(label, places[0], table)}: is {array[places[0]]}{_one_of(places)}"
    return f"{found}; finite numbers up to 3.4e38 are expected"


def _missing(label: str, recording: Recording, unused: int) -> list[str]:
    """Entries that a table leaves empty, where they may not be."""
    places = [i for i in recording.missing.get(label, []) if i != unused]
    if not places:
        return []
    return [f"{tables.place(label, places[0], recording.table)}: is empty{_one_of(places)}; a number is expected"]


def _as_numbers(action: _Action) -> _Action:
    """Whole numbers in a table may be numbers that happen to be whole."""
    if not action.from_table:
        return action
    return action._replace(kind="continuous", size=1 if action.kind == "categorical" else action.size)


def _differ(label: str, what: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The files that are unlike most of them, and in what."""
    if len(set(values.values())) < 2:
        return []
    usual, _ = collections.Counter(values.values()).most_common(1)[0]
    example = next(name for name, value in values.items() if value == usual)
    return [
        (name, f"{label}: {what} {_text(value)}, but {_text(usual)} in {example}")
        for name, value in values.items()
        if value != usual
    ]


def _text(value: str | tuple[Any, ...]) -> str:
    if isinstance(value, str):
        return value
    if value == (UNNAMED,):
        return "one array without a name"
    return " × ".join(map(str, value)) if isinstance(value[0], int) else ", ".join(str(v) for v in value if v)


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _one_of(places: Sequence[int]) -> str:
    return f", one of {len(places)} such" if len(places) > 1 else ""


def _refusal(problems: list[str]) -> DataError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return DataError(f"{count} in the recordings; nothing was written:{lines}")
