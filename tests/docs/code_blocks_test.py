"""Every code block of README and docs works: Python files as they stand, commands one after the other."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages whose commands are for two machines, or take an hour: they are parsed, not run.
ELSEWHERE = ("--distributed=", "--config.mesh_shape=")


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(text):
    """The lines of a console block without comments."""
    joined = text.replace("\\\n", " ")
    return [line for line in (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines()) if line]


def start(words, folder, home, timeout=600):
    environment = {
        **os.environ, "TFDS_DATA_DIR": str(home / "data"), "JAX_PLATFORMS": "cpu", "HOME": str(home),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "SDL_VIDEODRIVER": "dummy",
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
    }  # fmt: skip
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def run_python(words, folder, home):
    """A command that begins with `python`; presets that take minutes are replaced by `smoke`."""
    words = [sys.executable, *words[1:]]
    words = [re.sub(r"^(--config=configs/\w+\.py)(:\w+)?$", r"\1:smoke", word) for word in words]
    if any(word.startswith(ELSEWHERE) for word in words):
        words = [word for word in words if not word.startswith("--distributed")] + ["--mode=print_config"]
    done = start(words, folder, home)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def test_all_kinds_of_blocks_are_known():
    kinds = {kind for page in PAGES for kind, _ in blocks(page)}
    assert kinds <= {"", "python", "console", "toml"}  # without a name: a picture in letters
    assert sum(len(blocks(page)) for page in PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_work_in_their_order(page, tmp_path):
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    for kind, text in blocks(page):
        if kind == "python":
            first = text.splitlines()[0]
            assert re.fullmatch(r"# \w+\.py", first), f"a Python block begins with its file's name, not {first!r}"
            (folder / first[2:]).write_text(text, encoding="utf-8")
            compile(text, first, "exec")
        elif kind == "toml":
            assert "entry-points" in tomllib.loads(text)["project"]
        elif kind == "console":
            for line in commands(text):
                for part in re.split(r"\s*(?:&&|\|\|)\s*", line):
                    check(shlex.split(part), folder, home)


def check(words, folder, home):
    """Runs a command, or, where it installs or takes an hour, what can be known of it at once."""
    if words[0] in ("python", ".venv/bin/python"):
        run_python(words, folder, home)
    elif words[0] == "make":
        assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=False).returncode == 0
    elif "install" in words:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in words:
            for extra in re.findall(r"\[(\w+)\]", word):
                assert extra in extras, word
        assert ("constraints.txt" in words) <= (ROOT / "constraints.txt").exists()
    else:
        assert words[0] in ("python3", "uv", "touch", "cd", "pip"), words
        assert shutil.which(words[0]) or words[0] in ("uv", "cd")


def test_a_task_of_ones_own_takes_less_than_60_lines():
    code = next(text for kind, text in blocks(ROOT / "docs" / "plugins.md") if kind == "python")
    assert len([line for line in code.splitlines() if line.strip()]) < 60
