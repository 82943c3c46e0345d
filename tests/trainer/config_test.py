import re
from pathlib import Path

import pytest

from trainer.config import SCHEMA, base_config, config_files, load_config, read_json
from trainer.config_json import NEUTRAL
from trainer.errors import ConfigError


def test_a_damaged_json_is_reported(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        read_json(tmp_path / "config.json")


def test_every_field_is_described_and_has_a_default():
    assert set(base_config()) == set(SCHEMA)
    assert all(doc for _, doc in SCHEMA.values())


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("config.stpes = 3", ["sets 'stpes'", "Did you mean 'steps'"]),
        ("config.optimizer = {'lr': 1.0}", ["sets 'optimizer.lr'", "Fields of optimizer"]),
        ("config.optimizer = {'learning_rate': 'x'}", ["optimizer.learning_rate = 'x'", "expected a number"]),
        ("config.steps = 'x'", ["line 6", "steps"]),
        ("config.steps = undefined", ["line 6", "NameError", "undefined"]),
        ("config.callbacks = {'a': {'targt': 'x'}}", ["callbacks.a", "'target'"]),
        ("config.upstream = {'a': {'run': 'x', 'cfg': 'y'}}", ["'upstream.a.cfg'", "config, run"]),
        ("return 3", ["returned int", "ConfigDict"]),
        ("config = )", ["line 6", "SyntaxError"]),
    ],
)
def test_an_error_in_a_config_file_is_one_line_with_its_place(tmp_path, monkeypatch, body, parts):
    monkeypatch.chdir(tmp_path)
    lines = ["from trainer.config import base_config", "PRESETS = ('a', 'b')", "", "def get_config(preset):"]
    (tmp_path / "bad.py").write_text(
        "\n".join([*lines, "    config = base_config()", f"    {body}", "    return config"])
    )
    with pytest.raises(ConfigError) as e:
        load_config("bad.py:b")
    assert all(part in str(e.value) for part in ["bad.py", *parts]), e.value
    assert "\n" not in str(e.value)


def test_configs_are_found_from_any_folder_and_presets_are_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    text = "from trainer.config import base_config\nPRESETS = ('cpu', 'smoke')\nDEFAULT_PRESET = 'smoke'\n"
    (tmp_path / "configs" / "mine.py").write_text(
        text + "def get_config(preset):\n    c = base_config()\n    c.name = preset\n    return c\n"
    )
    (tmp_path / "configs" / "helper.py").write_text("PRESETS = ()\n")
    assert "configs/mine.py" in config_files()
    assert "configs/helper.py" not in config_files()
    assert load_config("configs/mine.py").name == "smoke"
    assert load_config("configs/mine.py:cpu").name == "cpu"
    assert load_config(f"{tmp_path}/configs/mine.py:cpu").name == "cpu"
    with pytest.raises(ConfigError, match=r"no preset 'cpuu'. Did you mean 'cpu'\? Presets: cpu, smoke"):
        load_config("configs/mine.py:cpuu")
    with pytest.raises(ConfigError, match=r"no config 'configs/mein.py'.*Did you mean 'configs/mine.py'"):
        load_config("configs/mein.py")
    with pytest.raises(ConfigError, match=r"'mine' is no config: expected PATH.py"):
        load_config("mine")


def test_the_manual_names_all_fields_that_may_change():
    page = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
    said = re.search(r"may change between two starts: (.*?)\. ", page, re.DOTALL).group(1)
    assert set(re.findall(r"`([a-z_]+)`", said)) == set(NEUTRAL)
