import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import scaling
from benchmarks.options import Options


def test_points_vary_one_thing_at_a_time():
    points = list(scaling.points(Options(preset="smoke"), 99))
    found = {axis: [p.value for p in points if p.axis == axis] for axis in scaling.LABELS}
    assert found == {
        "frames": [8, 16, 32, 64], "batch": [2, 4, 8], "width": [16, 32, 64], "window": [8, 16, 32, 64],
        "generation window": [16, 32, 64, 128], "devices": [1, 2, 4],
    }  # fmt: skip
    assert {p.rows for p in points if p.axis != "batch"} == {4}
    assert {p.overrides["data.length"] for p in points if p.axis == "window"} == {64}  # as long as the longest window


@pytest.mark.parametrize(("most", "kept"), [(1, [8, 64]), (2, [8, 64]), (3, [8, 32, 64]), (9, [8, 16, 32, 64])])
def test_fewer_points_still_span_an_axis(most, kept):
    assert scaling._few((8, 16, 32, 64), most) == kept


def test_results_are_stored_and_drawn_and_points_that_fail_left_out(monkeypatch, tmp_path, capsys):
    environments = []

    def apart(name, options, environment):
        environments.append(environment)
        keys = dict(options.overrides)
        if keys.get("data.length") == "64":
            return {name: {"error": "out of memory"}}
        return {"machine": {"cores": 2}, name: {"frames_per_s": 7.0, "peak_memory": 2**20 * options.rows, "devices": 2}}

    monkeypatch.setattr(scaling, "run_apart", apart)
    arguments = ["--preset=smoke", "--points=2", f"--json={tmp_path / 'scaling.json'}", f"--figures={tmp_path / 'new'}"]
    assert scaling.main(arguments) == 0
    stored = json.loads((tmp_path / "scaling.json").read_text())
    assert stored == json.loads(capsys.readouterr().out)
    assert (stored["machine"], stored["preset"]) == ({"cores": 2}, "smoke")
    assert [point.get("error") for point in stored["frames"]] == [None, "out of memory"]
    assert [point.get("error") for point in stored["devices"]] == [None, "there are only 2 devices"]
    assert "device_count=1" in environments[0]["XLA_FLAGS"]
    assert environments[0]["CUDA_VISIBLE_DEVICES"] == "0"
    assert "device_count=4" in environments[-1]["XLA_FLAGS"]
    picture = np.asarray(Image.open(tmp_path / "new" / "scaling.png"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
