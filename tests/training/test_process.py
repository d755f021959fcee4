"""What a training sets in its process: the allocator, the threads and how they wait."""

import os
import subprocess
import sys

import pytest
import torch

from mace_mm.training.config import RunConfig
from mace_mm.training.run.devices import make_fabric

# Of a process of its own: the setting cannot be taken back.
FAULTS = """
import ctypes, resource
from mace_mm.training.run.allocator import keep_freed_memory

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


def test_a_run_has_the_threads_it_wants(tmp_path) -> None:
    before = torch.get_num_threads()
    try:
        make_fabric(RunConfig(threads=before + 1, accelerator="cpu"), tmp_path)
        assert torch.get_num_threads() == before + 1
        make_fabric(RunConfig(accelerator="cpu"), tmp_path)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_of_a_training_wait_briefly(
    project_root, given: dict[str, str], spins: str
) -> None:
    recipe = project_root / "examples" / "train" / "quick.yaml"
    code = "from mace_mm.cli.app import main; main()"
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--check", str(recipe)],
        env=clean | given | {"OMP_DISPLAY_ENV": "verbose"},
        check=True,
        capture_output=True,
        text=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("the threads are not those of GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
