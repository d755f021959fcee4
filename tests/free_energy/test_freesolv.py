"""FreeSolv's own GAFF hydration free energies from the example script: an hour and a half."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_gaff_hydration_free_energies_reproduce_the_database(
    project_root: Path, shared_dir: Path, tmp_path: Path
) -> None:
    script = project_root / "examples/free_energy/gaff_freesolv.py"
    run = subprocess.run(
        [sys.executable, script, shared_dir / "data/freesolv", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
