"""Episodes recorded in Gymnasium environments: one whose every step is known, and a real one."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from datasets import record
from datasets.pipeline import TfdsData


class Count(gymnasium.Env):
    """A counter, seen as the brightness of the picture; the action is added to it, and it ends the episode at 40."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = spaces.Discrete(3, start=1)

    def __init__(self, render_mode=None, step=1, fails_at=None, error=RuntimeError, reward=None):
        self.render_mode, self.by, self.fails_at, self.error, self.steps = render_mode, step, fails_at, error, 0
        self.reward = reward
        if fails_at == 0:
            raise error("no\ndisplay")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.value = int(self.np_random.integers(10))
        return self._picture(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.fails_at:
            raise self.error("worn out")
        self.value += self.by * int(action)
        return self._picture(), self.value / 2 if self.reward is None else self.reward, self.value >= 40, False, {}

    def render(self):
        return np.full((4, 16, 3), self.value, np.uint8)

    def _picture(self):
        return np.full((8, 8, 3), self.value, np.uint8)


class Composite(gymnasium.Env):
    """Shows what it was told to do: the sum of all action components."""

    observation_space = spaces.Box(0, 255, (8, 8), np.uint8)
    action_space = spaces.Dict(
        turn=spaces.Discrete(3), keys=spaces.MultiBinary(4), pair=spaces.MultiDiscrete([2, 3]),
        arm=spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)]),
    )  # fmt: skip

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((8, 8), np.uint8), {}

    def step(self, action):
        total = action["turn"] + action["keys"].sum() + action["pair"].sum() + action["arm"][1]
        return np.full((8, 8), total, np.uint8), float(action["arm"][0].sum()), False, False, {}


class Twice(Composite):
    """Two parts of its actions would have the same name."""

    action_space = spaces.Dict(arm=spaces.Dict(x=spaces.Discrete(2), y=spaces.Discrete(2)), arm_x=spaces.Discrete(4))


class Wide(Count):
    """Its actions do not fit into a float32."""

    action_space = spaces.Box(np.array([1e300]), np.array([1e300]), dtype=np.float64)


class Growing(Count):
    """Its pictures change their size."""

    def _picture(self):
        return np.zeros((8, 8 + self.steps, 3), np.uint8)


class Absent(Count):
    """Cannot be reached."""

    def __init__(self, **_):
        raise OSError("no server")


KNOWN = {"Composite-v0": Composite, "Twice-v0": Twice, "Wide-v0": Wide, "Growing-v0": Growing, "Absent-v0": Absent}


@pytest.fixture(autouse=True, scope="module")
def known():
    gymnasium.register("Count-v0", Count, max_episode_steps=30)
    for name, env in KNOWN.items():
        gymnasium.register(name, env)
    yield
    for name in ("Count-v0", *KNOWN):
        del gymnasium.registry[name]


@pytest.fixture
def run(tmp_path, capsys):
    def start(env="Count-v0", *options, name="mine"):
        status = record.main([env, f"--name={name}", f"--data_dir={tmp_path / 'out'}", *options])
        said = capsys.readouterr()
        return status, said.out, said.err

    return start


def episodes(tmp_path, split="train", name="mine", **settings):
    """Whole episodes."""
    data = TfdsData(name=name, data_dir=str(tmp_path / "out"), split=split, batch_size=1, length=1, **settings)
    return [data.episodes[i] for i in range(len(data.episodes))]


def test_every_action_and_reward_stands_with_the_frame_that_it_led_to(run, tmp_path):
    status, said, _ = run("Count-v0", "--episodes=6", "--size=0")
    assert status == 0
    ends = []
    for episode in episodes(tmp_path) + episodes(tmp_path, "validation"):
        value = episode["frames"][:, 0, 0, 0].astype(int)
        assert episode["frames"].shape[1:] == (8, 8, 3)
        np.testing.assert_array_equal(episode["actions"][1:], np.diff(value) - 1)
        np.testing.assert_array_equal(episode["rewards"][1:], value[1:] / 2)
        assert (episode["actions"][0], episode["rewards"][0]) == (0, 0)
        np.testing.assert_array_equal(episode["is_terminal"], value >= 40)
        ends.append(value[-1])
    assert min(ends) >= 40
    assert len(ends) == 6
    assert "categorical, 0 … 2" in said
    assert "6 of 6 episodes end in a terminal state" in said


def test_what_is_cut_off_is_no_terminal_state(run, tmp_path):
    run("Count-v0", "--episodes=2", "--max_steps=3")
    run("Count-v0", "--episodes=2", "--env.step=0", name="limit")
    for name, length in (("mine", 4), ("limit", 31)):
        (episode,) = episodes(tmp_path, name=name)
        assert len(episode["frames"]) == length
        assert not episode["is_terminal"].any()


def test_renderings_are_resized(run, tmp_path):
    run("Count-v0", "--episodes=2", "--frames=render", "--size=4", "--env.step=2")
    (episode,) = episodes(tmp_path)
    assert episode["frames"].shape[1:] == (4, 4, 3)
    value = episode["frames"][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(2 * (episode["actions"][1:] + 1), np.diff(value))


def test_the_seed_decides(run, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run("Count-v0", "--episodes=4", f"--seed={seed}", name=name)
    a, b, c = (episodes(tmp_path, name=name) for name in "abc")
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one["frames"], other["frames"])
    assert any(one["frames"].shape != other["frames"].shape or (one["frames"] != other["frames"]).any()
               for one, other in zip(a, c, strict=True))  # fmt: skip
    assert len({episode["frames"].tobytes() for episode in a}) == 3


def test_actions_of_many_parts_are_components(run, tmp_path):
    status, said, _ = run("Composite-v0", "--episodes=2", "--max_steps=20", "--size=8")
    assert status == 0
    (episode,) = episodes(tmp_path)
    parts = episode["actions"]
    assert {name: (str(part.dtype), part.shape) for name, part in parts.items()} == {
        "arm_part0": ("float32", (21, 2)), "arm_part1": ("int32", (21,)), "keys": ("uint8", (21, 4)),
        "pair_part0": ("int32", (21,)), "pair_part1": ("int32", (21,)), "turn": ("int32", (21,)),
    }  # fmt: skip
    total = parts["turn"] + parts["keys"].sum(1) + parts["pair_part0"] + parts["pair_part1"] + parts["arm_part1"]
    np.testing.assert_array_equal(episode["frames"][:, 0, 0, 0], total)
    np.testing.assert_allclose(episode["rewards"], parts["arm_part0"].sum(1), atol=1e-6)
    assert '"keys": {"kind": "binary", "size": 4}' in said


@pytest.fixture
def policies(tmp_path, monkeypatch):
    (tmp_path / "my_policies.py").write_text(
        "def constant(observation, rng):\n    return 2\n\n"
        "class Alternating:\n    def __init__(self):\n        self.last = 1\n\n"
        "    def __call__(self, observation, rng):\n        self.last = 4 - self.last\n        return self.last\n\n"
        "def wrong(observation, rng):\n    return 9\n\n"
        "def broken(observation, rng):\n    return observation['key']\n\n"
        "def silent(observation, rng):\n    pass\n\n"
        "def partly(observation, rng):\n    return {'turn': None, 'keys': [0] * 4}\n"
    )
    (tmp_path / "no_name.py").write_text("import numpy\nnothing\n")
    (tmp_path / "no_syntax.py").write_text("def f(:\n")
    (tmp_path / "no_import.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("policies")
def test_policies_of_ones_own_with_and_without_memory(run, tmp_path):
    run("Count-v0", "--policy=my_policies:constant", "--episodes=3", name="a")
    run("Count-v0", "--policy=my_policies:Alternating", "--episodes=3", name="b")
    for episode in episodes(tmp_path, name="a"):
        assert (episode["actions"][1:] == 1).all()
    for episode in episodes(tmp_path, name="b"):
        np.testing.assert_array_equal(episode["actions"][1:], np.resize([2, 0], len(episode["actions"]) - 1))


@pytest.mark.usefixtures("policies")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["Cuont-v0"], "'Cuont-v0' cannot be made: .*Count"),
        (["Count-v0", "--env.steq=2"], "'Count-v0' cannot be made: .*steq.*--env.KEY=VALUE"),
        (
            ["Count-v0", "--env.fails_at=40"],
            r"Count-v0, episode \d+, step \d+: RuntimeError: worn out \(.*record_test.py, line",
        ),
        (["Count-v0", "--policy=my_policies:wrong"], "step 1: ValueError: 9 is none of the whole numbers 1 … 3"),
        (["Count-v0", "--policy=my_policies:broken"], r"step 1: IndexError.*my_policies.py, line 16\)"),
        (["Count-v0", "--policy=my_policies:brken"], "no function 'brken'. Did you mean 'broken'"),
        (["Count-v0", "--policy=my_policies:silent"], "step 1: ValueError: None is none of the whole numbers 1 … 3"),
        (
            ["Composite-v0", "--policy=my_policies:partly"],
            "step 1: ValueError: None is none of the whole numbers 0 … 2",
        ),
        (["Count-v0", "--policy=no_name:f"], "no_name cannot be imported: NameError: .*nothing.*no_name.py, line 2"),
        (["Count-v0", "--policy=no_syntax:f"], "no_syntax cannot be imported: SyntaxError: .*no_syntax.py, line 1"),
        (["Count-v0", "--policy=no_import:f"], "cannot be imported: ModuleNotFoundError: .*'no_such_library'"),
        (["Count-v0", "--env.fails_at=0"], r"'Count-v0' cannot be made: RuntimeError: no display \(.*record_test.py"),
        (["Absent-v0"], "'Absent-v0' cannot be made: OSError: no server"),
        (
            ["Count-v0", "--env.reward=1e300"],
            r"Count-v0, episode 0, step 1: ValueError: the reward is 1e\+300; a finite",
        ),
        (["Count-v0", "--env.reward='much'"], "step 1: ValueError: the reward is 'much'; a finite float32 number"),
        (
            ["Wide-v0"],
            r"Wide-v0, episode 0, step 1: ValueError: array\(\[1.e\+300\]\) is no array of \[1\] finite float32",
        ),
        (["Growing-v0", "--size=0"], "Growing-v0, episode 0: frames change their size. Give --size=64"),
        (["Twice-v0"], r"The parts \['arm'\]\['x'\] and \['arm_x'\] of the action space would both be called 'arm_x'"),
        (["Count-v0", "--min_frames=-3"], "--min_frames=-3: expected 2 or more"),
        (["Count-v0", "--policy=no_such:f"], "Start the command in the folder of no_such.py"),
        (["Count-v0", "--policy=clever"], "expected random, or MODULE:NAME"),
        (["Count-v0", "--episodes=0"], "--episodes=0: expected 1 or more"),
        (["Composite-v0", "--frames=render"], "Composite-v0.*(render|rgb_array)"),
        (["Count-v0", "--min_frames=50", "--episodes=1"], "only 0 of 100 episodes have 50 frames or more"),
    ],
)
def test_what_cannot_be_recorded_is_told_and_leaves_nothing(run, tmp_path, options, message):
    status, said, errors = run(*options)
    assert (status, said) == (1, "")
    assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1
    assert re.search(f"error: .*{message}", errors), errors
    assert not (tmp_path / "out").exists()


def test_an_interrupted_recording_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Count, "reset", _interrupted_reset())
    assert run("Count-v0", "--episodes=9")[0] == 130
    assert not (tmp_path / "out").exists()


def _interrupted_reset():
    reset, calls = Count.reset, []

    def interrupted(self, *, seed=None, options=None):
        calls.append(0)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return reset(self, seed=seed, options=options)

    return interrupted


def test_episodes_that_are_too_short_are_left_out(run, tmp_path):
    status, _, _ = run("Count-v0", "--episodes=8", "--min_frames=18")
    assert status == 0
    lengths = [len(episode["frames"]) for split in ("train", "validation") for episode in episodes(tmp_path, split)]
    assert len(lengths) == 8
    assert min(lengths) >= 18


def test_a_real_environment_gives_what_it_gives_when_it_is_played_by_hand(run, tmp_path):
    status, said, _ = run("CartPole-v1", "--episodes=3", "--size=32", "--seed=5")
    assert status == 0
    assert "32 × 32 × 3" in said
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    for number, episode in enumerate(episodes(tmp_path)):
        env.reset(seed=np.random.SeedSequence((5, number)).generate_state(1).tolist()[0])
        for step, action in enumerate(episode["actions"]):
            terminated = False
            if step:
                _, reward, terminated, _, _ = env.step(int(action))
                assert episode["rewards"][step] == reward
            assert bool(episode["is_terminal"][step]) == terminated
            picture = Image.fromarray(env.render()).resize((32, 32), Image.Resampling.BOX)
            np.testing.assert_array_equal(episode["frames"][step], picture)
    env.close()
