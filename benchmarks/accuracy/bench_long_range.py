"""What an ML region loses beyond the reach of its model, and whether the force field mends it.

Conformers of a helix, macrocycles and chains, and pairs of molecules at growing distances: energies
of the model, with the force field's pairs beyond its reach and without, against GFN2-xTB and, where
the file of its networks is given, AIMNet2. Charges are those of MMFF94, Lennard-Jones parameters
those of GAFF.

    python benchmarks/accuracy/bench_long_range.py --aimnet2 aimnet2_wb97m-d3_ens.jpt
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
import torch
from ase import Atoms
from ase.optimize import LBFGS
from openmm import app
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms
from tblite.interface import Calculator

from mace_mm.evaluate.ase_calculator import MACECalculator
from mace_mm.ml_mm.long_range import Reach, kept_long_range
from mace_mm.ml_mm.region import make_region
from mace_mm.units import ANGSTROM_TO_NM, BOHR_TO_ANGSTROM, EV_TO_KJ_MOL, HARTREE_TO_EV

MODELS = ("small", "medium")
# Å and kJ/mol.
LENNARD_JONES = {
    1: (2.60, 0.066),
    6: (3.40, 0.40),
    7: (3.25, 0.71),
    8: (2.96, 0.88),
    16: (3.56, 1.05),
    17: (3.47, 1.11),
}
# Cutoff and receptive field of the bundled models, nm.
BEYOND = Reach(within=0.9, between=0.45)
FROM_CUTOFF = Reach(within=0.45, between=0.45)
N_RESIDUES = 12
BACKBONES = {"alpha": (-57, -47), "3-10": (-49, -26), "PPII": (-75, 145), "beta": (-139, 135)}
FOLDING = {
    "cyclo-octaalanine": "N1[C@@H](C)C(=O)" + "N[C@@H](C)C(=O)" * 6 + "N[C@@H](C)C1(=O)",
    "36-crown-12": "C1COCC" + "OCCOCC" * 5 + "O1",
    "macrolactone": "C1CCCCC(=O)OCCCCCC(=O)NCCCCCCC(=O)OCCCCCN1",
    "tetraphenylalanine": "CC(=O)" + "N[C@@H](Cc1ccccc1)C(=O)" * 4 + "NC",
    "octaglycine": "CC(=O)" + "NCC(=O)" * 8 + "NC",
    "PEG-10": "COCCOCCOCCOCCOCCOCCOCCOCCOCCOCCOC",
    "dodecane diamide": "CC(=O)N" + "C" * 12 + "NC(C)=O",
    "dinitrododecane": "O=[N+]([O-])" + "C" * 12 + "[N+](=O)[O-]",
    "hexadecanedinitrile": "N#C" + "C" * 14 + "C#N",
    "tetracosane": "C" * 24,
}
ZWITTERION = "[NH3+]" + "C" * 10 + "C(=O)[O-]"
DIMERS = [
    ("O", "O"),
    ("NC=O", "NC=O"),
    ("CC(=O)NC", "CC(=O)NC"),
    ("CC(C)=O", "O"),
    ("c1ccncc1", "O"),
    ("CS(C)=O", "CC#N"),
    ("c1ccccc1", "c1ccccc1"),
    ("CO", "CC(=O)NC"),
]
GAPS = (2.2, 2.6, 3.0, 3.5, 4.0, 4.6, 5.2, 6.0, 7.0, 8.0, 10.0)
N_TURNS = 6

# Energies in kJ/mol of positions (n_atoms, 3) in Å.
Energy = Callable[[np.ndarray], float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformers:
    """A molecule and its conformers; positions (n, n_atoms, 3) Å."""

    name: str
    molecule: Chem.Mol
    labels: list[str]
    positions: np.ndarray


def embedded(smiles: str, number: int) -> Chem.Mol:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    settings = AllChem.ETKDGv3()
    settings.randomSeed, settings.useRandomCoords, settings.pruneRmsThresh = 1, True, 0.8
    AllChem.EmbedMultipleConfs(molecule, number, settings)
    AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=1000)
    return molecule


def helix() -> Conformers:
    """Ac-Ala12-NHMe with regular backbones, and random coils."""
    molecule = embedded("CC(=O)" + "N[C@@H](C)C(=O)" * N_RESIDUES + "NC", 6)
    positions = [c.GetPositions().copy() for c in molecule.GetConformers()]
    labels = [f"coil {i}" for i in range(len(positions))]
    conformer = molecule.GetConformer(0)
    for label, (phi, psi) in BACKBONES.items():
        for k in range(N_RESIDUES):
            nitrogen = 3 + 5 * k
            before = 1 if k == 0 else nitrogen - 2
            first = 0 if k == 0 else nitrogen - 4
            turns = [
                (before, nitrogen, nitrogen + 1, nitrogen + 3, phi),
                (nitrogen, nitrogen + 1, nitrogen + 3, nitrogen + 5, psi),
                (first, before, nitrogen, nitrogen + 1, 180),
            ]
            for *atoms, angle in turns:
                rdMolTransforms.SetDihedralDeg(conformer, *atoms, float(angle))
        positions.append(conformer.GetPositions().copy())
        labels.append(label)
    return Conformers(
        name="Ac-Ala12-NHMe", molecule=molecule, labels=labels, positions=np.array(positions)
    )


def folding() -> Iterator[Conformers]:
    """Macrocycles and chains, compact and open."""
    for name, smiles in FOLDING.items():
        molecule = embedded(smiles, 16)
        positions = np.array([c.GetPositions() for c in molecule.GetConformers()])
        labels = [str(i) for i in range(len(positions))]
        yield Conformers(name=name, molecule=molecule, labels=labels, positions=positions)


def relaxed(conformers: Conformers) -> Conformers:
    calculator = MACECalculator("medium")
    found = []
    for positions in conformers.positions:
        atoms = Atoms(numbers_of(conformers.molecule), positions)
        atoms.calc = calculator
        LBFGS(atoms, logfile=None).run(fmax=0.1, steps=150)
        found.append(atoms.positions.copy())
    return Conformers(
        name=conformers.name,
        molecule=conformers.molecule,
        labels=conformers.labels,
        positions=np.array(found),
    )


def numbers_of(molecule: Chem.Mol) -> list[int]:
    return [atom.GetAtomicNum() for atom in molecule.GetAtoms()]


def gfn2(numbers: list[int]) -> Energy:
    def energy(positions: np.ndarray) -> float:
        calculator = Calculator("GFN2-xTB", np.array(numbers), positions / BOHR_TO_ANGSTROM)
        calculator.set("verbosity", 0)
        return float(calculator.singlepoint().get("energy") * HARTREE_TO_EV * EV_TO_KJ_MOL)

    return energy


def aimnet2(path: Path, numbers: list[int]) -> Energy:
    ensemble = torch.jit.load(path, map_location="cpu").eval()

    def energy(positions: np.ndarray) -> float:
        found = ensemble(
            {
                "coord": torch.tensor(positions[None], dtype=torch.float32),
                "numbers": torch.tensor([numbers]),
                "charge": torch.zeros(1),
            }
        )
        return float(found["energy"].detach().double()) * EV_TO_KJ_MOL

    return energy


def model(name: str, numbers: list[int]) -> Energy:
    calculator = MACECalculator(name)

    def energy(positions: np.ndarray) -> float:
        atoms = Atoms(numbers, positions)
        atoms.calc = calculator
        return float(atoms.get_potential_energy() * EV_TO_KJ_MOL)

    return energy


def long_range(molecules: list[Chem.Mol], reach: Reach) -> Energy:
    """What :mod:`mace_mm.ml_mm.long_range` keeps of molecules that are a region."""
    topology, system, force = app.Topology(), openmm.System(), openmm.NonbondedForce()
    pairs = []
    for molecule in molecules:
        residue = topology.addResidue("MOL", topology.addChain())
        charges = AllChem.MMFFGetMoleculeProperties(molecule)
        atoms = []
        for atom in molecule.GetAtoms():
            element = app.Element.getByAtomicNumber(atom.GetAtomicNum())
            atoms.append(topology.addAtom(atom.GetSymbol(), element, residue))
            system.addParticle(element.mass)
            sigma, epsilon = LENNARD_JONES[atom.GetAtomicNum()]
            charge = charges.GetMMFFPartialCharge(atom.GetIdx())
            force.addParticle(charge, sigma * ANGSTROM_TO_NM, epsilon)
        for bond in molecule.GetBonds():
            ends = [atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()]]
            topology.addBond(*ends)
            pairs.append(tuple(end.index for end in ends))
    force.createExceptionsFromBonds(pairs, 0.8333, 0.5)
    region = make_region(topology, system, range(system.getNumParticles()))
    for kept in kept_long_range(force, system, region, reach):
        system.addForce(kept)
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)

    def energy(positions: np.ndarray) -> float:
        context.setPositions(positions * ANGSTROM_TO_NM)
        return float(context.getState(energy=True).getPotentialEnergy()._value)

    return energy


def references(numbers: list[int], networks: Path | None) -> dict[str, Energy]:
    found = {"GFN2-xTB": gfn2(numbers)}
    return found if networks is None else found | {"AIMNet2": aimnet2(networks, numbers)}


def compare(conformers: Conformers, networks: Path | None) -> dict[str, object]:
    """Energies of all conformers, kJ/mol, and the errors of relative energies."""
    numbers = numbers_of(conformers.molecule)
    positions = conformers.positions
    wanted = {
        name: np.array([energy(p) for p in positions])
        for name, energy in references(numbers, networks).items()
    }
    kept = {
        name: np.array([energy(p) for p in positions])
        for name, energy in (
            ("beyond reach", long_range([conformers.molecule], BEYOND)),
            ("from cutoff", long_range([conformers.molecule], FROM_CUTOFF)),
        )
    }
    errors = {}
    energies = {name: values.tolist() for name, values in (wanted | kept).items()}
    for name in MODELS:
        own = np.array([model(name, numbers)(p) for p in positions])
        energies[name] = own.tolist()
        for reference, values in wanted.items():
            errors[f"{name} against {reference}"] = {
                "without": float(np.std(values - own)),
                **{what: float(np.std(values - own - kept[what])) for what in kept},
            }
    radii = np.sqrt(((positions - positions.mean(axis=1, keepdims=True)) ** 2).sum(-1).mean(-1))
    return {
        "n_atoms": len(numbers),
        "labels": conformers.labels,
        "radii_of_gyration_angstrom": radii.tolist(),
        "energies_kj_mol": energies,
        "rmse_kj_mol": errors,
        "spread_of_what_is_kept_kj_mol": {name: float(np.std(v)) for name, v in kept.items()},
    }


def compare_zwitterion() -> dict[str, object]:
    """Geometries of MMFF94: the model would move the proton."""
    molecule = embedded(ZWITTERION, 10)
    numbers = numbers_of(molecule)
    ends = [numbers.index(7), numbers.index(8)]
    positions = np.array([c.GetPositions() for c in molecule.GetConformers()])
    functions = {
        "GFN2-xTB": gfn2(numbers),
        "small": model("small", numbers),
        "beyond reach": long_range([molecule], BEYOND),
    }
    return {
        "distance_angstrom": np.linalg.norm(
            positions[:, ends[0]] - positions[:, ends[1]], axis=1
        ).tolist(),
        "energies_kj_mol": {
            name: [energy(p) for p in positions] for name, energy in functions.items()
        },
    }


def compare_dimers(networks: Path | None) -> dict[str, object]:
    """Interaction energies at the given closest distances, root mean squares in kJ/mol."""
    rng = np.random.default_rng(0)
    rows: dict[float, list[dict[str, float]]] = {gap: [] for gap in GAPS}
    for smiles in DIMERS:
        parts = [embedded(text, 1) for text in smiles]
        centered = [p.GetConformer().GetPositions() for p in parts]
        centered = [p - p.mean(axis=0) for p in centered]
        sizes = [numbers_of(p) for p in parts]
        functions = {
            name: [make(numbers) for numbers in (sizes[0] + sizes[1], *sizes)]
            for name, make in _makers(networks).items()
        }
        kept = long_range(parts, BEYOND)
        for _ in range(N_TURNS):
            turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            turn *= np.sign(np.linalg.det(turn))
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            second = centered[1] @ turn.T
            for gap in GAPS:
                moved = second + _shift(centered[0], second, direction, gap) * direction
                row = {
                    name: both(np.vstack([centered[0], moved])) - one(centered[0]) - other(moved)
                    for name, (both, one, other) in functions.items()
                }
                row["kept"] = kept(np.vstack([centered[0], moved]))
                rows[gap].append(row)
    table = {}
    for gap, found in rows.items():
        columns = {name: np.array([row[name] for row in found]) for name in found[0]}
        wanted = columns["GFN2-xTB" if networks is None else "AIMNet2"]
        table[str(gap)] = {"size": _rms(wanted)}
        for name in MODELS:
            table[str(gap)][f"{name}, without"] = _rms(columns[name] - wanted)
            table[str(gap)][f"{name}, kept"] = _rms(columns[name] + columns["kept"] - wanted)
    return table


def _makers(networks: Path | None) -> dict[str, Callable[[list[int]], Energy]]:
    made: dict[str, Callable[[list[int]], Energy]] = {
        name: lambda numbers, name=name: model(name, numbers) for name in MODELS
    }
    if networks is None:
        return made | {"GFN2-xTB": gfn2}
    return made | {"AIMNet2": lambda numbers: aimnet2(networks, numbers)}


def _shift(one: np.ndarray, other: np.ndarray, direction: np.ndarray, gap: float) -> float:
    """How far to move a molecule so that the closest atoms are a gap apart, Å."""
    low, high = 0.0, 40.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        apart = one[:, None] - (other + middle * direction)[None]
        low, high = (middle, high) if np.linalg.norm(apart, axis=-1).min() < gap else (low, middle)
    return high


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aimnet2", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/long-range.json"))
    options = parser.parse_args()
    results: dict[str, object] = {"dimers": compare_dimers(options.aimnet2)}
    print(json.dumps(results["dimers"], indent=1), flush=True)
    results["zwitterion"] = compare_zwitterion()
    for conformers in (helix(), *folding()):
        found = compare(relaxed(conformers), options.aimnet2)
        results[conformers.name] = found
        print(conformers.name, found["spread_of_what_is_kept_kj_mol"], found["rmse_kj_mol"])
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
