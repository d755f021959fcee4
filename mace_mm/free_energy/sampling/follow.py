"""Which observers look at the molecule of a leg."""

from collections.abc import Sequence

import numpy as np
from openmm import app

from mace_mm.free_energy.conformers.leg import LegConformers
from mace_mm.free_energy.sampling.observers import Observer


def observers_of(
    topology: app.Topology,
    ligand: Sequence[int],
    positions_nm: np.ndarray,
    conformers: LegConformers | None = None,
) -> tuple[Observer, ...]:
    """Everything that is watched in every leg of a molecule, in the order of calling.

    Args:
        topology: of the leg's system, with the ligand's bonds.
        ligand: indices of the molecule's atoms, ascending.
        positions_nm: (n_atoms, 3) the leg's start.
        conformers: of the leg, None where they are not followed.
    """
    observers: list[Observer] = []
    if conformers is not None and (observer := conformers.observer) is not None:
        observers.append(observer)
    return tuple(observers)
