"""Memory that a training step frees stays with the process."""

import subprocess
import sys

import pytest

# Of a process of its own: the setting cannot be taken back.
FAULTS = """
import ctypes, resource
from mace_mm.training.allocator import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
SIZE = 4 << 20

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(SIZE))) for _ in range(20)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in reversed(blocks):
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

known = keep_freed_memory()
faults = [step() for _ in range(8)]
print(max(faults[4:]) if known else "unknown")
"""


def test_pages_are_not_asked_for_again() -> None:
    command = [sys.executable, "-c", FAULTS]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if found == "unknown":
        pytest.skip("the C library has no mallopt")
    # Without the setting 20,000, all pages of the twenty blocks.
    assert int(found) < 100
