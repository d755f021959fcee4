"""The legs behind corrections of binding free energies, and the check that they belong together."""

from openmm import app

from mace_mm.errors import InputError
from mace_mm.free_energy.jobs.binding_config import BindingConfig
from mace_mm.free_energy.jobs.correct import place_in_environment
from mace_mm.free_energy.legs.end_state import INTERPOLATION_PARAMETER, end_state_leg
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.restraints import RESTRAINT_PARAMETER, restrain
from mace_mm.free_energy.legs.schedule import even_lambdas, linear_schedule, restrained_schedule
from mace_mm.free_energy.protocol import Protocol
from mace_mm.free_energy.systems.inputs import MMSystem

COMPLEX, SOLVENT = "complex", "solvent"


def binding_protocol(config: BindingConfig) -> Protocol:
    """The part of the configuration that sampling needs."""
    return Protocol(
        windows=config.windows,
        switching=config.switching,
        dynamics=config.dynamics,
        execution=config.execution,
        limits=config.limits,
    )


def binding_legs(config: BindingConfig) -> dict[tuple[str, str], Leg]:
    """Both legs of every ligand, the solvent first: it costs less and fails early.

    Raises:
        InputError: a ligand that is not the same in both places, or is not a part of its complex.
    """
    lambdas = even_lambdas(2) if config.windows is None else config.windows.lambdas
    mass = config.dynamics.hydrogen_mass_amu
    legs = {}
    for ligand in config.ligands:
        places = {
            SOLVENT: place_in_environment(
                ligand.solvent, config.solvent_environment, config.solvent, mass, config.potential
            ),
            COMPLEX: place_in_environment(
                ligand.complex, "as_given", config.solvent, mass, config.potential
            ),
        }
        check_same_ligand(ligand.name, places[SOLVENT], places[COMPLEX])
        for place, mm in places.items():
            schedule = linear_schedule(lambdas, INTERPOLATION_PARAMETER)
            further = []
            if place == COMPLEX and config.restraint is not None:
                schedule = restrained_schedule(
                    lambdas,
                    INTERPOLATION_PARAMETER,
                    config.restraint.lambdas,
                    RESTRAINT_PARAMETER,
                )
                further = [restrain(mm, config.restraint).force(mm.box_nm is not None)]
            legs[ligand.name, place] = end_state_leg(
                f"{ligand.name}_{place}",
                mm,
                config.potential,
                schedule,
                config.conditions,
                further,
                config.starts,
                config.watch,
            )
    return legs


def check_same_ligand(name: str, solvent: MMSystem, complexed: MMSystem) -> None:
    """The correction is meaningful only if the model sees the same molecule in both places.

    Raises:
        InputError: other elements, another order, other bonds; or a complex without surroundings.
    """
    if complexed.is_alone:
        raise InputError(f"ligand {name}: its complex holds nothing but the ligand")
    atoms = {SOLVENT: solvent, COMPLEX: complexed}
    elements = {place: _elements(mm) for place, mm in atoms.items()}
    if elements[SOLVENT] != elements[COMPLEX]:
        raise InputError(
            f"ligand {name} must have the same atoms in the same order in solvent and complex, "
            f"got {' '.join(elements[SOLVENT])} and {' '.join(elements[COMPLEX])}"
        )
    bonds = {place: _bonds(mm) for place, mm in atoms.items()}
    if bonds[SOLVENT] != bonds[COMPLEX]:
        raise InputError(
            f"ligand {name} must have the same bonds in solvent and complex; these differ: "
            f"{sorted(bonds[SOLVENT] ^ bonds[COMPLEX])}"
        )


def _elements(mm: MMSystem) -> list[str]:
    inside = set(mm.ligand)
    return [_symbol(atom) for atom in mm.topology.atoms() if atom.index in inside]


def _symbol(atom: app.topology.Atom) -> str:
    return "none" if atom.element is None else str(atom.element.symbol)


def _bonds(mm: MMSystem) -> set[tuple[int, int]]:
    place = {atom: index for index, atom in enumerate(mm.ligand)}
    pairs = [(bond[0].index, bond[1].index) for bond in mm.topology.bonds()]
    return {
        (min(place[i], place[j]), max(place[i], place[j]))
        for i, j in pairs
        if i in place and j in place
    }
