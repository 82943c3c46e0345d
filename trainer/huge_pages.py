"""Large pages for this process's memory: on CPUs, half of a step can go into handing out small ones.

XLA asks for a step's temporary memory anew at every step, gigabytes in pieces of 4 KiB, each of which costs a fault.
"""

import os
import platform
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this program anew, in the same process, with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`.

    To be called first of all, from a program's main module. Does nothing where it would not help: on other systems,
    where the kernel gives out large pages anyway or never, and where the variable speaks of them already
    (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0` switches this off).
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not _would_help():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _would_help() -> bool:
    """Whether glibc knows the tunable (2.35), and the kernel gives large pages to those who ask."""
    if sys.platform != "linux":
        return False
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    try:
        return "[madvise]" in _KERNEL.read_text(encoding="utf-8")
    except OSError:
        return False
