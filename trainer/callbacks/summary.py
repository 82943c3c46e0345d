"""Shows at the start what is trained."""

import dataclasses
from typing import ClassVar

import jax
from clu import parameter_overview

from trainer.callbacks.base import Callback, Run
from trainer.errors import ConfigError
from trainer.sharding import path_name
from trainer.writers.console import say


@dataclasses.dataclass(kw_only=True)
class Summary(Callback):
    """Prints a table of the parameters.

    Attributes:
      max_lines: rows of the table; the total counts all parameters.
    """

    order: int = -50
    everywhere: ClassVar[bool] = False
    max_lines: int = 60

    def __post_init__(self) -> None:
        if self.max_lines < 1:
            raise ConfigError(f"Summary: max_lines={self.max_lines} must be at least 1.")

    def on_fit_start(self, run: Run) -> None:
        """Prints the table, and writes it as text where the run is new."""
        if jax.process_index() != 0:
            return
        table = parameters_table(run.state.params, max_lines=self.max_lines)
        for name, frozen in run.frozen.items():
            table += f"\nfrozen {name}: {parameter_overview.count_parameters(_by_path(frozen)):,} parameters"
        for line in table.splitlines():
            say(line)
        if run.step == 0:
            run.writer.write_texts(0, {"parameters": f"```\n{table}\n```"})


def parameters_table(params: object, max_lines: int = 60) -> str:
    """The table of parameters: name, shape, dtype, size; works on any pytree of arrays or their shapes."""
    return parameter_overview.get_parameter_overview(_by_path(params), include_stats=False, max_lines=max_lines)


def _by_path(tree: object) -> dict[str, object]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
