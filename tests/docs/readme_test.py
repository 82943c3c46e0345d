"""The README's own example trains, copied out as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

from trainer.writers import read_jsonl

README = Path(__file__).parents[2] / "README.md"


def test_the_task_in_the_readme_trains(tmp_path):
    (block,) = re.findall(r"```python\n(# next_frame.py\n.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "next_frame.py").write_text(block)
    command = re.search(r"^python (-m trainer --config=next_frame.py)$", README.read_text(), re.MULTILINE).group(1)
    environment = os.environ | {
        "TFDS_DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": str(README.parent),
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run(
        [sys.executable, *command.split(), "--config.compilation_cache="], cwd=tmp_path, env=environment, check=True
    )
    lines = read_jsonl(tmp_path / "logs" / "next-frame" / "metrics.jsonl")
    figures = {name: value for line in lines for name, value in line.items()}
    assert figures["eval/psnr"] > figures["eval/psnr_repeat_last"] + 3  # held-out episodes, in dB
    assert figures["eval/psnr"] > 27
