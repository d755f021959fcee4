"""Turn the downloads of the public benchmarks into the files that the recipes beside this name.

    python examples/train/prepare.py FOLDER_WITH_DOWNLOADS

Expects in that folder `acac/` and `3bpa/` (github.com/davkovacs/BOTNet-datasets) and
`rmd17/rmd17_NAME_{train,test}_01.npz` (split 01 of rMD17, kcal/mol), and writes `data/*.xyz` here,
in eV, Å and eV/Å with the labels under REF_energy and REF_forces.
"""

import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mace_mm.units import KCAL_MOL_TO_EV

HERE = Path(__file__).resolve().parent / "data"


def relabel(frames):
    """Move energies and forces to REF_energy and REF_forces."""
    for atoms in frames:
        if isinstance(atoms.calc, SinglePointCalculator):
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = None
        else:
            energy, forces = atoms.info.pop("energy"), atoms.arrays.pop("forces")
        atoms.info = {"REF_energy": float(energy)}
        atoms.arrays["REF_forces"] = np.asarray(forces)
        atoms.pbc, atoms.cell = False, np.zeros((3, 3))
    return frames


def from_xyz(source: Path, target: str) -> None:
    ase.io.write(HERE / target, relabel(ase.io.read(source, ":")), format="extxyz")


def from_npz(source: Path, target: str) -> None:
    with np.load(source) as data:
        numbers = data["nuclear_charges"]
        frames = []
        for positions, energy, forces in zip(
            data["coords"], data["energies"], data["forces"], strict=True
        ):
            atoms = Atoms(numbers, positions)
            atoms.info["REF_energy"] = float(energy) * KCAL_MOL_TO_EV
            atoms.arrays["REF_forces"] = forces * KCAL_MOL_TO_EV
            frames.append(atoms)
    ase.io.write(HERE / target, frames, format="extxyz")


def main() -> None:
    folder = Path(sys.argv[1])
    HERE.mkdir(exist_ok=True)
    for name in ("train_300K", "train_600K", "test_MD_300K"):
        from_xyz(folder / "acac" / f"{name}.xyz", f"acac_{name}.xyz")
    from_xyz(folder / "3bpa" / "train_300K.xyz", "3bpa_train_300K.xyz")
    for molecule in ("ethanol", "aspirin"):
        for part in ("train", "test"):
            source = folder / "rmd17" / f"rmd17_{molecule}_{part}_01.npz"
            from_npz(source, f"rmd17_{molecule}_{part}.xyz")


if __name__ == "__main__":
    main()
