"""Several devices share the work of a step: what each of them holds becomes less, and gradients are summed."""

import json
import os
import subprocess
import sys

import pytest
from chain_runs import ROOT


def dry_run(home, workspace, phase, devices):
    """What a step of eight rows needs on each of so many devices."""
    command = [
        sys.executable, "-m", "trainer", f"--config=configs/{phase}.py:smoke", "--config.data.batch_size=8",
        "--config.compilation_cache=", "--mode=dry_run", f"--simulated_devices={devices}",
    ]  # fmt: skip
    environment = {**os.environ, "TFDS_DATA_DIR": str(home.data), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=workspace, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("phase", ["dynamics", "heads"])  # those that draw rows at random
def test_rows_that_a_task_selects_are_shared_out(phase, home, workspace):
    alone, shared = (dry_run(home, workspace, phase, devices) for devices in (1, 4))
    assert shared["memory_bytes"]["temp"] < 0.4 * alone["memory_bytes"]["temp"]
    assert shared["collectives"]["all-reduce"]["bytes"] >= 4 * shared["parameters"]
