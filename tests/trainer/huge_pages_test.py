"""The command line asks for large pages by starting itself anew, once and with the same arguments."""

import os
import subprocess
import sys

import pytest

from trainer import huge_pages

PROGRAM = """
import os, sys
from trainer.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""


def start(tunables):
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-c", PROGRAM, "--a=b c", "ö"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        pid, rest = process.communicate()[0].strip().split(" ", 1)
    assert (process.returncode, int(pid)) == (0, process.pid)
    return rest


@pytest.mark.skipif(not huge_pages._would_help(), reason="this system does not give large pages to those who ask")
def test_a_program_restarts_in_the_same_process_with_the_same_arguments():
    arguments = "['--a=b c', 'ö']"
    assert huge_pages.TUNABLES.startswith("glibc.malloc.hugetlb=1:")
    assert start("") == f"{huge_pages.TUNABLES} {arguments}"
    assert start("glibc.malloc.arena_max=2") == f"{huge_pages.TUNABLES}:glibc.malloc.arena_max=2 {arguments}"
    assert start("glibc.malloc.hugetlb=0") == f"glibc.malloc.hugetlb=0 {arguments}"  # switched off


FAULTS = """
import resource, sys
import numpy as np
from trainer.huge_pages import keep_if_small
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
exec(sys.argv[1])
print(faults())
"""


def faults(tunables, before):
    """How often half a gigabyte, 2 MiB at a time, was not there when it was touched, after the program `before`."""
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    return int(subprocess.check_output([sys.executable, "-c", FAULTS, before], env=environment, text=True))


@pytest.mark.skipif(not huge_pages._would_help(), reason="this system does not give large pages to those who ask")
def test_memory_that_was_freed_is_had_again_without_a_fault():
    assert faults("glibc.malloc.hugetlb=1", "faults()") > 100
    assert faults(huge_pages.TUNABLES, "faults()") < 10


@pytest.mark.skipif(not huge_pages._would_help(), reason="this system does not give large pages to those who ask")
def test_the_memory_of_large_steps_goes_back_to_the_kernel():
    assert faults(huge_pages.TUNABLES, "keep_if_small(2**60); faults()") > 100
    assert faults(huge_pages.TUNABLES, "keep_if_small(2**20); faults()") < 10
    assert faults(huge_pages.TUNABLES, "faults(); keep_if_small(2**60)") < 10  # what is kept already


@pytest.mark.parametrize(
    ("system", "libc", "kernel", "helps"),
    [
        ("linux", ("glibc", "2.36"), "always [madvise] never", True),
        ("linux", ("glibc", "2.36"), "[always] madvise never", False),  # large pages without asking
        ("linux", ("glibc", "2.36"), "always madvise [never]", False),
        ("linux", ("glibc", "2.36"), None, False),
        ("linux", ("glibc", "2.31"), "always [madvise] never", False),
        ("linux", ("", ""), "always [madvise] never", False),  # musl
        ("darwin", ("", ""), None, False),
    ],
)
def test_it_restarts_only_where_that_helps(monkeypatch, tmp_path, system, libc, kernel, helps):
    file = tmp_path / "enabled"
    if kernel is not None:
        file.write_text(kernel)
    monkeypatch.setattr(huge_pages, "_KERNEL", file)
    monkeypatch.setattr(huge_pages.sys, "platform", system)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: libc)
    assert huge_pages._would_help() == helps
