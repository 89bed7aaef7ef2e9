"""train.py as a user whom mode bits stop, also where that user is root: python -m tests.faults.bound ARGUMENTS"""

import ctypes
import os
import runpy
import struct
import sys


def be_bound_by_modes() -> None:
    """Root without the right to pass over mode bits (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH); nothing to do for
    anyone else.
    """
    if os.geteuid() == 0:
        header, none = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
        if ctypes.CDLL(None, use_errno=True).capset(header, none):
            raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    be_bound_by_modes()
    sys.argv[0] = "train.py"
    runpy.run_path("train.py", run_name="__main__")
