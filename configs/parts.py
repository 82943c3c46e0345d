"""Fields that several configs share, each with its default, so that all of them can be set from the command line."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

IMAGE = (384, 640, 3)  # of the paper's Minecraft videos, height and width in multiples of its patches of 16

# The presets with this project's own model and objective; the others follow what was published but for what
# docs/design.md says of all presets.
OWN = ("cpu", "smoke", "gpu")

# What preset `cpu` encodes once, before phase 2, for the three phases that learn from latents.
ENCODED = "train[:6000]"

# Fully sharded: every large array is split over `fsdp`, along the first dimension that divides evenly.
SHARDED = (
    (r"(patch_position|latent_tokens|latent_position|patch_queries|spatial_position)$", (None, "fsdp")),
    (r"(latent_in|spatial_in)/kernel$", (None, "fsdp")),
    (r"kernel$", ("fsdp",)),
)


def transformer(**sizes: Any) -> dict[str, Any]:
    """Every field of `models.transformer.TransformerConfig`."""
    defaults = {"heads": 4, "kv_heads": placeholder(int), "mlp_ratio": 4.0, "soft_cap": 50.0}
    defaults |= {"qk_norm": True, "time_offset": placeholder(int)}
    defaults |= {"remat": False, "space_frames": placeholder(int), "scan": False}
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
        "skip_short": False,
        "start": "any",
        "reset_share": 0.0,
        "shuffle": True,
        "num_epochs": placeholder(int),
        "keys": {},
        "alignment": placeholder(str),
        "cache": True,
    }


def described(**sizes: Any) -> dict[str, Any]:
    """Every field of `datasets.described.Described`: Minecraft's frames and actions, 256 rows."""
    defaults = {"target": "datasets.described:Described", "batch_size": 256, "image": IMAGE}
    return defaults | {"actions": {"keys": 23, "mouse": 0}} | sizes


def held_out(preset: str, data: ConfigDict | None = None) -> dict[str, Any]:
    """The first 64 frames of the validation episodes, in order.

    What `data` is called, where it lies and how it is read hold for them too, unless told otherwise; `keys` always.
    """
    same: dict[str, Any] = {}
    if data is not None:
        same = {field: data.get_oneway_ref(field) for field in ("name", "data_dir", "alignment")}
        same["keys"] = data["keys"]
    return episodes(preset) | same | {"split": "validation", "start": "reset", "shuffle": False, "num_epochs": 1}


def environment() -> dict[str, Any]:
    """The environment that the bouncing square's episodes were recorded in."""
    return {"target": "bouncing_square", "variant": placeholder(str)}  # "reference", as it is by default
