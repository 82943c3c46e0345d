import ast
from pathlib import Path

import pytest

import trainer

ROOT = Path(__file__).parent.parent.parent
ALLOWED = {
    "trainer": {"trainer"},
    "models": {"models"},
    "datasets": {"datasets"},
    "tasks": {"trainer", "models", "datasets", "tasks"},
    "configs": {"trainer", "configs"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_down_only(package):
    for path in (ROOT / package).rglob("*.py"):
        above = (imported(path) & ALLOWED.keys()) - ALLOWED[package]
        assert not above, f"{path} imports {above}"


def test_every_public_name_is_there():
    for name in trainer.__all__:
        assert getattr(trainer, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        trainer.nothing  # noqa: B018
