import itertools
import time

import pytest

from benchmarks import startup, trainer_overhead
from benchmarks.startup import FirstStep
from benchmarks.table import table
from trainer import experiment
from trainer.config import base_config
from trainer.errors import UserError


@pytest.mark.parametrize("first_guess_s", [1e-6, 1e-4, 5e-3])
def test_the_long_step_is_calibrated_until_it_is_as_long_as_wanted(monkeypatch, first_guess_s):
    """Where starting a step costs time, too, one trial does not tell; now and then others take the processor."""
    disturbed = itertools.cycle([1, 1, 4, 1, 1])

    def bare(products, steps):
        return (2e-3 + products * first_guess_s) * next(disturbed)

    monkeypatch.setattr(trainer_overhead, "_bare", bare)
    assert 2e-3 + trainer_overhead._calibrated() * first_guess_s == pytest.approx(0.02, rel=0.2)


def test_a_result_says_where_that_was_in_vain(monkeypatch):
    monkeypatch.setattr(trainer_overhead, "_bare", lambda products, steps: 0.5)
    monkeypatch.setattr(trainer_overhead, "_fitted", lambda products, steps: 0.75)
    found = trainer_overhead.measure(None)
    assert not found["calibrated"]
    assert (found["overhead_share_of_long_step"], found["overhead_us"]) == (0.5, 250_000)


def test_the_first_step_is_written_down_and_ends_the_run(tmp_path):
    config = base_config()
    config.name, config.steps, config.compilation_cache = "first", 1000, ""
    config.task = {"target": "benchmarks.trainer_overhead:Work", "products": 1}
    config.data = {"target": "benchmarks.trainer_overhead:Zeros"}
    file = tmp_path / "done"
    config.callbacks = {"first_step": {"target": f"{FirstStep.__module__}:FirstStep", "file": str(file)}}
    began = time.time()
    assert experiment.run(config, tmp_path / "run").step == 1
    assert began < float(file.read_text()) < time.time()


def test_a_start_that_fails_is_told_with_its_last_line():
    with pytest.raises(UserError, match="ended with 3: no such thing"):
        startup._python("-c", "import sys; print('a\\nno such thing', file=sys.stderr); sys.exit(3)")


def test_the_table_has_a_row_for_each_and_errors_below():
    results = {
        "a": {
            "batch": [8, 64], "frames_per_s": 1234.5, "step_s": 0.0123, "first_step_s": 12.3, "utilization": 0.357,
            "peak_memory": 3 * 2**29, "roofline": {"roofline_step_s": 45e-6, "reached": 0.5},
        },
        "longer": {"error": "too large"},
    }  # fmt: skip
    assert table(results).splitlines()[1:] == [
        "a          8 × 64     1,234  12.3 ms      12.3 s       35.7 %      1.5 GiB     45 µs   50.0 %",
        "longer          -         -        -           -            -            -         -        -",
        "longer: too large",
    ]
