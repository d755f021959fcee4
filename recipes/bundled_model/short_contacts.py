"""Frames far from equilibrium: waters and dimers in close contact, molecules distorted at random.

A network that never saw them may have holes there, into which a crowded start of a simulation
falls. The labels are the means of AIMNet2's and a bundled model's; frames are left out where a
force is above 40 eV/Å or where the two differ by more than 15.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import ase
import numpy as np
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from average_labels import labels_of
from openmm import app, unit
from scipy.sparse.csgraph import connected_components
from teachers import AIMNet2

from mace_mm.archive.archive import Archive
from mace_mm.data.formats.spice import SpiceFile
from mace_mm.evaluate.build import build_evaluator

LARGEST_FORCE, LARGEST_DIFFERENCE = 40.0, 15.0  # eV/Å
# Molecules of each subset of the teachers' file, and what is done with them.
PLAN = (
    ("des_dimers", 700, "squeeze"),
    ("pubchem", 450, "distort"),
    ("dipeptides", 150, "distort"),
    ("des_monomers", 200, "distort"),
    ("solvated_amino_acids", 26, "squeeze"),
)
SQUEEZED = {"des_dimers": 3, "solvated_amino_acids": 8}  # frames of a molecule
DISTORTIONS = (0.1, 0.16)  # Å
CLOSEST = (0.85, 1.7)  # Å
# What is closer than this between two waters, by O H H, is a clash; Å.
CLASH = np.array([[2.35, 1.45, 1.45], [1.45, 1.45, 1.45], [1.45, 1.45, 1.45]])
N_CLUSTERS, N_STEPS = 500, 36
STEPS_KEPT = (0, 1, 2, 3, 5, 8, 12, 20, 35)
# AIMNet2 above the model in relaxed clusters, eV for each water.
WATER_OFFSET = 0.035


class Labels:
    """Labels of one molecule's frames by AIMNet2 and by the model, eV and eV/Å."""

    def __init__(self, network: AIMNet2, archive: Archive) -> None:
        self._network = network
        self._evaluator = lru_cache(maxsize=16)(
            lambda numbers: build_evaluator(archive, list(numbers), engine="native")
        )

    def model(self, numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return labels_of(self._evaluator(tuple(numbers.tolist())), positions)

    def frames(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        *,
        member: int,
        subset: str,
        offset: float | None = None,
    ) -> Iterator[ase.Atoms]:
        """Those that both agree on; the first only fixes the zero of energy without an offset."""
        theirs, their_forces = self._network(numbers, positions, member=member)
        ours, our_forces = self.model(numbers, positions)
        first = 0 if offset is not None else 1
        difference = theirs - ours - (theirs[0] - ours[0] if offset is None else offset)
        forces = np.stack([their_forces, our_forces])
        for k in range(first, len(positions)):
            apart = np.abs(forces[0, k] - forces[1, k]).max()
            if np.abs(forces[:, k]).max() > LARGEST_FORCE or apart > LARGEST_DIFFERENCE:
                continue
            atoms = ase.Atoms(numbers, positions[k])
            atoms.info.update(REF_energy=ours[k] + 0.5 * difference[k], subset=subset)
            atoms.arrays["REF_forces"] = forces[:, k].mean(axis=0)
            yield atoms


def crowded_waters(rng: np.random.Generator) -> list[np.ndarray]:
    """Clusters (n_atoms, 3) Å around the clashes at the faces of boxes that OpenMM fills."""
    clusters = []
    for n in range(12, 140, 2):
        modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
        modeller.addSolvent(app.ForceField("tip3p.xml"), numAdded=n)
        x = np.array(modeller.positions.value_in_unit(unit.angstrom)).reshape(n, 3, 3)
        vectors = modeller.topology.getPeriodicBoxVectors().value_in_unit(unit.angstrom)
        lengths = np.diag(np.array(vectors))
        apart = x[:, None, 0] - x[None, :, 0]
        shifts = lengths * np.round(apart / lengths)
        for i in range(n):
            images = x + shifts[i][:, None]
            r = np.linalg.norm(x[i][None, :, None] - images[:, None], axis=-1)
            clash = (r < CLASH).any((1, 2))
            clash[i] = False
            if not clash.any():
                continue
            distance = r.min((1, 2))
            distance[i] = 0.0
            nearest = np.argsort(distance)[: int(rng.integers(3, 8))]
            clusters.append(np.concatenate([images[j] for j in nearest if distance[j] < 3.5]))
    return clusters


def waters(labels: Labels, rng: np.random.Generator) -> Iterator[ase.Atoms]:
    """Crowded clusters on their way down the model's forces."""
    clusters = crowded_waters(rng)
    for k, chosen in enumerate(rng.permutation(len(clusters))[:N_CLUSTERS]):
        x = clusters[chosen]
        numbers = np.array([8, 1, 1] * (len(x) // 3))
        kept = set(rng.choice(STEPS_KEPT, 4, replace=False).tolist())
        frames = []
        for step in range(N_STEPS):
            if step in kept:
                frames.append(x + rng.normal(0.0, 0.01, x.shape))
            force = labels.model(numbers, x[None])[1][0]
            x = x + force * min(0.02, 0.06 / np.abs(force).max())
        offset = WATER_OFFSET * (len(x) // 3)
        yield from labels.frames(numbers, np.array(frames), member=k, subset="water", offset=offset)


def squeeze(
    numbers: np.ndarray, x: np.ndarray, n_frames: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """One of the molecules of a frame pushed towards the closest other, up to a random distance."""
    atoms = ase.Atoms(numbers, x)
    bonded = build_neighbor_list(atoms, natural_cutoffs(atoms, 1.25), self_interaction=False)
    matrix = bonded.get_connectivity_matrix(sparse=True)
    n_molecules, molecule = connected_components(matrix, directed=False)
    if n_molecules < 2:
        return []
    moved = molecule == rng.integers(n_molecules)
    distance = np.linalg.norm(x[moved][:, None] - x[~moved][None], axis=-1)
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    towards = x[~moved][j] - x[moved][i]
    frames = []
    for _ in range(n_frames):
        direction = towards / np.linalg.norm(towards) + rng.normal(0.0, 0.3, 3)
        direction /= np.linalg.norm(direction)
        wanted = rng.uniform(*CLOSEST)
        y = x.copy()
        for _ in range(120):
            if np.linalg.norm(y[moved][:, None] - y[~moved][None], axis=-1).min() < wanted:
                break
            y[moved] += 0.05 * direction
        frames.append(y)
    return frames


def short_contacts(path: Path, network: AIMNet2, archive: Archive) -> list[ase.Atoms]:
    """All the frames, shuffled; `path` is the file of the teachers' frames in SPICE's layout."""
    labels, rng = Labels(network, archive), np.random.default_rng(5)
    file = SpiceFile(path)
    by_subset: dict[str, list[int]] = {}
    for index, entry in enumerate(file.entries):
        by_subset.setdefault(entry.subset, []).append(index)
    frames = list(waters(labels, np.random.default_rng(4)))
    for subset, n_molecules, kind in PLAN:
        there = by_subset.get(subset)
        if there is None:  # of a trial with a few molecules
            continue
        for index in rng.choice(there, n_molecules, replace=n_molecules > len(there)):
            molecule = file.conformers(int(index))
            numbers = molecule.atomic_numbers
            x = molecule.positions[rng.integers(molecule.n_frames)]
            if kind == "squeeze":
                changed = squeeze(numbers, x, SQUEEZED[subset], rng)
            else:
                changed = [x + rng.normal(0.0, s, x.shape) for s in DISTORTIONS]
            if changed:
                positions = np.stack([x, *changed])
                member = int(index)
                frames.extend(labels.frames(numbers, positions, member=member, subset=subset))
    return [frames[k] for k in rng.permutation(len(frames))]
