import subprocess
import sys

import pytest

from trainer.errors import UserError
from trainer.lock import lock_folder

HOLD = """
import sys
from pathlib import Path
from trainer.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"pid {process.pid}.*--workdir"), lock_folder(tmp_path):
            pass
        process.kill()
    with lock_folder(tmp_path):
        pass
