"""Every code block of the READMEs and docs works: Python files as they stand, commands one after the other.

What takes minutes is run with the preset `smoke`. Nothing is fetched: of lines that install something it is checked
that what they name is there. The example, whose README begins with one, runs from copies of all that it would install,
and so does a package that a page describes, with the entry points of its `pyproject.toml`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from trainer.writers import read_jsonl

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "rssm"
PAGES = sorted([ROOT / "README.md", EXAMPLE / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The figure that a page's own task reaches, the one to compare with, and by how much it is better, in dB.
LEARNS = {"docs/plugins.md": ("pixels", "eval/psnr", "eval/psnr_repeat_last", 1.5)}
# Pages whose commands are for two machines, or take an hour: they are parsed, not run.
ELSEWHERE = ("--distributed=", "--config.mesh_shape=")


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(text):
    """The lines of a console block without comments."""
    joined = text.replace("\\\n", " ")
    return [line for line in (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines()) if line]


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())


def install_described(text, files, site):
    """Installs the package that a page's `pyproject.toml` describes, of the page's Python files."""
    described = tomllib.loads(text)
    name, version, groups = (described["project"][key] for key in ("name", "version", "entry-points"))
    (package,) = described["tool"]["setuptools"]["packages"]
    (site / package).mkdir()
    (site / package / "__init__.py").touch()
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{key} = {place}" for key, place in entries.items())]
        for place in entries.values():
            folder, _, module = place.partition(":")[0].partition(".")
            assert folder == package
            shutil.copy(files / f"{module}.py", site / package)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("\n".join(lines))


def save_robot(folder):
    """Recordings of the kind that `docs/your_data.md` speaks of."""
    (folder / "robot_recordings").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        arrays = {"frames": rng.integers(0, 256, (40, 32, 32, 3), np.uint8)}
        arrays |= {"actions/move": rng.normal(size=(40, 2)), "actions/grip": rng.integers(0, 2, 40)}
        np.savez(folder / "robot_recordings" / f"{number}.npz", **arrays)


def install(site):
    """Copies what `pip install . ./examples/rssm` would install, as the two `pyproject.toml` say."""
    for pattern in project(ROOT)["tool"]["setuptools"]["packages"]["find"]["include"]:
        for package in ROOT.glob(pattern):
            shutil.copytree(package, site / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for package in project(EXAMPLE)["tool"]["setuptools"]["packages"]:
        (site / package.replace(".", "/")).mkdir()
        for module in (EXAMPLE / package.replace(".", "/")).glob("*.py"):
            shutil.copy(module, site / package.replace(".", "/"))


def start(words, folder, home, packages, timeout=600):
    environment = {
        **os.environ, "TFDS_DATA_DIR": str(home / "data"), "JAX_PLATFORMS": "cpu", "HOME": str(home),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "SDL_VIDEODRIVER": "dummy",
        "PYTHONPATH": os.pathsep.join(map(str, [folder, *packages])),
    }  # fmt: skip
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def run_python(words, folder, home, packages):
    """A command that begins with `python`; presets that take minutes are replaced by `smoke`."""
    words = [sys.executable, *words[1:]]
    words = [re.sub(r"^(--config=(?:\w+/)*configs/\w+\.py)(:\w+)?$", r"\1:smoke", word) for word in words]
    if any(word.startswith(ELSEWHERE) for word in words):
        words = [word for word in words if not word.startswith("--distributed")] + ["--mode=print_config"]
    done = start(words, folder, home, packages)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def test_all_kinds_of_blocks_are_known():
    kinds = {kind for page in PAGES for kind, _ in blocks(page)}
    assert kinds <= {"", "python", "console", "toml"}  # without a name: a picture in letters
    assert sum(len(blocks(page)) for page in PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_work_in_their_order(page, tmp_path, programs):
    home, folder, site = tmp_path / "home", tmp_path / "work", tmp_path / "site"
    for made in (home / ".cache" / "reverie", folder, site):
        made.mkdir(parents=True)
    (home / ".cache" / "reverie" / "xla").symlink_to(programs)  # pages train the same things
    packages = [ROOT, site]
    if page.parent == EXAMPLE:
        install(site)
        packages = [site]
    if page.name == "your_data.md":
        save_robot(folder)
    for kind, text in blocks(page):
        if kind == "python":
            first = text.splitlines()[0]
            assert re.fullmatch(r"# \w+\.py", first), f"a Python block begins with its file's name, not {first!r}"
            (folder / first[2:]).write_text(text, encoding="utf-8")
            compile(text, first, "exec")
        elif kind == "toml":
            assert text.startswith("# pyproject.toml\n")
            install_described(text, folder, site)
        elif kind == "console":
            for line in commands(text):
                for part in re.split(r"\s*(?:&&|\|\|)\s*", line):
                    check(shlex.split(part), folder, home, packages)
    if learns := LEARNS.get(page.relative_to(ROOT).as_posix()):
        run, figure, reference, better = learns
        figures = {
            name: value for line in read_jsonl(folder / "logs" / run / "metrics.jsonl") for name, value in line.items()
        }
        assert figures[figure] > figures[reference] + better, figures


def check(words, folder, home, packages):
    """Runs a command, or, where it installs or takes an hour, what can be known of it at once."""
    if words[0] in ("python", ".venv/bin/python"):
        run_python(words, folder, home, packages)
    elif words[0] == "make":
        assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=False).returncode == 0
    elif "install" in words:
        check_install(words[words.index("install") + 1 :], packages[-1])
    else:
        assert words[0] in ("python3", "uv", "touch", "cd", "pip"), words
        assert shutil.which(words[0]) or words[0] in ("uv", "cd")


def check_install(words, site):
    """What is to be installed is there: folders with these extras, files of constraints, packages of the page's own."""
    before = ["", *words]
    for option, word in zip(before, words, strict=False):
        if option in ("-c", "--constraint"):
            assert (ROOT / word).is_file(), word
        elif not word.startswith("-"):
            place, _, extras = word.rstrip("]").partition("[")
            if list(site.glob(f"{place.removeprefix('./')}-*.dist-info")):
                continue
            found = project(ROOT / place if place.startswith(".") else ROOT)["project"]
            assert place.startswith(".") or place == found["name"], word
            assert not extras or extras in found["optional-dependencies"], word


def test_a_task_of_ones_own_takes_less_than_60_lines():
    code = next(text for kind, text in blocks(ROOT / "docs" / "plugins.md") if kind == "python")
    assert len([line for line in code.splitlines() if line.strip()]) < 60
