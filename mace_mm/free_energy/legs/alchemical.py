"""Decoupling a molecule from its surroundings with openmmtools' soft core."""

import logging

from openmmtools.alchemy import AbsoluteAlchemicalFactory, AlchemicalRegion

from mace_mm.errors import InputError
from mace_mm.free_energy.config import Conditions
from mace_mm.free_energy.conformers.isolated import add_implicit_water, isolate, uncharged
from mace_mm.free_energy.conformers.leg import conformers_of
from mace_mm.free_energy.conformers.search import End
from mace_mm.free_energy.legs.leg import GAS_CONSTANT_KJ_MOL_K, Leg, fingerprint
from mace_mm.free_energy.legs.schedule import Schedule
from mace_mm.free_energy.sampling.follow import observers_of
from mace_mm.free_energy.settings import Starts, Watch
from mace_mm.free_energy.systems.inputs import MMSystem
from mace_mm.simulation.watch.timestep import timestep_limit

logger = logging.getLogger(__name__)


_DEFAULT_STARTS = Starts()
_DEFAULT_WATCH = Watch()


def decoupling_leg(
    name: str,
    mm: MMSystem,
    schedule: Schedule,
    conditions: Conditions,
    starts: Starts = _DEFAULT_STARTS,
    watch: Watch = _DEFAULT_WATCH,
) -> Leg:
    """From the full molecule (first state) to one without charges and outer Lennard-Jones forces.

    Charges are annihilated, with exact PME; Lennard-Jones interactions inside the molecule stay.
    Soft core of openmmtools (Beutler et al., Chem. Phys. Lett. 222, 529, 1994). ``starts`` says
    which conformers it starts from, ``watch`` what is done when the molecule is destroyed.

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
    conformers = conformers_of(
        mm, lambda: _ends(mm), starts, GAS_CONSTANT_KJ_MOL_K * conditions.temperature_k
    )
    return Leg(
        name=name,
        system=system,
        positions_nm=mm.positions_nm,
        box_nm=mm.box_nm,
        schedule=schedule,
        temperature_k=conditions.temperature_k,
        pressure_bar=None if mm.box_nm is None else conditions.pressure_bar,
        origin=fingerprint(mm.system),
        observers=observers_of(
            mm.topology,
            mm.ligand,
            mm.positions_nm,
            system,
            conditions.temperature_k,
            watch,
            box_nm=mm.box_nm,
            conformers=conformers,
        ),
        timestep_limit=timestep_limit(system, mm.topology),
        conformers=conformers,
    )


def _ends(mm: MMSystem) -> tuple[End, ...]:
    """The whole and the uncharged molecule alone, the whole one in a continuum where it is
    surrounded."""
    alone = isolate(mm)
    bare = uncharged(alone.system)
    if mm.box_nm is not None:
        add_implicit_water(alone, alone.system)
    return (
        End(name="the force field", system=alone.system),
        End(name="the force field without charges", system=bare),
    )
