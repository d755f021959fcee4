"""Label ten published SPICE frames again with `mace_mm.generation`, and iodomethane.

    python recipes/labels/reproduce_spice.py --shared ../shared

writes `benchmarks/results/labels_spice_level.json`: the difference of energies (meV an atom) and of
forces (mean absolute, meV/Å), and core-seconds.
"""

import argparse
import json
import tempfile
from pathlib import Path

import ase.io
import h5py
import numpy as np
import yaml
from label_queue import settings_of_level
from queue_file import SET
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds

from mace_mm.data.formats.spice import SpiceFile
from mace_mm.data.formats.spice_writer import write_spice
from mace_mm.data.labels import ConformerSet
from mace_mm.generation.generate import generate
from mace_mm.generation.protocol import Protocol
from mace_mm.units import HARTREE_TO_EV

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "labels_spice_level.json"
# File and number of each frame.
FRAMES = [
    *(("des370k_monomers_train", i) for i in (9, 10, 14, 17, 26, 40, 45, 46, 51)),
    ("pubchem_train", 48),
]
IODOMETHANE = """5

C 0.000 0.000 0.000
I 0.000 0.000 2.139
H 1.010 0.000 -0.394
H -0.505 0.875 -0.394
H -0.505 -0.875 -0.394
"""


def _given(atoms: ase.Atoms, name: str) -> ConformerSet:
    """A structure with SMILES mapped to its atoms, as a source of frames."""
    lines = [
        f"{s} {x:.8f} {y:.8f} {z:.8f}"
        for s, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    mol = Chem.MolFromXYZBlock(f"{len(atoms)}\n\n" + "\n".join(lines))
    rdDetermineBonds.DetermineBonds(mol, charge=0)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    return ConformerSet(
        name=name,
        atomic_numbers=atoms.numbers,
        positions=atoms.positions[None],
        smiles=Chem.MolToSmiles(mol),
        subset="reproduced",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=len(FRAMES))
    arguments = parser.parse_args()
    published = {
        f"{file}-{i}": ase.io.read(arguments.shared / f"data/spice-labelled/{file}.xyz", i)
        for file, i in FRAMES[: arguments.frames]
    }
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "iodomethane.xyz").write_text(IODOMETHANE)
        entries = [_given(atoms, name) for name, atoms in published.items()]
        entries.append(_given(ase.io.read(folder / "iodomethane.xyz"), "iodomethane"))
        write_spice(folder / "given.h5", entries)
        settings = settings_of_level(SET).model_dump(exclude_none=True)
        protocol = {
            "name": "reproduced",
            "seed": 1,
            "molecules": {
                "sources": [{"kind": "spice", "path": str(folder / "given.h5")}],
                "elements": ["H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"],
            },
            "dataset": {"max_gradient": None},
            "labels": [settings],
        }
        (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol))
        report = generate(Protocol.model_validate(protocol), folder / "run")
        print(report.as_text())
        made = SpiceFile(folder / "run" / "reproduced-spice.h5")
        result = {}
        with h5py.File(folder / "run" / "reproduced-spice.h5") as file:
            for i, entry in enumerate(made.entries):
                name = entry.name
                labels, group = made.conformers(i), file[name]
                line = {
                    "atoms": len(labels.atomic_numbers),
                    "seconds": round(float(group["label_seconds"][0]), 1),
                    "functional": str(group.attrs["functional"]),
                    "core_potentials": str(group.attrs["core_potentials"]),
                    "hartree": round(float(labels.energies[0]) / HARTREE_TO_EV, 6),
                }
                if name in published:
                    atoms = published[name]
                    error = labels.energies[0] - atoms.info["REF_energy"]
                    line["formula"] = atoms.get_chemical_formula()
                    line["energy_mev_an_atom"] = round(1e3 * float(error) / len(atoms), 4)
                    forces = np.abs(labels.forces[0] - atoms.arrays["REF_forces"])
                    line["force_mae_mev_a"] = round(1e3 * float(forces.mean()), 3)
                else:
                    line["formula"] = "CH3I"
                    line["largest_force_mev_a"] = round(1e3 * float(np.abs(labels.forces).max()))
                result[name] = line
                print(name, line)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
