"""What tasks and evaluators ask of batches."""

from collections.abc import Iterable, Iterator

from trainer.errors import ConfigError
from trainer.task import Batch


def rows_and_frames(batch: Batch) -> tuple[int, int]:
    """B and T of a batch with frames or their latents."""
    return batch["latents" if "latents" in batch else "frames"].shape[:2]


def first_rows(batches: Iterable[Batch], rows: int) -> Iterator[tuple[int, Batch, int]]:
    """Batches, until `rows` rows are had: each with its number and how many of its rows count, the first ones."""
    left = rows
    for index, batch in enumerate(batches):
        take = min(rows_and_frames(batch)[0], left)
        yield index, batch, take
        left -= take
        if not left:
            return


def require_features(example: Batch, names: Iterable[str], group: str, use: str) -> None:
    """Raises ConfigError where batches of the config's `group` (data, eval_data) lack one of the features.

    Args:
      example: a batch.
      names: of features, as tasks know them.
      group: whose batch it is.
      use: what needs them, as the beginning of the message.
    """
    for name in names:
        if name not in example:
            raise ConfigError(
                f"{use}, and {group} has no {name}. Name the feature that holds them, as in "
                f"--config.{group}.keys.{name}=FEATURE, or other data."
            )
