"""Folders of data sets that were never finished: removed where their process is surely dead, else told."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from datasets import unfinished

WRITER = """
import sys, time
from pathlib import Path
from datasets import unfinished
with unfinished.folder(Path(sys.argv[1]), "big") as path:
    Path(path, "half").write_text("")
    print(path, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes the data set `big`, and its folder."""
    root = Path(unfinished.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_kept(writer, tmp_path, capsys):
    process, path = writer
    unfinished.clear(tmp_path, "big")
    assert (path / "half").is_file()
    assert capsys.readouterr().err == ""
    process.send_signal(signal.SIGKILL)
    process.wait()
    unfinished.clear(tmp_path, "bigger")
    assert (path / "half").is_file()
    unfinished.clear(tmp_path, "big")
    assert capsys.readouterr().err == f"note: removed {path}, which a killed process left\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", [None, f"not-{socket.gethostname()}"])
def test_what_may_belong_to_a_living_process_is_told_with_the_command_that_removes_it(tmp_path, capsys, host):
    path = tmp_path / ".big-incomplete-abc def"
    path.mkdir()
    if host is not None:
        (path / "lock").write_text(host)
    unfinished.clear(tmp_path, "big")
    assert capsys.readouterr().err.endswith(f"remove it: rm -r '{path}'\n")
    assert path.is_dir()


def test_links_and_files_of_such_a_name_are_left_alone(tmp_path, capsys):
    (tmp_path / "dear").mkdir()
    (tmp_path / ".big-incomplete-link").symlink_to(tmp_path / "dear")
    (tmp_path / ".big-incomplete-file").write_text("")
    unfinished.clear(tmp_path, "big")
    assert len(list(tmp_path.iterdir())) == 3
    assert capsys.readouterr().err == ""
