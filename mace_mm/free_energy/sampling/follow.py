"""Which observers look at the molecule of a leg."""

from collections.abc import Sequence

import numpy as np
import openmm
from openmm import app

from mace_mm.free_energy.conformers.leg import LegConformers
from mace_mm.free_energy.sampling.molecule_observer import ForceErrors, molecule_observer
from mace_mm.free_energy.sampling.observers import Observer
from mace_mm.free_energy.settings import Watch
from mace_mm.simulation.watch.settings import WatchSettings


def observers_of(
    topology: app.Topology,
    ligand: Sequence[int],
    positions_nm: np.ndarray,
    system: openmm.System,
    temperature_k: float,
    watch: Watch,
    *,
    box_nm: np.ndarray | None = None,
    conformers: LegConformers | None = None,
    force_errors: ForceErrors | None = None,
) -> tuple[Observer, ...]:
    """Everything that is watched in every leg of a molecule, in the order of calling.

    Args:
        topology: of the leg's system, with the ligand's bonds.
        ligand: indices of the molecule's atoms, ascending.
        positions_nm: (n_atoms, 3) the leg's start.
        system: of the leg, for masses and constraints.
        temperature_k: of the leg.
        watch: what is done about a molecule that changes.
        box_nm: (3, 3) rows, None without periodic boundaries.
        conformers: of the leg, None where they are not followed.
        force_errors: of the model, None where they are not known.
    """
    observers: list[Observer] = []
    if watch.action != "off":
        observers.append(
            molecule_observer(
                topology,
                system,
                ligand,
                positions_nm,
                temperature_k,
                WatchSettings(watch=watch.action),
                box_nm=box_nm,
                force_errors=force_errors,
            )
        )
    if conformers is not None and (observer := conformers.observer) is not None:
        observers.append(observer)
    return tuple(observers)
