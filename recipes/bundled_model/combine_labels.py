"""One label out of three teachers: forces by inverse variance, energies in SPICE's zero."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from bond_correction import BondCorrection, find_bonds, fit_bond_correction
from error_variances import atom_classes, class_variances, variances_of
from teachers import AIMNet2, TeacherMolecule

from mace_mm.data.labels import ConformerSet

LEVEL = "SO3LR, AIMNet and AIMNet2 combined, towards wB97M-D3(BJ)/def2-TZVPPD"
TEACHERS = ("so3lr", "aimnet2", "aimnet")
ORGANIC = ("pubchem", "dipeptides", "des_monomers", "des_dimers")
ELEMENTS = (1, 6, 7, 8, 9, 16, 17)
LARGEST_FORCE = 25.0  # eV/Å
N_FITTED = 6000
# Measured on SPICE's training frames: SO3LR is far better on liquid-like water than the others.
FIXED_VARIANCES = {
    "water": np.array([0.025, 9.0, 9.0]) ** 2,
    "solvated_amino_acids": np.array([0.05, 0.13, 0.13]) ** 2,
}
AIMNET2_ENERGY_SHARE = 0.65


@dataclass(frozen=True, kw_only=True, eq=False)
class Combination:
    """Everything that is fitted before labels are combined.

    Attributes:
        corrections: of the bonds, by teacher.
        variances: by subset and class of atoms.
        shift: (n_elements + 1,) eV by element and by water molecule, AIMNet2 to SPICE.
    """

    corrections: dict[str, BondCorrection]
    variances: dict[tuple[str, int], np.ndarray]
    shift: np.ndarray


def fit_combination(
    molecules: list[TeacherMolecule], network: AIMNet2, spice: list[ase.Atoms]
) -> Combination:
    """Fit corrections, variances and the shift of energies."""
    frames = [
        (molecule, frame)
        for molecule in molecules
        if molecule.subset in ORGANIC
        for frame in np.flatnonzero(np.isfinite(molecule.energies["aimnet2"]))
        if np.abs(molecule.forces["so3lr"][frame]).max() < LARGEST_FORCE
    ]
    chosen = np.random.default_rng(0).permutation(len(frames))[:N_FITTED]
    corrections = {}
    for teacher in ("so3lr", "aimnet"):
        corrections[teacher] = fit_bond_correction(
            (m.numbers, m.positions[k], m.forces["aimnet2"][k] - m.forces[teacher][k])
            for m, k in (frames[i] for i in chosen)
            if np.isfinite(m.energies[teacher][k])
        )
    return Combination(
        corrections=corrections,
        variances=_variances(frames, corrections),
        shift=energy_shift(network, spice),
    )


def _variances(
    frames: list[tuple[TeacherMolecule, int]], corrections: dict[str, BondCorrection]
) -> dict[tuple[str, int], np.ndarray]:
    classes, subsets = [], []
    forces: dict[str, list[np.ndarray]] = {teacher: [] for teacher in TEACHERS}
    for molecule, k in frames:
        if not np.isfinite(molecule.energies["aimnet"][k]):
            continue
        classes.append(_classes(molecule, k))
        subsets.append(np.full(molecule.numbers.size, molecule.subset))
        for teacher in TEACHERS:
            corrected = molecule.forces[teacher][k]
            if teacher in corrections:
                added = corrections[teacher](molecule.numbers, molecule.positions[k])[1]
                corrected = corrected + added
            forces[teacher].append(corrected)
    first, second, third = (np.concatenate(forces[teacher]) for teacher in TEACHERS)
    return class_variances(np.concatenate(classes), np.concatenate(subsets), (first, second, third))


def _classes(molecule: TeacherMolecule, frame: int) -> np.ndarray:
    return atom_classes(molecule.numbers, _pairs(molecule.numbers, molecule.positions[frame]))


def _pairs(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    bonds = find_bonds(numbers, positions)
    others = positions[bonds.atoms] - bonds.lengths[:, None] * bonds.directions
    second = np.linalg.norm(others[:, None] - positions[None], axis=-1).argmin(1)
    return np.stack([bonds.atoms, second], axis=1)


def composition(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Counts of the elements, and of water molecules."""
    pairs = _pairs(numbers, positions)
    n_bonds = np.bincount(pairs[:, 0], minlength=numbers.size)
    n_hydrogens = np.bincount(pairs[:, 0], numbers[pairs[:, 1]] == 1, minlength=numbers.size)
    waters = ((numbers == 8) & (n_bonds == 2) & (n_hydrogens == 2)).sum()
    return np.array([*((numbers == z).sum() for z in ELEMENTS), waters], dtype=float)


def energy_shift(network: AIMNet2, spice: list[ase.Atoms]) -> np.ndarray:
    """AIMNet2's zero of energy to SPICE's: (n_elements + 1,) eV, see `composition`."""
    rows, differences = [], []
    for atoms in spice:
        energy = network(atoms.numbers, atoms.positions[None])[0][0]
        scale = 1.0 / np.sqrt(len(atoms))
        rows.append(scale * composition(atoms.numbers, atoms.positions))
        differences.append(scale * (atoms.info["REF_energy"] - energy))
    design = np.array(rows)
    normal = design.T @ design + 0.1 * np.eye(design.shape[1])
    return np.linalg.solve(normal, design.T @ np.array(differences))


def combine(molecules: list[TeacherMolecule], fitted: Combination) -> Iterator[ConformerSet]:
    """Combined labels; molecules without an AIMNet2 energy or of other elements are left out."""
    for molecule in molecules:
        labelled = np.isfinite(molecule.energies["aimnet2"])
        if not labelled.any() or not set(molecule.numbers) <= set(ELEMENTS):
            continue
        so3lr, forces = _frames(molecule, fitted)
        shift = float(composition(molecule.numbers, molecule.positions[0]) @ fitted.shift)
        aimnet2 = molecule.energies["aimnet2"] + shift
        energies = so3lr + np.mean(aimnet2[labelled] - so3lr[labelled])
        if molecule.subset in ORGANIC:
            mixed = AIMNET2_ENERGY_SHARE * aimnet2 + (1 - AIMNET2_ENERGY_SHARE) * energies
            energies = np.where(labelled, mixed, energies)
        kept = np.linalg.norm(forces, axis=-1).max(axis=1) < LARGEST_FORCE
        yield ConformerSet(
            name=molecule.name,
            atomic_numbers=molecule.numbers,
            positions=molecule.positions[kept],
            energies=energies[kept],
            forces=forces[kept],
            smiles=molecule.smiles,
            subset=molecule.subset,
            level_of_theory=LEVEL,
        )


def _frames(molecule: TeacherMolecule, fitted: Combination) -> tuple[np.ndarray, np.ndarray]:
    """Corrected SO3LR energies (n_frames,) and combined forces of every frame."""
    energies, combined = [], []
    for k, positions in enumerate(molecule.positions):
        forces, energy = [], molecule.energies["so3lr"][k]
        for teacher in TEACHERS:
            found = molecule.forces[teacher][k]
            # The corrections come from organic molecules; water needs none.
            if teacher in fitted.corrections and molecule.subset != "water":
                added, along = fitted.corrections[teacher](molecule.numbers, positions)
                found = found + along
                energy += added if teacher == "so3lr" else 0.0
            forces.append(found)
        weights = 1.0 / _frame_variances(molecule, k, fitted)
        stack = np.stack(forces, axis=1)
        present = np.isfinite(stack[..., 0])
        weights = np.where(present, weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        combined.append((weights[..., None] * np.nan_to_num(stack)).sum(axis=1))
        energies.append(energy)
    return np.array(energies), np.array(combined)


def _frame_variances(molecule: TeacherMolecule, frame: int, fitted: Combination) -> np.ndarray:
    fixed = FIXED_VARIANCES.get(molecule.subset)
    if fixed is not None:
        return np.tile(fixed, (molecule.numbers.size, 1))
    return variances_of(fitted.variances, molecule.subset, _classes(molecule, frame))


def read_spice(folder: Path) -> list[ase.Atoms]:
    """SPICE's training frames of the elements of the model."""
    frames = [a for path in sorted(folder.glob("*_train.xyz")) for a in ase.io.read(path, ":")]
    return [a for a in frames if set(a.numbers) <= set(ELEMENTS)]
