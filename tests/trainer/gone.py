"""The world models are gone: none of their packages can be imported."""

import os
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("tasks", "models", "datasets", "configs")


class Gone:
    """For `sys.meta_path`: refuses the packages that the trainer must do without."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def python_path(*folders: Path) -> str:
    """`PYTHONPATH` for a process that must do without them, too."""
    return os.pathsep.join(map(str, (HERE / "alone", *folders)))
