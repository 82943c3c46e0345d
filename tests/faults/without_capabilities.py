"""Runs a command that permissions of files bind, also where the user is root: `without_capabilities.py COMMAND …`."""

import ctypes
import os
import sys

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2
UNABLE = 99  # exit code where root's privileges cannot be given up

if __name__ == "__main__":
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                sys.exit(UNABLE)
    os.execv(sys.argv[1], sys.argv[1:])
