"""Memory that stays and comes in large pages: on CPUs, half of a step can go into handing out small ones.

XLA asks for a step's temporary memory anew at every step, gigabytes in pieces of 4 KiB, each of which costs a fault.
Large pages make the faults few; one arena that never gives memory back makes them end after the first steps, and
before the first one where somebody asks for that memory while the step is made ready.
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
_PAGE, _PART, _POPULATE_WRITE = 4096, 2**26, 23  # MADV_POPULATE_WRITE
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


def have_ready(size: int) -> None:
    """Takes `size` bytes from the kernel now and frees them: what is asked for next finds them there, without a fault.

    A part at a time: meanwhile nobody else in this process can map memory, and a compiler, for one, has to.
    Does nothing but where freed memory is kept (`TUNABLES`) and the kernel can do it (Linux 5.14).
    """
    if sys.platform != "linux" or "trim_threshold" not in os.environ.get("GLIBC_TUNABLES", ""):
        return
    libc = ctypes.CDLL(None)  # calls let go of the interpreter's lock
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    place = libc.malloc(size)
    if place:
        first, end = -(-place // _PAGE) * _PAGE, (place + size) // _PAGE * _PAGE
        for start in range(first, end, _PART):
            libc.madvise(start, min(_PART, end - start), _POPULATE_WRITE)
        libc.free(place)


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
