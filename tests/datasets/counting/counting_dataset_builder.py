"""Hand-made episodes in several shapes: every pixel and number tells the episode and the frame."""

import numpy as np
import tensorflow_datasets as tfds

EPISODES, FRAMES = 12, 20
REWARDS = np.float32


def value(episode, frame):
    """What every pixel of a frame of `counting` holds: the frame says where it comes from."""
    return episode * FRAMES + frame


def task(episode):
    """The task that an episode of `tasks` shows; works on arrays."""
    return episode % 5


def relevant(episode):
    """Whether an episode of `tasks` is one to learn from; works on arrays."""
    return episode % 3 == 1


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name)
        for name in ("even", "uneven", "shapes", "video", "foreign", "tasks", "tasks_by_step", "odd_tasks")
    ]

    def _info(self):
        def per_frame(dtype, *shape):
            return tfds.features.Tensor(shape=(None, *shape), dtype=dtype)

        video = tfds.features.Tensor(shape=(None, None, 4, 3), dtype=np.uint8, encoding="zlib")
        features = {
            "video": {"frames": video},
            "foreign": {
                "video": video,
                "controls": {"keys": per_frame(np.uint8, 3), "mouse": per_frame(np.float32)},
                "score": per_frame(np.float64),
                "done": per_frame(np.bool_),
            },
            "tasks": {"frames": video, "task": np.int64, "relevant": np.bool_},
            "tasks_by_step": {"frames": video, "goal": per_frame(np.int64), "useful": per_frame(np.uint8)},
            "odd_tasks": {"frames": video, "task": tfds.features.Text(), "relevant": per_frame(np.bool_, 2)},
        }.get(
            self.builder_config.name,
            {
                "frames": video,
                "actions": per_frame(np.int32),
                "rewards": per_frame(REWARDS),
                "is_first": per_frame(np.bool_),
                "is_terminal": per_frame(np.bool_),
            },
        )
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        config = self.builder_config.name
        for episode in range(EPISODES):
            length = FRAMES - (episode if config == "uneven" else 0)
            height = 4 + (config == "shapes" and episode == 7)
            values = value(episode, np.arange(length))
            frames = np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (length, height, 4, 3))
            terminal = (np.arange(length) == length - 1) & (episode % 2 == 0)
            if config == "video":
                yield episode, {"frames": frames}
            elif config == "foreign":
                controls = {"keys": np.stack([values % 2] * 3, 1).astype(np.uint8), "mouse": values.astype(np.float32)}
                yield episode, {"video": frames, "controls": controls, "score": values / 2, "done": terminal}
            elif config == "tasks":
                yield episode, {"frames": frames, "task": task(episode), "relevant": relevant(episode)}
            elif config == "tasks_by_step":  # Later steps say something else.
                goal, useful = np.full(length, 99), np.full(length, not relevant(episode))
                goal[0], useful[0] = task(episode), relevant(episode)
                yield episode, {"frames": frames, "goal": goal, "useful": useful.astype(np.uint8)}
            elif config == "odd_tasks":
                yield episode, {"frames": frames, "task": "go left", "relevant": np.ones((length, 2), bool)}
            else:
                yield (
                    episode,
                    {
                        "frames": frames,
                        "actions": values.astype(np.int32),
                        "rewards": values.astype(REWARDS) / 2,
                        "is_first": np.arange(length) == 0,
                        "is_terminal": terminal,
                    },
                )
