"""`python -m datasets.record CartPole-v1 --name=cartpole`: episodes of a Gymnasium environment become a TFDS data set.

A policy of your own, `--policy=module:name`, is a function of the observation and a `numpy.random.Generator` that
returns an action; or a class, made anew for every episode, whose instances are such functions.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from datasets import advice, writing
from datasets.commands import add_common_options, check_settings, command, say, split_up
from datasets.errors import DataError, near_matches, one_line, told
from datasets.images import resize

TRIES = 100  # Episodes played for one that is long enough.
NO_LIMIT = 1000  # Steps of an episode where neither the environment nor the user sets a limit.
Policy = Callable[[Any, np.random.Generator], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorder:
    """How episodes are recorded.

    Attributes:
      env: a Gymnasium environment.
      policy: a function of observation and generator, or a class of such; None draws actions from the action space.
      rendered: frames are what the environment renders, not its observations.
      size: of a frame, along both edges; None: as it is.
      max_steps: where an episode is cut; None: the environment ends all of them.
      seed: episode n depends on it and n alone, for environments that draw from their own generator.
    """

    env: Any
    policy: Policy | type | None
    rendered: bool
    size: int | None
    max_steps: int | None
    seed: int

    def episode(self, number: int) -> dict[str, Any]:
        """The n-th episode: `actions[t]` led to `frames[t]`, `rewards[t]` came with it; zeros at 0.

        Raises:
          DataError: the environment or the policy fails, or returns what it should not.
        """
        from datasets import spaces

        env, step = self.env, 0
        seeds = np.random.SeedSequence((self.seed, number)).generate_state(3).tolist()
        try:
            act = self._policy(*seeds[1:])
            observation, _ = env.reset(seed=seeds[0])
            frames, rewards, terminated = [self._frame(observation)], [np.float32(0)], False
            actions: list[Mapping[str, np.ndarray]] = []
            for step in itertools.count(1):
                action = act(observation)
                actions.append(spaces.encode(env.action_space, action))
                observation, reward, terminated, truncated, _ = env.step(action)
                frames.append(self._frame(observation))
                if frames[-1].shape != frames[0].shape:
                    raise DataError(f"{env.spec.id}, episode {number}: frames change their size. Give --size=64.")
                rewards.append(_stored(reward))
                if terminated or truncated or step == self.max_steps:
                    break
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{env.spec.id}, episode {number}, step {step}: {told(error)}. Nothing was written."
            ) from error
        parts = {name: np.stack([action[name] for action in actions]) for name in actions[0]}
        return {
            "frames": np.stack(frames),
            "actions": {name: np.concatenate([np.zeros_like(part[:1]), part]) for name, part in parts.items()},
            "rewards": np.array(rewards, np.float32),
            "is_terminal": np.arange(len(frames)) == (len(frames) - 1 if terminated else -1),
            "source": f"{env.spec.id}, seed {self.seed}, episode {number}",
        }

    def frame(self, number: int) -> np.ndarray:
        """The first frame of the n-th episode: what frames look like."""
        observation, _ = self.env.reset(seed=np.random.SeedSequence((self.seed, number)).generate_state(3).tolist()[0])
        return self._frame(observation)

    def _policy(self, space_seed: int, policy_seed: int) -> Callable[[Any], Any]:
        if self.policy is None:
            self.env.action_space.seed(space_seed)
            return lambda observation: self.env.action_space.sample()
        policy = self.policy() if inspect.isclass(self.policy) else self.policy
        rng = np.random.default_rng(policy_seed)
        return lambda observation: policy(observation, rng)

    def _frame(self, observation: Any) -> np.ndarray:
        """uint8 [H, W, C]."""
        frame = self.env.render() if self.rendered else observation
        what = "render()" if self.rendered else "the observation"
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim not in (2, 3):
            given = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
            modes = ", ".join(self.env.metadata.get("render_modes") or ["none"])
            raise DataError(
                f"{self.env.spec.id}: {what} gives {given}; a picture, uint8 [H, W, C], is expected. "
                f"Its render modes: {modes}; rgb_array is needed where observations are no pictures."
            )
        frame = frame if frame.ndim == 3 else frame[..., None]
        if frame.shape[-1] not in (1, 3):
            raise DataError(f"{self.env.spec.id}: {what} has {frame.shape[-1]} channels; 1 or 3 are expected.")
        return np.array(resize(frame, self.size))


def build(
    env_id: str, *, name: str, version: str = "1.0.0", data_dir: str | None = None, validation: float = 0.1,
    episodes: int = 100, policy: str = "random", size: int = 64, seed: int = 0, max_steps: int | None = None,
    frames: Literal["auto", "render", "observation"] = "auto", min_frames: int = 2,
    env: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Records episodes and writes them as a data set.

    Args:
      env_id: what `gymnasium.make` takes: "CartPole-v1", or "module:Name-v0" to import a module first.
      name: of the data set.
      version: such as "1.0.0".
      data_dir: where data sets lie; None for TFDS's own place.
      validation: share of the episodes that is held out: at least one, unless it is 0.
      episodes: in all.
      policy: "random", or "module:name".
      size: frames are resized to size × size pixels; 0: they stay as they are.
      seed: of everything drawn.
      max_steps: where an episode is cut; None: where the environment ends it.
      frames: what they are: what the environment renders, or its observations; "auto": those, where they are pictures.
      min_frames: shorter episodes are left out, others recorded for them: clips are no longer than the shortest.
      env: further keyword arguments of the environment.

    Returns:
      What was written, and how to train on it.

    Raises:
      DataError: no such environment or policy, one of them fails, the data set exists or cannot be written; nothing was
        left.
    """
    check_settings(validation, size or None, min_frames)
    for label, value, least in (("episodes", episodes, 1), ("max_steps", max_steps, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise DataError(f"--{label}={value}: expected {least} or more.")
    writing.folder_of(name, version, data_dir)
    chosen = None if policy == "random" else _load(policy)
    with _made(env_id, frames, dict(env or {})) as (environment, rendered):
        if max_steps is None and environment.spec.max_episode_steps is None:
            max_steps = NO_LIMIT
            say(f"note: {env_id} sets no limit to its episodes; they are cut after {NO_LIMIT} steps (--max_steps)")
        recorder = Recorder(
            env=environment, policy=chosen, rendered=rendered, size=size or None, max_steps=max_steps, seed=seed
        )
        contents = _contents(recorder)
        say(f"Recording {episodes} episodes of {env_id} …")

        stream = _episodes(recorder, contents.image, episodes, min_frames)
        # Splits are written one after the other.
        parts = {split: itertools.islice(stream, len(part)) for split, part in split_up(episodes, validation).items()}
        description = f"{episodes} episodes of {env_id}, policy {policy}, seed {seed}."
        written = writing.write(name, version, data_dir, contents, parts, description)
    return advice.describe(name, data_dir, contents, written)


def _episodes(recorder: Recorder, image: tuple[int, ...], count: int, min_frames: int) -> Iterator[dict[str, Any]]:
    """One episode after the other, but for those that are too short."""
    found = 0
    for number in range(TRIES * count):
        episode = recorder.episode(number)
        if episode["frames"].shape[1:] != image:
            raise DataError(f"{recorder.env.spec.id}, episode {number}: frames change their size. Give --size=64.")
        if len(episode["frames"]) >= min_frames:
            found += 1
            yield episode
    raise DataError(
        f"{recorder.env.spec.id}: only {found} of {TRIES * count} episodes have {min_frames} frames or more. "
        "Lower --min_frames. Nothing was written."
    )


def _contents(recorder: Recorder) -> writing.Contents:
    from datasets import spaces

    try:
        image = recorder.frame(0).shape
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{recorder.env.spec.id} gives no first frame: {told(error)}.") from error
    actions = spaces.components(recorder.env.action_space)
    return writing.Contents(image=image, actions=actions, rewards=True, flags=frozenset({"is_terminal"}))


@contextlib.contextmanager
def _made(env_id: str, frames: str, settings: Mapping[str, Any]) -> Iterator[tuple[Any, bool]]:
    """An environment, and whether its frames are rendered."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # No window is ever opened.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import gymnasium
    except ImportError as error:
        raise DataError("Recording needs the library gymnasium: pip install 'reverie[gym]'") from error

    def make(**more: Any) -> Any:
        try:
            return gymnasium.make(env_id, **settings, **more)
        except gymnasium.error.Error as error:
            raise DataError(f"{env_id!r} cannot be made: {one_line(error)}") from error
        except Exception as error:
            raise DataError(
                f"{env_id!r} cannot be made: {told(error)}; its settings are given as --env.KEY=VALUE."
            ) from error

    rendered = frames == "render"
    env = make(render_mode="rgb_array") if rendered else make()
    try:
        if frames == "auto" and not _is_picture(env.observation_space):
            env.close()
            rendered, env = True, make(render_mode="rgb_array")
        yield env, rendered
    finally:
        env.close()


def _is_picture(space: Any) -> bool:
    shape = space.shape or ()
    return space.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3)))


def _load(spec: str) -> Policy | type:
    """The policy `module:name`."""
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise DataError(f"--policy={spec}: expected random, or MODULE:NAME, as in my_policies:cautious.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise DataError(f"--policy={spec}: {error}. Start the command in the folder of {error.name}.py.") from error
        raise DataError(f"--policy={spec}: {module_name} cannot be imported: {told(error)}.") from error
    policy = getattr(module, name, None)
    if not callable(policy):
        there = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise DataError(
            f"--policy={spec}: {module_name} has no function {name!r}. {near_matches(name, there)}"
            f"It has: {', '.join(there) or 'none'}."
        )
    return policy


def _stored(reward: Any) -> np.float32:
    """The reward as it is written.

    Raises:
      ValueError: it is no number, or none that is stored.
    """
    number = np.asarray(reward)
    if number.size != 1 or number.dtype.kind not in "biuf" or not writing.storable(number).all():
        raise ValueError(f"the reward is {reward!r}; a finite float32 number is expected")
    return np.float32(number.reshape(()))


def _settings(parser: argparse.ArgumentParser, extra: Sequence[str]) -> dict[str, Any]:
    """What `--env.KEY=VALUE` says; values as Python writes them, anything else is a text."""
    settings: dict[str, Any] = {}
    for word in extra:
        match = re.fullmatch(r"--env\.(\w+)=(.*)", word, re.DOTALL)
        if match is None:
            parser.error(f"unknown option {word!r}; settings of the environment are given as --env.KEY=VALUE")
        key, text = match.groups()
        try:
            settings[key] = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError):
            settings[key] = text
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m datasets.record", description=__doc__, allow_abbrev=False)
    parser.add_argument("env_id", metavar="ENV_ID", help="an environment, such as CartPole-v1 or my_module:MyWorld-v0")
    add_common_options(parser)
    parser.add_argument("--episodes", type=int, default=100, help="how many (100)")
    parser.add_argument("--policy", default="random", help="random, or MODULE:NAME (random)")
    parser.add_argument("--size", type=int, default=64, help="pixels along each edge of a frame; 0: as it is (64)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (0)")
    parser.add_argument("--max_steps", type=int, help="cut episodes after so many steps")
    parser.add_argument(
        "--frames", choices=("auto", "render", "observation"), default="auto",
        help="what is rendered, or the observation; auto: the observation where it is a picture",
    )  # fmt: skip
    options, extra = parser.parse_known_args(arguments)
    settings = _settings(parser, extra)
    return command(lambda: build(**vars(options), env=settings))


if __name__ == "__main__":
    sys.exit(main())
