"""A folder of installed packages, and configs that use them."""

import shutil
from pathlib import Path

KINDS = {  # group: (name, where it is, a line about it)
    "tasks": {
        "acme_bare": ("acme.bare:Bare", "Fits a line, without any library."),
        "acme_linen": ("acme.linen_task:Linen", "Fits a sum with a flax linen network."),
    },
    "callbacks": {"acme_bell": ("acme.parts:Bell", "Rings a bell every few steps.")},
    "writers": {"acme_notebook": ("acme.parts:Notebook", "Writes scalars by hand into a notebook.")},
    "evaluators": {"acme_ruler": ("acme.parts:Ruler", "Measures how long held-out rows are.")},
    "data": {"acme_dice": ("acme.parts:Dice", "Throws dice.")},
    "optimizers": {"acme_sign": ("acme.parts:sign_descent", "Steps of one size, by the sign of the momentum.")},
}


def lay_out(folder, monkeypatch):
    """Installs acme below `folder`, makes a folder to work in the current one, and returns where packages are."""
    site = folder / "site"
    shutil.copytree(Path(__file__).with_name("acme"), site / "acme")
    monkeypatch.syspath_prepend(site)
    install(
        site, "acme", {group: {name: place for name, (place, _) in names.items()} for group, names in KINDS.items()}
    )
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")
    return site


def install(folder, name, entry_points):
    """Makes entry points known, as an installed package does."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = "".join(
        f"[trainer.{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in entry_points.items()
    )
    (info / "entry_points.txt").write_text(groups)


def config(kind, *tasks, without="nothing"):
    """Writes a config whose parts are all acme's, by name or by place; its presets are the tasks.

    Lines that have the text `without` are left out.
    """
    chosen = {
        name: place if kind == "place" else name for names in KINDS.values() for name, (place, _) in names.items()
    }
    lines = [
        "from trainer import base_config",
        f"PRESETS = {tuple(tasks)!r}",
        f"PARTS = {chosen!r}",
        "def get_config(preset):",
        "    config = base_config()",
        "    config.name, config.steps, config.log_every, config.compilation_cache = preset, 40, 20, ''",
        "    config.task = {'target': PARTS[preset]}",
        "    config.data = {'target': PARTS['acme_dice'], 'sides': 4}",
        "    config.eval_data = {'target': PARTS['acme_dice'], 'sides': 4}",
        "    config.optimizer.name, config.optimizer.learning_rate = PARTS['acme_sign'], 0.02",
        "    config.optimizer.options.momentum = 0.8",
        "    config.callbacks.bell = {'target': PARTS['acme_bell'], 'every': 4}",
        "    config.writers.notebook = {'target': PARTS['acme_notebook']}",
        "    config.evaluators.ruler = {'target': PARTS['acme_ruler']}",
        "    return config",
    ]
    Path(f"{kind}.py").write_text("".join(f"{line}\n" for line in lines if without not in line))
    return f"--config={kind}.py"
