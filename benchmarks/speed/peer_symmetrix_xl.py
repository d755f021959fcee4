"""Time Symmetrix-XL on the systems of `mace-mm benchmark`; run by its own environment's Python.

    PEER_PYTHON benchmarks/speed/peer_symmetrix_xl.py MODEL FOLDER SECONDS

Whole calls of its ASE calculator are timed, in float32, with its own neighbor list and its skin.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import ase
import numpy as np
from symmetrix import Symmetrix


def main() -> None:
    model_file, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    systems = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        converted = Path(scratch) / "model.json"
        command = Path(sys.executable).parent / "symmetrix_extract_mace"
        subprocess.run(
            [str(command), "--model", model_file, "--output", str(converted)],
            check=True,
            stdout=sys.stderr,
        )
        for path in sorted(folder.glob("*.npz")):
            data = np.load(path)
            frames = data["frames"]
            periodic = bool(data["cell"].any())
            cell = data["cell"] if periodic else 200.0 * np.eye(3)  # it inverts the cell
            atoms = ase.Atoms(data["numbers"], frames[0], cell=cell, pbc=periodic)
            atoms.calc = Symmetrix(str(converted), dtype="float32")
            times, start = [], time.perf_counter()
            while len(times) < 5 or (time.perf_counter() - start < seconds and len(times) < 200):
                atoms.positions = frames[len(times) % len(frames)]
                before = time.perf_counter()
                atoms.get_forces()
                times.append(time.perf_counter() - before)
            atoms.positions = frames[0]
            systems[path.stem] = {"times": times[2:], "forces": atoms.get_forces().tolist()}
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    name = f"Symmetrix-XL {version('symmetrix-xl')}"
    print(json.dumps({"name": name, "threads": threads, "systems": systems}))


if __name__ == "__main__":
    main()
