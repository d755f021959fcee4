"""Take the interactions inside an ML region out of a CustomNonbondedForce, exactly.

Alchemical systems describe soft-core interactions this way. The pairs become exclusions, and their
energy is moved to a CustomCompoundBondForce with the same expression.
"""

import itertools
import re

import openmm
from openmm import unit

from mace_mm.ml_mm.region import Region

_NAME = re.compile(r"[A-Za-z_]\w*")
_PERIODIC = openmm.CustomNonbondedForce.CutoffPeriodic


def exclude_inside_custom(
    force: openmm.CustomNonbondedForce, region: Region
) -> list[openmm.CustomCompoundBondForce]:
    """Exclude all pairs inside the region from a force, in place.

    Interaction groups, cutoff, switching function, computed values, tables and parameter
    derivatives are honored. A long-range correction stays as it is: it does not depend on
    exclusions.

    Returns:
        a force with the energy that this removed, or no force if that is none.
    """
    excluded = {frozenset(force.getExclusionParticles(i)) for i in range(force.getNumExclusions())}
    groups = [
        force.getInteractionGroupParameters(i) for i in range(force.getNumInteractionGroups())
    ]
    members = [(frozenset(first), frozenset(second)) for first, second in groups]
    removed = _make_bond_force(force)
    for first, second in itertools.combinations(region.particles, 2):
        if frozenset((first, second)) in excluded:
            continue
        force.addExclusion(first, second)
        for one, other in _interacting(first, second, members):
            values = [*force.getParticleParameters(one), *force.getParticleParameters(other)]
            removed.addBond([one, other], values)
    return [removed] if removed.getNumBonds() else []


def _interacting(
    first: int, second: int, groups: list[tuple[frozenset[int], frozenset[int]]]
) -> list[tuple[int, int]]:
    """The pair once for every interaction group that computes it; once if there are no groups."""
    if not groups:
        return [(first, second)]
    found = []
    for ones, others in groups:
        if first in ones and second in others:
            found.append((first, second))
        elif second in ones and first in others:
            found.append((second, first))
    return found


def _make_bond_force(force: openmm.CustomNonbondedForce) -> openmm.CustomCompoundBondForce:
    parameters = [
        force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())
    ]
    periodic = force.getNonbondedMethod() == _PERIODIC
    made = openmm.CustomCompoundBondForce(2, _energy(force, parameters))
    for end in "12":
        for name in parameters:
            made.addPerBondParameter(_renamed(name, end))
    for i in range(force.getNumGlobalParameters()):
        made.addGlobalParameter(
            force.getGlobalParameterName(i), force.getGlobalParameterDefaultValue(i)
        )
    for i in range(force.getNumEnergyParameterDerivatives()):
        made.addEnergyParameterDerivative(force.getEnergyParameterDerivativeName(i))
    for i in range(force.getNumTabulatedFunctions()):
        table = force.getTabulatedFunction(i)
        made.addTabulatedFunction(force.getTabulatedFunctionName(i), table.__copy__())
    made.setUsesPeriodicBoundaryConditions(periodic)
    made.setForceGroup(force.getForceGroup())
    made.setName(f"{force.getName()} inside the ML region")
    return made


def _renamed(name: str, end: str) -> str:
    """Name of a per-particle quantity in the bond force, where p1 and p2 are the particles."""
    return f"of_particle{end}_{name}"


def _energy(force: openmm.CustomNonbondedForce, parameters: list[str]) -> str:
    """The pair expression with particle 1 and 2 spelled out, its cutoff and switching function."""
    computed = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
    quantities = [*parameters, *(name for name, _ in computed)]
    renames = {f"{name}{end}": _renamed(name, end) for name in quantities for end in "12"}
    first, *definitions = force.getEnergyFunction().split(";")
    energy = f"({_rename(first, renames)})"
    definitions = [_rename(text, renames) for text in definitions if text.strip()]
    for end in "12":
        for name, expression in computed:
            definitions += _computed_value(name, expression, parameters, end)
    if force.getNonbondedMethod() != openmm.CustomNonbondedForce.NoCutoff:
        cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
        energy = f"step({cutoff!r}-r)*{energy}"
        if force.getUseSwitchingFunction():
            start = force.getSwitchingDistance().value_in_unit(unit.nanometer)
            energy = f"(1+switch_x^3*(-10+switch_x*(15-6*switch_x)))*{energy}"
            definitions.append(f"switch_x=min(1,max(0,(r-{start!r})/{cutoff - start!r}))")
    # A definition may use those that come after it.
    return "; ".join([energy, *definitions, "r=distance(p1,p2)"])


def _computed_value(name: str, expression: str, parameters: list[str], end: str) -> list[str]:
    """Definitions that compute a per-particle value of one of the two particles."""
    first, *definitions = (text for text in expression.split(";") if text.strip())
    locals_ = [text.split("=", 1)[0].strip() for text in definitions]
    renames = {own: _renamed(own, end) for own in [*parameters, *locals_]}
    lines = [f"{_renamed(name, end)}={_rename(first, renames)}"]
    return lines + [_rename(text, renames) for text in definitions]


def _rename(expression: str, renames: dict[str, str]) -> str:
    return _NAME.sub(lambda match: renames.get(match.group(), match.group()), expression)
