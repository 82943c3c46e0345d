"""What there is to choose from, with a line for each; found in the sources, as importing them would take seconds."""

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from trainer import plugins
from trainer.config import config_paths

UNDESCRIBED = "(not described)"


def listing() -> str:
    """All plugins, what tasks evaluate by themselves, and all configs."""
    blocks = {}
    for group in plugins.groups():
        names = sorted(plugins.available(group).items())
        blocks[f"{group} (trainer.{group})"] = [
            *_table({name: describe(place) for name, place in names}),
            *(f"  ! {problem}" for name, _ in names if (problem := plugins.clash(name, group))),
        ]
    tasks = sorted(plugins.available("tasks").items())
    own = {name: describe(f"{place}.evaluators") for name, place in tasks}
    own = {name: about for name, about in own.items() if about != UNDESCRIBED}
    blocks["what tasks evaluate by themselves"] = _table(own)
    blocks["configs"] = _table({name: _first_line(_parsed(path)) for name, path in sorted(config_paths().items())})
    return "\n\n".join("\n".join([f"{title}:", *lines]) for title, lines in blocks.items())


def describe(target: str, depth: int = 3) -> str:
    """The first line of the docstring of `module:Class`.

    Args:
      target: where it is, or where it is imported by that name from elsewhere; `module:Class.method` for a method that
        the class itself defines.
      depth: how many such imports are followed.
    """
    module_name, _, name = target.partition(":")
    name, dot, method = name.partition(".")
    top, *rest = module_name.split(".")
    try:
        # Only the top package is looked up: finding `a.b` would import `a`.
        top_spec = importlib.util.find_spec(top)
        if top_spec is None:
            return f"(there is no package {top!r})"
        path = Path(top_spec.origin or "").parent.joinpath(*rest) if rest else Path(top_spec.origin or "")
        path = next((p for p in (path.with_suffix(".py"), path / "__init__.py", path) if p.is_file()), path)
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
                return _first_line(methods.get(method) if method else node)
            if isinstance(node, ast.ImportFrom) and node.module and not node.level and depth:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return describe(f"{node.module}:{alias.name}{dot}{method}", depth - 1)
    except (ImportError, OSError, SyntaxError, ValueError):
        pass
    return UNDESCRIBED


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_line(node: ast.Module | ast.ClassDef | ast.FunctionDef | None) -> str:
    return ((node and ast.get_docstring(node)) or UNDESCRIBED).splitlines()[0]


def _table(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {about}" for name, about in rows.items()] or ["  (none)"]
