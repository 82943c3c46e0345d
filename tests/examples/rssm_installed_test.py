"""The package as an installer leaves it beside Reverie, found from a folder that has nothing to do with either."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "rssm"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed packages: what pyproject.toml says, without its build backend, which may not be there."""
    folder = tmp_path_factory.mktemp("site")
    for pattern in _pyproject(ROOT)["tool"]["setuptools"]["packages"]["find"]["include"]:
        name = pattern.removesuffix("*")
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    pyproject = _pyproject(EXAMPLE)
    for package in pyproject["tool"]["setuptools"]["packages"]:
        path = Path(*package.split("."))
        (folder / path).mkdir()
        for file in (EXAMPLE / path).glob("*.py"):
            shutil.copy(file, folder / path)
    name, version = (pyproject["project"][key] for key in ("name", "version"))
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    text = ""
    for group, entries in pyproject["project"]["entry-points"].items():
        text += f"[{group}]\n" + "".join(f"{key} = {place}\n" for key, place in entries.items())
    (info / "entry_points.txt").write_text(text)
    return folder


def _pyproject(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())


@pytest.fixture
def python(site, tmp_path):
    """Runs Python in a folder of its own."""

    def run(*arguments, status=0):
        env = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    return run


def test_its_tasks_are_listed(python):
    listed = python("-m", "trainer", "--mode=list").splitlines()
    for name, about in {"rssm": "Learns to foresee frames, ", "rssm_behavior": "Learns a policy and its "}.items():
        lines = [line.split(maxsplit=1) for line in listed if line.strip().startswith(f"{name} ")]
        assert [words[1] for words in lines if words[1].startswith(about)], listed


def test_its_tasks_are_found_by_name_where_they_were_installed(python, site):
    code = "import json\nfrom trainer import plugins\ntasks = [plugins.resolve(name, 'tasks') for name in ({})]\n"
    code += "import sys\nprint(json.dumps([[task.__name__, sys.modules[task.__module__].__file__] for task in tasks]))"
    found = json.loads(python("-c", code.format("'rssm', 'rssm_behavior'")))
    places = {"RssmTask": "task.py", "RssmBehaviorTask": "behavior_task.py"}
    assert found == [[name, str(site / "reverie_rssm" / file)] for name, file in places.items()]


def test_its_configs_are_found_beside_the_trainer_and_name_each_other(python, site):
    command = "--config=reverie_rssm/configs/rssm_behavior.py:smoke", "--config.task.target=rssm_behavior"
    config = json.loads(python("-m", "trainer", *command, "--mode=print_config"))
    assert config["task"]["target"] == "rssm_behavior"
    path, preset = config["upstream"]["world"]["config"].rsplit(":", 1)
    assert (Path(path), preset) == (site / "reverie_rssm" / "configs" / "rssm.py", "smoke")


def test_a_config_names_its_tasks_by_entry_point(python):
    command = "--config=reverie_rssm/configs/rssm.py:smoke", "--config.task.target=rssm", "--config.task.free=-1"
    said = python("-m", "trainer", *command, "--mode=dry_run", status=1)
    assert said == "error: tasks (rssm): free must be 0 or more, got -1.0\n"  # the class itself says so
