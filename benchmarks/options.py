"""`Options`: what is measured, as the command line says it."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark gets.

    Attributes:
      preset: of the configs.
      batch: rows of a batch; None for the default, see `rows`.
      seconds: how long a thing is timed, about.
      overrides: (KEY, TEXT) of the config that is measured; those it builds on stay as they are.
    """

    preset: str = "reference"
    batch: int | None = None
    seconds: float = 10.0
    overrides: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> int | None:
        """Rows of a batch: 8 at the reference sizes unless told otherwise; None for the config's own."""
        return self.batch or (8 if self.preset == "reference" else None)
