"""Decoupling a molecule from its surroundings with openmmtools' soft core."""

import logging

from openmmtools.alchemy import AbsoluteAlchemicalFactory, AlchemicalRegion

from mace_mm.errors import InputError
from mace_mm.free_energy.config import Conditions
from mace_mm.free_energy.follow import observers_of
from mace_mm.free_energy.inputs import MMSystem
from mace_mm.free_energy.leg import Leg, fingerprint
from mace_mm.free_energy.schedule import Schedule

logger = logging.getLogger(__name__)


def decoupling_leg(name: str, mm: MMSystem, schedule: Schedule, conditions: Conditions) -> Leg:
    """From the full molecule (first state) to one without charges and outer Lennard-Jones forces.

    Charges are annihilated, with exact PME; Lennard-Jones interactions inside the molecule stay.
    Soft core of openmmtools (Beutler et al., Chem. Phys. Lett. 222, 529, 1994).

    Raises:
        InputError: forces that openmmtools cannot make alchemical.
    """
    factory = AbsoluteAlchemicalFactory(
        consistent_exceptions=False,
        alchemical_pme_treatment="exact",
        disable_alchemical_dispersion_correction=False,
    )
    region = AlchemicalRegion(
        alchemical_atoms=list(mm.ligand), annihilate_electrostatics=True, annihilate_sterics=False
    )
    try:
        system = factory.create_alchemical_system(mm.system, region)
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{name} cannot be made alchemical: {error}") from error
    return Leg(
        name=name,
        system=system,
        positions_nm=mm.positions_nm,
        box_nm=mm.box_nm,
        schedule=schedule,
        temperature_k=conditions.temperature_k,
        pressure_bar=None if mm.box_nm is None else conditions.pressure_bar,
        origin=fingerprint(mm.system),
        observers=observers_of(mm.topology, mm.ligand, mm.positions_nm),
    )
