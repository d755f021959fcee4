"""Hydrogen mass repartitioning: heavier hydrogens allow longer steps and change no free energy."""

import openmm
from openmm import app, unit

from mace_mm.errors import ConfigError


def repartition(
    topology: app.Topology, system: openmm.System, atoms: tuple[int, ...], mass_amu: float
) -> None:
    """Move mass from heavy atoms to the hydrogens bonded to them; in place.

    Masses drop out of every configurational average (Hopkins et al., J. Chem. Theory Comput. 11,
    1864, 2015).

    Raises:
        ConfigError: a heavy atom would become lighter than its hydrogens.
    """
    inside = set(atoms)
    for bond in topology.bonds():
        first, second = bond[0], bond[1]
        if first.element == app.element.hydrogen:
            first, second = second, first
        if second.element != app.element.hydrogen or first.element == app.element.hydrogen:
            continue
        if first.index not in inside or second.index not in inside:
            continue
        moved = mass_amu - system.getParticleMass(second.index).value_in_unit(unit.dalton)
        if moved <= 0.0:
            continue  # deuterium or tritium, heavy enough
        left = system.getParticleMass(first.index).value_in_unit(unit.dalton) - moved
        if left < mass_amu:
            raise ConfigError(
                f"hydrogens of {mass_amu} amu leave {left:.2f} amu for atom {first.index} "
                f"({first.element.symbol}): choose a smaller hydrogen mass"
            )
        system.setParticleMass(first.index, left)
        system.setParticleMass(second.index, mass_amu)
