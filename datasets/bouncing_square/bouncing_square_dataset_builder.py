"""The TFDS builder of the bouncing-square episodes: simulated in place, nothing is downloaded."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds

from datasets.bouncing_square import rules

CHUNK = 250  # Episodes simulated at a time: 50 MB of frames at 64 frames each.
SEEDS = {"train": 0, "validation": 1, "test": 2}


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(tfds.core.BuilderConfig):
    """A variant of the rules, and how many episodes of it.

    Attributes:
      variant: the rules.
      num_episodes: by split.
    """

    variant: rules.Variant
    num_episodes: dict[str, int]


class Builder(tfds.core.GeneratorBasedBuilder):
    """Bouncing-square episodes (`python -m datasets.build bouncing_square`)."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 - TFDS declares it so
    BUILDER_CONFIGS = [  # noqa: RUF012
        Config(
            name="reference",
            description="The distribution of the published toy experiment: starts may stick out of the frame.",
            variant=rules.REFERENCE,
            num_episodes={"train": 10_000, "validation": 1_000, "test": 1_000},
        ),
        Config(
            name="clean",
            description="Starts inside the frame, clear contrast, an action to stay, and longer episodes.",
            variant=rules.CLEAN,
            num_episodes={"train": 10_000, "validation": 1_000, "test": 1_000},
        ),
        Config(
            name="tiny",
            description="A few episodes of `reference`, for tests.",
            variant=rules.REFERENCE,
            num_episodes={"train": 64, "validation": 16, "test": 16},
        ),
    ]

    def __init__(self, *, file_format: str | None = "array_record", **kwargs: Any):
        # TFDS's own default can be neither written nor read without TensorFlow.
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        length = self.builder_config.variant.episode_length
        size = rules.FRAME_SIZE

        def per_frame(dtype: type, doc: str) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=(length,), dtype=dtype, doc=doc)

        features = tfds.features.FeaturesDict(
            {
                "frames": tfds.features.Tensor(
                    shape=(length, size, size, 3), dtype=np.uint8, encoding="zlib", doc="Pictures, RGB."
                ),
                "actions": per_frame(
                    np.int32, "actions[t] led to frames[t]: 0 up, 1 down, 2 left, 3 right, 4 none; 4 at index 0."
                ),
                "rewards": per_frame(
                    np.float32,
                    "rewards[t] was received on arriving at frames[t]: minus a distance in px; 0 at index 0.",
                ),
                "is_first": per_frame(np.bool_, "The frame after a reset."),
                "is_last": per_frame(np.bool_, "The last frame recorded."),
                "is_terminal": per_frame(np.bool_, "The world ended the episode: never so here."),
                "episode_id": tfds.features.Scalar(np.int64, doc="Number of the episode in its split."),
            }
        )
        # Episodes are independent already, and in order the n-th read is the n-th simulated.
        return self.dataset_info_from_configs(
            features=features, supervised_keys=None, disable_shuffling=True, homepage="https://arxiv.org/abs/2509.24527"
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.builder_config.num_episodes}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        length = config.variant.episode_length
        steps = np.arange(length)
        flags = {
            "is_first": steps == 0,
            "is_last": steps == length - 1,
            "is_terminal": np.zeros(length, bool),
        }
        for number, episode in enumerate(simulate(config.variant, SEEDS[split], config.num_episodes[split])):
            yield number, {**episode._asdict(), **flags, "episode_id": number}


@functools.partial(jax.jit, static_argnames="variant")
def _record(seed: jax.Array, numbers: jax.Array, variant: rules.Variant) -> rules.Episode:
    """The episodes `numbers` [N] of a split."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), numbers)
    return jax.vmap(lambda key: rules.record_episode(key, variant, variant.episode_length))(keys)


def simulate(variant: rules.Variant, seed: int, count: int) -> Iterator[rules.Episode]:
    """Yields `count` episodes as numpy arrays; the n-th depends on the variant, the seed and n alone."""
    for start in range(0, count, CHUNK):
        # Always whole chunks: one shape to compile.
        numbers = np.arange(start, start + CHUNK, dtype=np.uint32)
        chunk = jax.tree.map(np.asarray, _record(np.uint32(seed), numbers, variant))
        for row in range(min(CHUNK, count - start)):
            yield rules.Episode(*(leaf[row] for leaf in chunk))
