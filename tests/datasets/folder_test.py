"""A folder of recordings becomes a data set, or a list of all that is wrong with it."""

import json
import os
import re
import shlex
import shutil
import signal
import socket

import numpy as np
import pytest
from recorded import LENGTH, arrays, rows, shade

from datasets import inspection
from trainer import plugins
from trainer.config import load_config
from trainer.overrides import override


def test_recordings_are_read_by_name_with_nothing_changed(recordings, run, tmp_path):
    files = {f"game{e}": arrays(e, is_terminal=e % 2 == 0, task=e, relevant=e > 1) for e in range(5)}
    status, said, _ = run(recordings(**files), "--validation=0.4")
    assert status == 0
    train, held_out = rows(tmp_path), rows(tmp_path, "validation")
    assert sorted([*train, *held_out]) == list(range(5))
    assert len(held_out) == 2
    for episode, batch in (train | held_out).items():
        given = files[f"game{episode}"]
        np.testing.assert_array_equal(batch["frames"][0], given["frames"])
        np.testing.assert_array_equal(batch["actions"][0, 1:], given["actions"][1:])
        np.testing.assert_array_equal(batch["rewards"][0], given["rewards"])
        np.testing.assert_array_equal(
            batch["continues"][0] == 0, (np.arange(LENGTH) == LENGTH - 1) & (episode % 2 == 0)
        )
        assert (batch["task"][0], batch["relevant"][0], batch["labelled"][0]) == (episode, episode > 1, True)
    assert "mine 1.0.0: 5 episodes (3 train, 2 validation), 35 frames" in said
    assert "8 × 8 × 3, 7 in an episode" in said
    assert "categorical, 0 … 4" in said
    assert "3 of 5 episodes end in a terminal state" in said


def test_actions_that_come_after_their_frame_are_moved_to_the_next(recordings, run, tmp_path):
    steps = np.arange(LENGTH)
    files = {f"game{e}": arrays(e, rewards=shade(e, steps) / 4, is_terminal=steps == LENGTH - 1) for e in (0, 1)}
    assert run(recordings(**files), "--alignment=after")[0] == 0
    for episode, batch in (rows(tmp_path) | rows(tmp_path, "validation")).items():
        before = shade(episode, np.arange(LENGTH) - 1)
        np.testing.assert_array_equal(batch["actions"][0], np.where(np.arange(LENGTH) > 0, before % 5, 0))
        np.testing.assert_array_equal(batch["rewards"][0], np.where(np.arange(LENGTH) > 0, before / 4, 0))
        np.testing.assert_array_equal(batch["continues"][0] == 0, np.arange(LENGTH) == 6)
    _, _, said = run(recordings(**files), "--version=2.0.0")
    assert "rewards[0] is not 0 in game1.npz;" in said
    assert "--alignment=after" in said


def test_components_of_all_kinds(recordings, run, tmp_path):
    steps = np.arange(LENGTH)
    parts = {
        "actions/turn": steps % 3,
        "actions/keys": np.stack([steps % 2, steps > 3], 1).astype(np.uint8),
        "actions/fire": steps > 2,
        "actions/mouse": np.stack([steps, -steps, steps / 2], 1).astype(np.float64),
        "actions/throttle": steps.astype(np.float32) / 10,
    }
    status, said, _ = run(recordings(a=arrays(0, actions=None, **parts), b=arrays(1, actions=None, **parts)))
    assert status == 0
    actions = rows(tmp_path, batch_size=1).popitem()[1]["actions"]
    assert {name: (str(part.dtype), part.shape[2:]) for name, part in actions.items()} == {
        "turn": ("int32", ()), "keys": ("uint8", (2,)), "fire": ("uint8", (1,)), "mouse": ("float32", (3,)),
        "throttle": ("float32", (1,)),
    }  # fmt: skip
    for name, part in parts.items():
        stored = actions[name.partition("/")[2]][0]
        np.testing.assert_array_equal(stored[1:], part.reshape(stored.shape)[1:].astype(stored.dtype))
    (line,) = [line for line in said.splitlines() if "config.task.model.actions = " in line]
    assert json.loads(line.partition(" = ")[2])["mouse"] == {"kind": "continuous", "size": 3}


def test_episodes_without_actions_are_told_and_not_labelled(recordings, run, tmp_path):
    status, said, notes = run(recordings(a=arrays(0), b=arrays(1, actions=None), c=arrays(2)))
    assert status == 0
    assert "no actions: b.npz" in notes
    assert "2 of 3 episodes have actions" in said
    labelled = {e: bool(batch["labelled"][0]) for e, batch in (rows(tmp_path) | rows(tmp_path, "validation")).items()}
    assert labelled == {0: True, 1: False, 2: True}


NAN = np.array([0.0, 0, np.nan, 0, np.nan, 0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": None}, r"has no array 'frames'; its arrays: actions, rewards"),
        ({"frames": None, "images": np.zeros(3)}, r"has no array 'frames' \(but 'images'\)"),
        ({"frames": np.full((7, 8, 8, 3), 0.5)}, r"frames: .*float64 \[7, 8, 8, 3\], 0.5 … 0.5; give \(frames"),
        ({"frames": np.full((7, 8, 8, 3), 200)}, r"frames: .*int64.*200 … 200; give frames.astype"),
        ({"frames": np.ones((7, 8, 8, 3), np.uint8)}, "frames: all values are 0 or 1"),
        ({"frames": np.zeros((7, 3, 8, 8), np.uint8)}, r"frames: .*first: give np.moveaxis\(frames, 1, -1\)"),
        ({"frames": np.zeros((7, 8, 8, 4), np.uint8)}, r"frames: .*frames\[..., :3\]"),
        ({"frames": np.zeros((7, 8), np.uint8)}, r"frames: expected uint8 \[T, H, W, C\].*given uint8 \[7, 8\]"),
        ({"frames": np.zeros((1, 8, 8, 3), np.uint8), "actions": None, "rewards": None}, "frames: only 1 frame;"),
        ({"actions": np.zeros(6, int)}, "actions: 6 entries for 7 frames"),
        ({"actions": NAN}, r"actions\[2\]: is nan, one of 2 such; finite numbers"),
        ({"actions": np.array([0, 1, 2, -3, 0, 0, 0])}, r"actions\[3\]: is -3; whole numbers are choices"),
        ({"actions": np.full((7, 2), 3)}, r"actions: whole numbers \[T, 2\] are bits, 0 or 1, but it has 3 … 3"),
        ({"actions": np.array(["up"] * 7)}, r"actions: expected whole numbers.*given <U2 \[7\]"),
        (
            {"actions": np.array([None] * 7)},
            r"actions: cannot be read \(it holds Python objects\); store plain numbers",
        ),
        ({"actions": None, "action": np.zeros(7, int)}, r"has no 'actions' \(but 'action'\); rename or remove it"),
        ({"actions/move": np.zeros(7, int)}, "has 'actions' and also 'actions/move'"),
        ({"actions": np.where(np.arange(7) == 4, 1e39, 0.5)}, r"actions\[4\]: is 1e\+39; finite numbers up to 3.4e38"),
        ({"actions": np.array([[0, 1]] * 6 + [[np.inf, 0]])}, r"actions\[6\]: is \[inf  0.\]; finite numbers"),
        ({"rewards": NAN}, r"rewards\[2\]: is nan, one of 2 such; finite numbers up to 3.4e38 are expected"),
        ({"rewards": np.array([0, 0, 0, -1e300, 0, 0, 0])}, r"rewards\[3\]: is -1e\+300; finite numbers"),
        ({"rewards": np.zeros((7, 2))}, r"rewards: expected one number per frame, \[7\], given float64 \[7, 2\]"),
        ({"rewards": None}, "has no 'rewards', as b.npz has"),
        ({"is_terminal": np.arange(7) == 3}, r"is_terminal\[3\]: the episode ends here, but 3 frames follow"),
        ({"task": np.arange(7)}, "task: expected one whole number"),
        ({"done": True}, r"has no 'is_terminal' \(but 'done'\)"),
        ({"frames": np.zeros((7, 8, 16, 3), np.uint8)}, "frames: pixels 8 × 16 × 3, but 8 × 8 × 3 in b.npz"),
        ({"actions": np.zeros((7, 2), np.float32)}, r"actions: values continuous \[2\], but categorical in b"),
        ({"actions": None, "actions/move": np.zeros(7, int)}, "actions: components move, but one array without a name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_array_and_place(recordings, run, tmp_path, changes, message):
    source = recordings(a=arrays(0, **changes), b=arrays(1), c=arrays(2))
    status, said, errors = run(source)
    assert (status, said) == (1, "")
    assert re.search(rf"error: .*\n  a\.npz: (.*; )?{message}", errors), errors
    assert not (tmp_path / "out").exists()


def test_a_single_array_that_is_called_npz_is_told_among_all_else(recordings, run):
    source = recordings(a=arrays(0, rewards=NAN), b=arrays(1))
    with open(source / "single.npz", "wb") as file:
        np.save(file, np.zeros(3))
    _, _, errors = run(source)
    assert "error: 2 problems" in errors
    assert "\n  a.npz: rewards[2]: is nan" in errors
    assert "\n  single.npz: is a single array, no .npz: write it with numpy.savez(" in errors


def test_links_that_lead_nowhere_are_told(recordings, run):
    source = recordings(a=arrays(0), b=arrays(1))
    (source / "c.npz").symlink_to("gone.npz")
    assert "\n  c.npz: is a link to gone.npz, which is not there" in run(source)[2]
    (source / "c.npz").unlink()
    (source / "more").symlink_to(source)
    status, _, said = run(source)
    assert status == 0
    assert "note: not read: more\n" in said


def test_what_is_called_like_a_recording_and_is_no_file_is_told(recordings, run, tmp_path):
    source = recordings(a=arrays(0), b=arrays(1))
    (source / "d.npz").mkdir()
    (source / "d.npz" / "frames.npy").write_bytes(b"")  # an archive that somebody unpacked
    os.mkfifo(source / "e.npz")
    status, _, errors = run(source)
    assert status == 1
    assert errors.splitlines()[2:] == [
        "  d.npz: is a folder; a recording is a file", "  e.npz: is no ordinary file; a recording is a file",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()
    (source / "e.npz").unlink()
    shutil.copy(source / "a.npz", source / "d.npz" / "c.npz")  # a folder of recordings may be called so
    assert run(source)[0] == 0
    assert "d.npz/frames.npy" in run(source, "--version=2.0.0")[2]


@pytest.mark.parametrize(
    ("actions", "place"),
    [
        ([0, 1, 2, 1, 3000, 2, 1], "actions[4]: is 3000, and no choice from 5 to 2999 is"),
        ([0, 1, 2, 40, 3000, 2, 1], "actions[3]: is 40, and no choice from 5 to 39 is"),
        ([0, 1, 2, 1, 22, 2, 1], "actions[4]: is 22, and no choice from 5 to 21 is"),
        ([3000, 1, 2, 1, 21, 2, 1], None),  # the first led nowhere, and 16 choices may well not be taken
    ],
)
def test_a_choice_far_above_all_others_is_refused_unless_it_is_meant(recordings, run, tmp_path, actions, place):
    source = recordings(a=arrays(0), b=arrays(1, actions=np.array(actions)), c=arrays(2))
    status, said, errors = run(source)
    if place is not None:
        assert (status, said) == (1, "")
        assert errors.splitlines()[2:] == [
            f"  b.npz: {place} ever taken; count choices from 0 without gaps, or give --sparse_choices if it is meant"
        ]
        assert not (tmp_path / "out").exists()
        status, said, _ = run(source, "--sparse_choices")
    assert status == 0
    assert f"categorical, 0 … {max(actions[1:])}" in said


def test_many_choices_may_have_wide_gaps(recordings, run):
    steps = np.arange(40)
    many = {"frames": np.zeros((40, 8, 8, 3), np.uint8), "rewards": steps}
    status, said, _ = run(recordings(**{name: many | {"actions": steps + 35 * (steps > 36)} for name in "ab"}))
    assert (status, "categorical, 0 … 74" in said) == (0, True)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (
            [0, 1, 2, 1, 0, 2, 1],
            "though 12 of 12 are whole, 0 … 2. For choices store whole numbers (in a table: 1",
        ),
        ([0, 1, 2, 1, 1.5, 2, 1], "since b.npz has 1.5 at actions[4]; 11 of 12 are whole, 0 … 2. Where choices were"),
        ([0, 1, 2, 0.5, 1.5, 2, 1], None),
        ([0, 1, 2, -1, 1, 2, 1], None),
        ([0, 1, 2, 1, 5000, 2, 1], None),
    ],
)
def test_numbers_that_look_like_choices_are_noted(recordings, run, values, note):
    source = recordings(
        a=arrays(0, actions=np.array([0.0, 1, 2, 0, 1, 2, 0])), b=arrays(1, actions=np.array(values, float))
    )
    status, said, notes = run(source)
    assert (status, "continuous, 1 number" in said) == (0, True)
    assert f"note: actions: numbers, not choices, {note}" in notes if note else "not choices" not in notes


def test_what_stands_with_the_first_frame_may_be_anything(recordings, run, tmp_path):
    rewards, move = np.ones(LENGTH), np.full((LENGTH, 2), 0.5)
    rewards[0], move[0] = np.inf, (np.nan, 1e300)
    assert run(recordings(**{name: arrays(e, rewards=rewards, actions=move) for e, name in enumerate("ab")}))[0] == 0
    batch = rows(tmp_path).popitem()[1]
    np.testing.assert_array_equal(batch["rewards"][0], [0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(batch["actions"][0], [[0, 0]] + [[0.5, 0.5]] * 6)


def test_all_problems_are_listed(recordings, run):
    source = recordings(**{f"game{e:02}": arrays(0, actions=NAN, rewards=NAN) for e in range(12)})
    _, _, errors = run(source)
    assert "24 problems in the recordings; nothing was written" in errors
    assert len(errors.splitlines()) == 26  # what is done, the head, and all of them
    assert all(f"game{e:02}.npz: {name}[2]: is nan" in errors for e in range(12) for name in ("actions", "rewards"))


def test_a_data_set_is_never_overwritten(recordings, run, tmp_path):
    source = recordings(a=arrays(0), b=arrays(1))
    assert run(source)[0] == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    status, _, errors = run(source)
    assert status == 1
    assert "mine 1.0.0 exists" in errors
    assert "--version=1.1.0" in errors
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")) == before
    _, said, _ = run(source, "--version=1.1.0")
    assert "--config.data.name=mine:1.1.0" in said


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError, RuntimeError])
def test_nothing_is_left_of_what_was_interrupted(recordings, run, tmp_path, monkeypatch, kind):
    made = inspection.episode

    def interrupted(name, *rest):
        if name == "c.npz":
            raise kind("no more")
        return made(name, *rest)

    monkeypatch.setattr(inspection, "episode", interrupted)
    source = recordings(a=arrays(0), b=arrays(1), c=arrays(2))
    if kind is RuntimeError:
        with pytest.raises(RuntimeError):
            run(source)
    else:
        assert run(source)[0] == {KeyboardInterrupt: 130, OSError: 1}[kind]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_either(recordings, run, tmp_path, monkeypatch, request, number):
    made = inspection.episode
    before = signal.signal(number, signal.SIG_DFL)  # also where the tests run under nohup
    request.addfinalizer(lambda: signal.signal(number, before))

    def interrupted(name, *rest):
        signal.raise_signal(number)
        return made(name, *rest)

    monkeypatch.setattr(inspection, "episode", interrupted)
    status, _, errors = run(recordings(a=arrays(0), b=arrays(1)))
    assert (status, errors.splitlines()[-1]) == (128 + number, "interrupted: nothing was written")
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(number) == signal.SIG_DFL
    # As under nohup.
    signal.signal(number, signal.SIG_IGN)
    try:
        assert run(tmp_path / "in")[0] == 0
    finally:
        signal.signal(number, signal.SIG_DFL)


def test_what_was_killed_before_is_tidied_up(recordings, run, tmp_path):
    left = tmp_path / "out" / ".mine-incomplete-abc"
    left.mkdir(parents=True)
    (left / "lock").write_text(socket.gethostname())
    status, _, notes = run(recordings(a=arrays(0), b=arrays(1)))
    assert status == 0
    assert f"note: removed {left}, which a killed process left" in notes
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name=My Data"], "is no data set's name: use small letters"),
        (["--name=bouncing_square"], "is built by code already"),
        (["--name=mnist"], "is built by code already"),
        (["--version=one"], "three numbers are expected"),
        (["--validation=1"], "expected a share"),
        (["--min_frames=-3"], "--min_frames=-3: expected 2 or more"),
        (["--min_frames=9"], "All 2 recordings have fewer than --min_frames=9 frames"),
    ],
)
def test_a_wrong_option_is_told(recordings, run, options, message):
    status, _, errors = run(recordings(a=arrays(0), b=arrays(1)), *options)
    assert status == 1
    assert message in errors


def test_an_empty_or_missing_folder_is_told(tmp_path, run):
    assert "is no folder" in run(tmp_path / "nowhere")[2]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("")
    assert "There is no recording in" in run(tmp_path / "in")[2]


def test_short_recordings_can_be_left_out_and_gray_ones_read(recordings, run, tmp_path):
    gray = [arrays(e, length) for e, length in enumerate((7, 3, 9))]
    source = recordings(**{f"g{e}": one | {"frames": one["frames"][..., 0]} for e, one in enumerate(gray)})
    status, said, notes = run(source, "--min_frames=5")
    assert status == 0
    assert "left out 1 recordings" in notes
    assert "8 × 8 × 1, 7 … 9 in an episode" in said


def test_the_printed_commands_fit_the_configs(recordings, run, tmp_path, monkeypatch):
    source = recordings(a=arrays(0), b=arrays(1), c=arrays(2))
    _, said, _ = run(source)
    commands = said.partition("Train on it:\n")[2].replace("\\\n", " ").splitlines()
    assert len(commands) == 4
    for command, length in zip(commands, (7, 7, 7, 4), strict=True):
        config = read(command)
        assert config.data.name == config.eval_data.name == "mine"
        assert config.data.data_dir == config.eval_data.data_dir == str(tmp_path / "out")
        assert (config.data.split, config.eval_data.split) == ("train", "validation")
        assert (config.data.length, config.eval_data.length, config.eval_data.batch_size) == (length, 7, 1)
    _, dynamics, heads, agent = map(read, commands)
    assert dict(dynamics.task.model.actions.direction) == {"kind": "categorical", "size": 5}
    assert dynamics.upstream.tokenizer.run == "logs/mine-tokenizer"
    assert heads.upstream.dynamics.run == f"logs/{dynamics.name}"
    assert agent.upstream.heads.run == f"logs/{heads.name}"
    assert dynamics.task.rollout.context == heads.task.rollout.context == heads.task.evaluation.context == 3
    assert heads.task.environment.target == agent.task.environment.target == ""
    # Without held-out episodes too: what the commands name is there.
    _, said, _ = run(source, "--version=1.1.0", "--validation=0")
    assert "nothing is held out: these commands evaluate on the episodes that they train on" in said
    for command in said.partition("Train on it:\n")[2].replace("\\\n", " ").splitlines():
        config = read(command)
        for data in (config.data, config.eval_data):
            assert len(next(plugins.build(data, "data").iterator(seed=0))["frames"]) == data.batch_size
        assert config.eval_data.batch_size == 3
    # Several components need a file, which is printed too.
    parts = {"actions": None, "actions/a": np.arange(7)}
    _, said, _ = run(recordings(**{n: arrays(e, **parts) for e, n in enumerate("abc")}), "--version=2.0.0")
    commands, _, text = said.partition("Train on it:\n")[2].replace("\\\n", " ").partition("where mine.py")
    file = [line[2:] for line in text.splitlines()[1:]]
    (tmp_path / "mine.py").write_text("\n".join(file))
    monkeypatch.chdir(tmp_path)
    config = read(commands.splitlines()[1])
    assert config.task.model.actions.to_dict() == {"a": {"kind": "categorical", "size": 7}}


def read(command):
    """The config that a printed command gives."""
    python, _, _, first, *settings = shlex.split(command)
    assert python == "python"
    config = load_config(first.partition("=")[2])
    for setting in settings:
        key, _, value = setting.removeprefix("--config.").partition("=")
        override(config, key, value)
    return config
