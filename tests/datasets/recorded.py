"""Recordings whose pixels tell episode and step, and what became of them."""

import numpy as np

from datasets.pipeline import TfdsData

LENGTH = 7


def shade(episode, step):
    return 16 * episode + step


def arrays(episode=0, length=LENGTH, **changes):
    """What a good recording holds; the pixels tell episode and step."""
    values = shade(episode, np.arange(length))
    out = {
        "frames": np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (length, 8, 8, 3)),
        "actions": values % 5,
        "rewards": np.where(np.arange(length) > 0, values / 4, 0),
    }
    return {key: value for key, value in (out | changes).items() if value is not None}


def rows(tmp_path, split="train", **settings):
    """All episodes of a split, by the number that their pixels tell."""
    data = TfdsData(
        name="mine", data_dir=str(tmp_path / "out"), split=split, start="reset", shuffle=False, num_epochs=1,
        **{"batch_size": 1, "length": LENGTH} | settings,
    )  # fmt: skip
    return {round(batch["frames"][0, 0, 0, 0, 0] / 16): batch for batch in data.iterator(seed=0)}
