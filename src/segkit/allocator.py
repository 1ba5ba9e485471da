"""Freed memory of the process stays its own."""

import ctypes
import functools
import sys

# <malloc.h>
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> None:
    """From now on what is freed is used again instead of going back to the system.

    glibc maps a large tensor anew each time, so that the system clears its pages: 20,000 to 100,000
    page faults in each training step on a CPU (docs/performance.md). The process never shrinks
    below its peak, which the next step needs again anyway. Nothing happens with another C library.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
