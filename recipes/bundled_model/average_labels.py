"""Labels averaged with a model's own: errors that differ cancel in the mean."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from combine_labels import FIXED_VARIANCES

from mace_mm.archive.archive import Archive
from mace_mm.data.labels import ConformerSet
from mace_mm.evaluate.build import build_evaluator
from mace_mm.evaluate.engines import Evaluator


def labels_of(evaluator: Evaluator, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (n_frames,) eV and forces (n_frames, n_atoms, 3) eV/Å of frames in vacuum."""
    no_cell = torch.zeros(0, dtype=torch.float64)
    found = [evaluator.in_units(torch.from_numpy(x), no_cell, 1.0, 1.0) for x in positions]
    energies = np.array([float(result[0][0]) for result in found])
    return energies, np.stack([result[1].double().numpy() for result in found])


def average_with(archive: Archive, molecules: Iterator[ConformerSet]) -> Iterator[ConformerSet]:
    """Replace labels by the mean of them and the model's; energies in the model's zero.

    The mean difference of the energies of a molecule's frames is left out. Water and what is solved
    in it keep their labels: on liquids the teacher is better than the models are.
    """
    for molecule in molecules:
        if molecule.subset in FIXED_VARIANCES:
            yield molecule
            continue
        evaluator = build_evaluator(archive, molecule.atomic_numbers.tolist(), engine="native")
        energies, forces = labels_of(evaluator, molecule.positions)
        difference = molecule.energies - energies
        yield replace(
            molecule,
            energies=energies + 0.5 * (difference - difference.mean()),
            forces=0.5 * (molecule.forces + forces),
            formation_energies=None,
            level_of_theory=f"mean of a bundled model and: {molecule.level_of_theory}",
        )
