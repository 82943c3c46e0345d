"""Fields that several configs share, each with its default, so that all of them can be set from the command line."""

from typing import Any

from ml_collections.config_dict import placeholder


def transformer(**sizes: Any) -> dict[str, Any]:
    """Every field of `models.transformer.TransformerConfig`."""
    defaults = {"heads": 4, "kv_heads": placeholder(int), "mlp_ratio": 4.0, "soft_cap": 50.0}
    return defaults | sizes


def episodes(preset: str) -> dict[str, Any]:
    """Every field of `datasets.pipeline.TfdsData` that is worth changing; the bouncing square by default."""
    return {
        "target": "datasets.pipeline:TfdsData",
        "name": "bouncing_square/tiny" if preset == "smoke" else "bouncing_square/reference",
        "data_dir": placeholder(str),
        "split": "train",
        "batch_size": 16,
        "length": 64,
        "short_length": placeholder(int),
        "short_batch_size": placeholder(int),
        "long_every": 2,
        "independent_share": 0.0,
        "unlabelled_share": 0.0,
        "start": "any",
        "shuffle": True,
        "num_epochs": placeholder(int),
        "keys": {},
        "cache": True,
    }


def held_out(preset: str) -> dict[str, Any]:
    """The first 64 frames of the validation episodes, in order."""
    return episodes(preset) | {"split": "validation", "start": "reset", "shuffle": False, "num_epochs": 1}


def environment() -> dict[str, Any]:
    """The environment that the bouncing square's episodes were recorded in."""
    return {"target": "bouncing_square", "variant": "reference"}
