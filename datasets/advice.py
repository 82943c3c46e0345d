"""`describe`: what a written data set holds, and the commands that train on it."""

import json
import math
import os
import shlex
from typing import Any

from datasets.writing import UNNAMED, Contents, Written

# What the configs ask for where nothing else is said (presets `smoke` and `cpu`).
PATCH, HELD_OUT_CLIP, HELD_OUT_ROWS, CONTEXT = 8, 64, 16, 32
CLIP, HEADS_CLIP, AGENT_CLIP = 16, 32, 4
LARGE = 128  # Pixels along an edge from which on two cores take too long.
FAR = 10  # Continuous actions beyond this were hardly meant as they are.


def describe(name: str, data_dir: str | None, contents: Contents, written: Written) -> str:
    """A text for the user: contents, action space, commands.

    Args:
      name: of the data set.
      data_dir: as given by the user.
      contents: what every episode holds.
      written: what is on disk.
    """
    lengths = [length for split in written.lengths.values() for length in split]
    splits = ", ".join(f"{len(split)} {label}" for label, split in written.lengths.items())
    rows = {"frames": f"{' × '.join(map(str, contents.image))}, {_span(min(lengths), max(lengths))} in an episode"}
    rows["actions"] = _actions(contents, written)
    if contents.actions and "labelled" in contents.flags:
        rows["labelled"] = f"{written.labelled} of {len(lengths)} episodes have actions"
    if contents.rewards:
        rows["rewards"] = _span(*written.ranges.get("rewards", (0, 0)))
    if "is_terminal" in contents.flags:
        rows["terminal"] = f"{written.terminal} of {len(lengths)} episodes end in a terminal state"
    lines = [
        f"Wrote {name} {written.folder.name}: {len(lengths)} episodes ({splits}), {sum(lengths):,} frames, "
        f"{_size(written.size)}, in {_shown(written.folder)}",
        *(f"  {label:<10}{text}" for label, text in rows.items()),
        *_notes(contents, written),
        "",
        "Train on it:",
        *_commands(name, data_dir, contents, written),
    ]
    return "\n".join(lines)


def action_space(contents: Contents) -> dict[str, dict[str, Any]]:
    """`task.model.actions` of the dynamics; a single component without a name has the one of the configs."""
    return {part or "direction": component._asdict() for part, component in contents.actions.items()}


def _actions(contents: Contents, written: Written) -> str:
    def one(part: str, kind: str, size: int) -> str:
        low, high = written.ranges.get(f"actions/{part}", (0, 0))
        sizes = {"categorical": f"0 … {size - 1}", "binary": f"{size} bits"}
        text = sizes.get(kind, f"{size} number{'s' if size > 1 else ''}, {low:.4g} … {high:.4g}")
        return f"{part + ': ' if part else ''}{kind}, {text}"

    return "; ".join(one(part, *component) for part, component in contents.actions.items()) or "none: plain video"


def _notes(contents: Contents, written: Written) -> list[str]:
    height, width, _ = contents.image
    notes = []
    if max(height, width) > LARGE:
        notes.append("frames are large for a small machine; --size=64 writes them as 64 × 64")
    elif not _patch(contents):
        notes.append(f"no patch fits {height} × {width} frames; write them again with --size=64")
    if "validation" not in written.lengths:
        notes.append("nothing is held out: these commands evaluate on the episodes that they train on")
    for part, component in contents.actions.items():
        reach = max(map(abs, written.ranges.get(f"actions/{part}", (0, 0))))
        if component.kind == "continuous" and reach > FAR:
            notes.append(f"action {part or 'values'} reach {reach:.4g}; a model learns best from about -1 … 1")
    return [f"  note      {note}" for note in notes]


def _patch(contents: Contents) -> int | None:
    """The edge of a patch that divides the frames: the configs', else the largest below it."""
    common = math.gcd(*contents.image[:2])
    return next((edge for edge in range(PATCH, 3, -1) if common % edge == 0), None)


def _settings(name: str, data_dir: str | None, written: Written, clip: int = CLIP) -> list[str]:
    """What every phase has to be told; `clip`: frames of its training clips."""
    # The newest version is found without its number.
    alone = len([path for path in written.folder.parent.iterdir() if path.is_dir()]) == 1
    out = [f"--config.data.name={name}{'' if alone else ':' + written.folder.name}"]
    if data_dir is not None:
        out.append(f"--config.data.data_dir={data_dir}")
    out.append("--config.data.split=train")  # all of it: the presets may learn from a part that fits their budget
    if min(written.lengths["train"]) < clip:
        out.append(f"--config.data.length={min(written.lengths['train'])}")
    held_out = _held_out(written)
    if "validation" not in written.lengths:
        out.append("--config.eval_data.split=train")
    if len(held_out) < HELD_OUT_ROWS:
        out.append(f"--config.eval_data.batch_size={len(held_out)}")
    if min(held_out) < HELD_OUT_CLIP:
        out.append(f"--config.eval_data.length={min(held_out)}")
    return out


def _held_out(written: Written) -> list[int]:
    """The lengths of the episodes that the commands evaluate on."""
    return written.lengths.get("validation", written.lengths["train"])


def _commands(name: str, data_dir: str | None, contents: Contents, written: Written) -> list[str]:
    both = _settings(name, data_dir, written)
    tokenizer = [f"--config.name={name}-tokenizer", *both]
    if _patch(contents) not in (None, PATCH):
        tokenizer.append(f"--config.task.model.patch={_patch(contents)}")
    dynamics = [
        f"--config.name={name}-dynamics", f"--config.upstream.tokenizer.run=logs/{name}-tokenizer", *both,
    ]  # fmt: skip
    context = max(1, min(_held_out(written)) // 2)
    if short := min(_held_out(written)) <= CONTEXT:
        dynamics.append(f"--config.task.rollout.context={context}")
    plain = list(contents.actions) == [UNNAMED]
    if plain:
        kind, size = contents.actions[UNNAMED]
        dynamics += [f"--config.task.model.actions.direction.{k}={v}" for k, v in (("kind", kind), ("size", size))]
    commands = [
        _command("configs/tokenizer.py", tokenizer),
        _command("configs/dynamics.py" if plain else f"{name}.py", dynamics),
    ]
    if contents.rewards and _can_be_chosen(contents):
        heads = [
            f"--config.name={name}-heads", f"--config.upstream.dynamics.run=logs/{name}-dynamics",
            *_settings(name, data_dir, written, HEADS_CLIP), "--config.task.environment.target=",
        ]  # fmt: skip
        if short:
            heads += [f"--config.task.{evaluator}.context={context}" for evaluator in ("rollout", "evaluation")]
        agent = [
            f"--config.name={name}-agent", f"--config.upstream.heads.run=logs/{name}-heads",
            *_settings(name, data_dir, written, AGENT_CLIP), "--config.task.environment.target=",
        ]  # fmt: skip
        if min(written.lengths["train"]) < AGENT_CLIP:
            agent.append(f"--config.task.context={min(written.lengths['train'])}")
        commands += [_command("configs/heads.py", heads), _command("configs/imagination_rl.py", agent)]
    if plain:
        return commands
    return [
        *commands,
        f"where {name}.py, for this action space, is:",
        *(f"  {line}".rstrip() for line in _config_file(contents)),
    ]


def _can_be_chosen(contents: Contents) -> bool:
    """Whether policies can choose such actions."""
    kinds = {component.kind for component in contents.actions.values()}
    return bool(kinds) and kinds <= {"categorical", "binary"}


def _config_file(contents: Contents) -> list[str]:
    return [
        "from configs import dynamics",
        "",
        "PRESETS = dynamics.PRESETS",
        "",
        "",
        "def get_config(preset):",
        "    config = dynamics.get_config(preset)",
        f"    config.task.model.actions = {json.dumps(action_space(contents))}",
        "    return config",
    ]


def _command(config: str, settings: list[str]) -> str:
    words = [f"python -m trainer --config={config}", *map(shlex.quote, settings)]
    lines, line = [], "  "
    for word in words:
        if len(line) + len(word) > 110:
            lines.append(line + "\\")
            line = "    "
        line += word + " "
    return "\n".join([*lines, line.rstrip()])


def _span(low: float, high: float) -> str:
    return f"{low:.6g}" if low == high else f"{low:.6g} … {high:.6g}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _shown(folder: os.PathLike[str]) -> str:
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative
