"""A few hand-made episodes; a test changes what is in them."""

import numpy as np
import tensorflow_datasets as tfds

# What a test changes.
EPISODES = 6
BRIGHTER = 0
FEATURES: dict[str, type] = {}


class Builder(tfds.core.GeneratorBasedBuilder):
    """Grey frames."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        frames = tfds.features.Tensor(shape=(None, 4, 4, 3), dtype=np.uint8)
        more = {name: tfds.features.Tensor(shape=(None,), dtype=dtype) for name, dtype in FEATURES.items()}
        features = tfds.features.FeaturesDict({"frames": frames, **more})
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for episode in range(EPISODES):
            frames = np.full((8, 4, 4, 3), 10 * episode + (BRIGHTER if episode == 3 else 0), np.uint8)
            yield episode, {"frames": frames, **{name: np.zeros(8, dtype) for name, dtype in FEATURES.items()}}
