"""Freed memory is used again."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from segkit.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
    keep_freed_memory()
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(2**24)  # 128 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a promise about glibc")
def test_memory_is_not_faulted_in_again() -> None:
    pages = 5 * 2**27 // resource.getpagesize()
    assert faults("given back") > pages / 1000  # with huge pages a fault brings 512
    assert faults("kept") < faults("given back") / 10
