"""A run whose config was stored by an older version of the code: new fields do not matter, lost ones are named."""

import json

import pytest
from fault_runs import CONFIG, FIRST, contents, error, result

STORED = f"--config={FIRST}/config.json"


def change(run, edit):
    """Edits the stored config as another version would have written it."""
    path = run / "config.json"
    stored = json.loads(path.read_text())
    assert stored["version"] != "0.0.1"
    stored["version"] = "0.0.1"
    edit(stored["config"])
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize("command", [CONFIG, STORED])
def test_a_run_continues_where_the_code_has_gained_fields_since(runs, half, undisturbed, command):
    def edit(config):
        for field in ("on_save_error", "sanity_eval", "keep_every", "precision", "accumulate", "limit_train_batches"):
            del config[field]
        del config["optimizer"]["eps"], config["task"]["bad_loss"], config["data"]["bad"]

    change(half, edit)
    assert "continues at step 10" in runs.run(command).printed
    assert result(half) == undisturbed


@pytest.mark.parametrize("command", [CONFIG, STORED])
@pytest.mark.parametrize("group", ["", "optimizer"])
def test_a_field_that_no_longer_exists_is_named_with_the_way_out_and_nothing_is_changed(runs, half, group, command):
    change(half, lambda config: (config[group] if group else config).update(bygone=3))
    before = contents(runs.folder)
    message = error(runs.run(command, code=1))
    assert f"{FIRST}/config.json" in message
    assert f"'{group}.bygone'" in message or "'bygone'" in message
    assert "remove" in message.lower() or "version" in message.lower(), f"says nothing of a way out: {message}"
    assert contents(runs.folder) == before


@pytest.mark.parametrize("command", [CONFIG, STORED])
def test_an_argument_that_a_part_no_longer_takes_is_named_and_nothing_is_changed(runs, half, command):
    change(half, lambda config: config["task"].update(bygone=3))
    before = contents(runs.folder)
    message = error(runs.run(command, code=1), lines=5)
    assert ("task.bygone: 3 → (absent)" if command == CONFIG else "takes no argument 'bygone'") in message
    assert contents(runs.folder) == before
