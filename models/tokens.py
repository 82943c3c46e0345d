"""Token layouts: where a modality's tokens lie in a frame's sequence, in the plane, and who may see whom."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """The tokens of one frame, modality after modality.

    Attributes:
      sizes: tokens of each modality, in order.
      sees: the modalities that each modality attends to.
      grids: rows and columns of the modalities whose tokens lie on a grid in the image; others lie at its centre.
    """

    sizes: Mapping[str, int]
    sees: Mapping[str, Sequence[str]]
    grids: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for modality in self.sizes:
            sees = self.sees.get(modality)
            if sees is None or isinstance(sees, str) or modality not in sees or not set(sees) <= set(self.sizes):
                raise ValueError(
                    f"{modality!r} should see a tuple of modalities, itself among them, out of {list(self.sizes)}; "
                    f"got {sees!r}"
                )

    def slice(self, modality: str) -> slice:
        """Where the tokens of `modality` are."""
        names = list(self.sizes)
        start = sum(self.sizes[name] for name in names[: names.index(modality)])
        return slice(start, start + self.sizes[modality])

    def routing(self) -> np.ndarray:
        """The mask [S, S] of space attention (True: the row's token sees the column's)."""
        modality = np.repeat(list(self.sizes), list(self.sizes.values()))
        return np.array([[other in self.sees[own] for other in modality] for own in modality])

    def coordinates(self, extent: float = 8.0) -> np.ndarray:
        """Places [S, 2] of the tokens in an image that spans [-extent/2, extent/2]²."""
        places = [grid(*self.grids[m], extent) if m in self.grids else np.zeros((n, 2)) for m, n in self.sizes.items()]
        return np.concatenate(places).astype(np.float32)


def grid(rows: int, columns: int, extent: float = 8.0) -> np.ndarray:
    """Centres [rows * columns, 2] of a grid's cells, row by row."""
    y = (np.arange(rows) + 0.5) / rows - 0.5
    x = (np.arange(columns) + 0.5) / columns - 0.5
    return extent * np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def grid_shape(tokens: int) -> tuple[int, int]:
    """The most nearly square grid with `tokens` cells, no wider than high: 16 → 4 × 4, 8 → 4 × 2."""
    columns = int(tokens**0.5)
    while tokens % columns:
        columns -= 1
    return tokens // columns, columns


def packed_grid_shape(tokens: int, packing: int) -> tuple[int, int]:
    """The grid of tokens that each join `packing` neighbours in a row of `grid_shape(tokens)`.

    Where rows do not divide, the packed tokens have no place of their own: (tokens / packing, 1).
    """
    rows, columns = grid_shape(tokens)
    return (tokens // packing, 1) if columns % packing else (rows, columns // packing)
