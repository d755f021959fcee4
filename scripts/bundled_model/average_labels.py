"""Labels averaged with a model's own: errors that differ cancel in the mean."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from combine_labels import FIXED_VARIANCES

from mace_mm.data.labels import ConformerSet
from mace_mm.deploy.archive import Archive
from mace_mm.simulation.evaluator import build_evaluator


def average_with(archive: Archive, molecules: Iterator[ConformerSet]) -> Iterator[ConformerSet]:
    """Replace labels by the mean of them and the model's; energies in the model's zero.

    The mean difference of the energies of a molecule's frames is left out. Water and what is solved
    in it keep their labels: on liquids the teacher is better than the models are.
    """
    no_cell = torch.zeros(0, dtype=torch.float64)
    for molecule in molecules:
        if molecule.subset in FIXED_VARIANCES:
            yield molecule
            continue
        evaluator = build_evaluator(archive, molecule.atomic_numbers.tolist(), engine="native")
        found = [
            evaluator.in_units(torch.from_numpy(x), no_cell, 1.0, 1.0) for x in molecule.positions
        ]
        energies = np.array([float(result[0][0]) for result in found])
        forces = np.stack([result[1].double().numpy() for result in found])
        difference = molecule.energies - energies
        yield replace(
            molecule,
            energies=energies + 0.5 * (difference - difference.mean()),
            forces=0.5 * (molecule.forces + forces),
            formation_energies=None,
            level_of_theory=f"mean of a bundled model and: {molecule.level_of_theory}",
        )
