"""Memory that stays and comes in large pages: on CPUs, half of a step can go into handing out small ones.

XLA asks for a step's temporary memory anew at every step, gigabytes in pieces of 4 KiB, each of which costs a fault.
Large pages make the faults few; one arena that never gives memory back makes them end after the first steps. A step's
memory was then seen up to three times over, as something small had settled in the room that the last step left. So
steps that need a large part of the machine's memory give theirs back (`keep_if_small`).
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
# Other arenas than the first, and everything that is mapped, would go back to the kernel when it is freed.
_KEPT = {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40}
TUNABLES = ":".join([f"{_TUNABLE}=1", *(f"glibc.malloc.{name}={value}" for name, value in _KEPT.items())])
_MMAP_THRESHOLD, _MMAP_MAX = (-3, 2**25), (-4, 2**16)  # of mallopt; no higher threshold is taken
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this program anew, in the same process, with `TUNABLES` in `GLIBC_TUNABLES`.

    To be called first of all, from a program's main module. Does nothing where it would not help: on other systems,
    where the kernel gives out large pages anyway or never, and where the variable speaks of them already
    (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0` switches this off).
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not _would_help():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (TUNABLES, tunables)))  # the last word is the user's
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_if_small(size: int, share: float = 1 / 16) -> None:
    """Pieces of 32 MiB and more go back to the kernel from now on when they are freed, if a step needs much memory.

    Does nothing but where freed memory is kept (`TUNABLES`). What is kept already stays.

    Args:
      size: of a step's temporary memory, in bytes.
      share: of the machine's memory that it may have and be kept.
    """
    if sys.platform != "linux" or "trim_threshold" not in os.environ.get("GLIBC_TUNABLES", ""):
        return
    if size > share * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        libc = ctypes.CDLL(None)
        libc.mallopt(*_MMAP_THRESHOLD)
        libc.mallopt(*_MMAP_MAX)


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
