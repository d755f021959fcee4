"""Keep what the force field says about pairs of an ML region that are beyond the model's reach.

A local model knows nothing of two molecules farther apart than its cutoff, and of two ends of one
molecule farther apart than its receptive field: cutoff times layers. Where this is asked for, the
force field's pairs come in there, smoothly with their distance.

Lennard-Jones energies are multiplied by a switch of the distance. With point charges that would
not do: two parallel dipoles in a row would repel each other by more than they attract farther out,
because the switch acts on the bare charges. So it acts on neutral units
(:mod:`mace_mm.electrostatics.charge_units`), and on whole charges as a switched force (P. J.
Steinbach and B. R. Brooks, J. Comput. Chem. 15, 667, 1994), up to a constant energy.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
from openmm import unit

from mace_mm.electrostatics.charge_units import ChargeUnits
from mace_mm.errors import ConfigError
from mace_mm.ml_mm.nonbonded import (
    coulomb_potential,
    cutoff_of,
    dispersion_energy,
    reaction_field,
)
from mace_mm.ml_mm.pairs import COULOMB_KJ_MOL_NM, PairTerms
from mace_mm.ml_mm.region import Region
from mace_mm.ml_mm.virtual_sites import virtual_sites

NAME = "long range inside the ML region"
# The pairs have their full energy at this multiple of the distance where they begin.
_FULL = 1.5
# No chain of atoms is longer, nm per bond.
_LONGEST_BOND = 0.15
_MOST_PARTICLES = 1000
_SWITCH = "switch=t^3*(10+t*(6*t-15))"


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Distances from which on a model knows no interaction, nm.

    Attributes:
        within: of atoms of one molecule.
        between: of atoms of different molecules.
    """

    within: float
    between: float


def region_long_range(
    system: openmm.System, region: Region, asked: Any, known: Reach | None
) -> tuple[list[openmm.Force], list[str]]:
    """What the option ``longRangeWithinRegion`` does.

    Args:
        system: described by the force field.
        region: of the model.
        asked: whether to keep pairs beyond the reach of the model, or the distance, in nm or with
            unit, from which on they are kept; None keeps nothing and says where that matters.
        known: the reach of the model, None if it is not known.

    Returns:
        the pairs that stay, as forces, and warnings.

    Raises:
        ConfigError: True for a potential whose reach is unknown; a distance that is not positive.
    """
    reach = _chosen_reach(asked, known)
    nonbonded = [f for f in system.getForces() if isinstance(f, openmm.NonbondedForce)]
    if reach is not None:
        return [kept for f in nonbonded for kept in kept_long_range(f, system, region, reach)], []
    if asked is not None or known is None:
        return [], []
    reasons = dict.fromkeys(_left_out(force, system, region) for force in nonbonded)
    return [], [
        f"the ML region {reason}: beyond the reach of the model ({known.between:.2f} nm between "
        f"molecules, {known.within:.2f} nm within one) they do not interact; "
        "longRangeWithinRegion=True keeps what the force field has there, False says nothing"
        for reason in reasons
        if reason
    ]


def _chosen_reach(asked: Any, known: Reach | None) -> Reach | None:
    if asked is None or asked is False:
        return None
    if asked is True:
        if known is None:
            raise ConfigError(
                "longRangeWithinRegion=True needs a potential whose reach is known; pass a distance"
            )
        return known
    distance = asked.value_in_unit(unit.nanometer) if unit.is_quantity(asked) else asked
    if not isinstance(distance, int | float) or not distance > 0.0:
        raise ConfigError(
            f"longRangeWithinRegion must be True, False or a positive distance, got {asked!r}"
        )
    return Reach(within=float(distance), between=float(distance))


def kept_long_range(
    force: openmm.NonbondedForce, system: openmm.System, region: Region, reach: Reach
) -> list[openmm.Force]:
    """The pairs of a region beyond the reach of its model, as forces.

    Pairs with an exception have no part in it, nor have those that bonds hold within reach. With a
    cutoff there is nothing beyond it that the force field would have; Ewald methods have no cutoff
    for charges.

    Args:
        force: describes the pairs; as it was before anything was taken out.
        system: holds it.
        region: of the model.
        reach: of the model.
    """
    pairs = _RegionPairs(force, system, region)
    made = _charge_forces(force, pairs, reach) + _dispersion_forces(force, pairs, reach)
    for kept in made:
        kept.setUsesPeriodicBoundaryConditions(force.usesPeriodicBoundaryConditions())
        kept.setForceGroup(force.getForceGroup())
        kept.setName(NAME)
    return made


def _left_out(force: openmm.NonbondedForce, system: openmm.System, region: Region) -> str:
    """Why a region may miss what is beyond the reach of its model; empty if it hardly will.

    Separated charges are looked for in molecules of up to 1000 particles.
    """
    n_molecules = len(set(region.molecules.values()))
    if n_molecules > 1:
        return f"holds {n_molecules} molecules"
    if len(region.particles) > _MOST_PARTICLES:
        return ""
    pairs = _RegionPairs(force, system, region)
    whole = np.flatnonzero(np.abs(pairs.shares[0].sum(axis=1)) > 0.5)
    return "holds separated charges" if len(whole) > 1 else ""


class _RegionPairs:
    """Particles of a region, their charge units and which pairs of them may be far apart."""

    def __init__(self, force: openmm.NonbondedForce, system: openmm.System, region: Region) -> None:
        parents = virtual_sites(system)
        place = {particle: k for k, particle in enumerate(region.particles)}
        bonds = [*region.bonds, *((site, parents[site][0]) for site in region.sites)]
        self.terms = PairTerms(force)
        self.region = region
        self.particles = region.particles
        self.parameters = [self.terms.particle(i) for i in region.particles]
        self.units = ChargeUnits.of_bonds(
            len(place), [(place[i], place[j]) for i, j in bonds if i in place and j in place]
        )
        # Charges, then their changes per global parameter.
        columns = np.array(self.parameters)[:, ::3].T
        self.shares = [self.units.split(charges) for charges in columns]
        self._excepted = np.zeros((len(place), len(place)), dtype=bool)
        for i in range(force.getNumExceptions()):
            first, second = force.getExceptionParameters(i)[:2]
            if first in place and second in place:
                self._excepted[place[first], place[second]] = True
                self._excepted[place[second], place[first]] = True

    def apart(self, first: int, second: int) -> bool:
        """Whether two places belong to different molecules."""
        molecules = self.region.molecules
        return molecules[self.particles[first]] != molecules[self.particles[second]]

    def may_be_kept(self, ones: Sequence[int], others: Sequence[int], reach: Reach) -> bool:
        """Whether atoms at these places have no exceptions and can get beyond reach."""
        block = np.ix_(ones, others)
        if self._excepted[block].any():
            return False
        if self.apart(ones[0], others[0]):
            return True
        return bool(self.units.paths[block].mean() * _LONGEST_BOND > reach.within)


def _charge_forces(
    force: openmm.NonbondedForce, pairs: _RegionPairs, reach: Reach
) -> list[openmm.Force]:
    """Coulomb energies of pairs of units."""
    shares = np.concatenate(pairs.shares, axis=1)
    sums = np.array([s.sum(axis=1) for s in pairs.shares])
    charged: np.ndarray = np.abs(sums).max(axis=0) > 1e-9
    made: dict[tuple[bool, bool], openmm.CustomCompoundBondForce] = {}
    active = np.flatnonzero(np.abs(shares).max(axis=1) > 1e-9)
    for u, v in itertools.combinations(active.tolist(), 2):
        ones, others = pairs.units.ends[u].tolist(), pairs.units.ends[v].tolist()
        if not pairs.may_be_kept(ones, others, reach):
            continue
        apart, both = pairs.apart(ones[0], others[0]), bool(charged[u] and charged[v])
        if (apart, both) not in made:
            onset = reach.between if apart else reach.within
            made[apart, both] = _unit_force(force, onset, charged=both)
        particles = [pairs.particles[k] for k in (*ones, *others)]
        made[apart, both].addBond(particles, [*shares[u], *shares[v]])
    return list(made.values())


def _unit_force(
    force: openmm.NonbondedForce, onset: float, *, charged: bool
) -> openmm.CustomCompoundBondForce:
    """Between the charges c1, c2 of one unit and c3, c4 of another."""
    full = _FULL * onset
    energy = "switch*units"
    definitions = [
        "units=" + "+".join(f"c{i}*c{j}*v{i}{j}" for i in (1, 2) for j in (3, 4)),
    ]
    if charged:
        # Of the product of the whole charges the force is switched instead of the energy.
        energy = "switch*(units-whole*v_mean)+whole*(v_outer+t^3*(a+b*t))"
        definitions += ["whole=(c1+c2)*(c3+c4)", _potential(force, "v_mean", "r_mean")]
        definitions += [_potential(force, "v_outer", "r_outer"), f"r_outer=max(r_mean,{full!r})"]
        first, second, start = _slopes(force, full)
        width = full - onset
        b = 0.25 * (width**2 * second - 2.0 * width * first)
        definitions += [f"a={(width * first - 4.0 * b) / 3.0!r}", f"b={b!r}"]
        energy += f"-whole*{start!r}"
    definitions += [_potential(force, f"v{i}{j}", f"r{i}{j}") for i in (1, 2) for j in (3, 4)]
    definitions += [_SWITCH, f"t=min(1,max(0,(r_mean-{onset!r})/{full - onset!r}))"]
    definitions += ["r_mean=0.25*(r13+r14+r23+r24)"]
    definitions += [f"r{i}{j}=distance(p{i},p{j})" for i in (1, 2) for j in (3, 4)]
    made = openmm.CustomCompoundBondForce(4, "")
    parameters = [force.getGlobalParameterName(i) for i in range(force.getNumGlobalParameters())]
    for unit_ends in ((1, 2), (3, 4)):
        for end in unit_ends:
            terms = [f"base_c{end}"]
            terms += [f"{name}*offset{g}_c{end}" for g, name in enumerate(parameters)]
            definitions.append(f"c{end}={'+'.join(terms)}")
        for prefix in ("base", *(f"offset{g}" for g in range(len(parameters)))):
            for end in unit_ends:
                made.addPerBondParameter(f"{prefix}_c{end}")
    for i, name in enumerate(parameters):
        made.addGlobalParameter(name, force.getGlobalParameterDefaultValue(i))
    made.setEnergyFunction("; ".join([f"{COULOMB_KJ_MOL_NM!r}*({energy})", *definitions]))
    return made


def _potential(force: openmm.NonbondedForce, name: str, distance: str) -> str:
    """The definition of the potential of a unit charge."""
    return f"{name}={coulomb_potential(force, distance)}"


def _slopes(force: openmm.NonbondedForce, r: float) -> tuple[float, float, float]:
    """First and second derivative of the potential of a unit charge at r, and its value."""
    k, c = reaction_field(force)
    if c and r >= cutoff_of(force):
        return 0.0, 0.0, 0.0
    return 2.0 * k * r - 1.0 / r**2, 2.0 * k + 2.0 / r**3, 1.0 / r + k * r**2 - c


def _dispersion_forces(
    force: openmm.NonbondedForce, pairs: _RegionPairs, reach: Reach
) -> list[openmm.Force]:
    """Lennard-Jones energies of pairs of particles."""
    made: list[openmm.Force] = []
    # Particles without them have a zero in every depth and its changes.
    active = [k for k, values in enumerate(pairs.parameters) if any(values[2::3])]
    for apart, onset in ((False, reach.within), (True, reach.between)):
        t = f"t=min(1,max(0,(r-{onset!r})/{(_FULL - 1.0) * onset!r}))"
        energy = f"switch*dispersion; {_SWITCH}; {t}; {dispersion_energy(force)}"
        total = pairs.terms.sum(energy, ("1", "2"))
        for first, second in itertools.combinations(active, 2):
            if pairs.apart(first, second) == apart and pairs.may_be_kept([first], [second], reach):
                values = pairs.parameters[first] + pairs.parameters[second]
                ends = pairs.particles[first], pairs.particles[second]
                total.add(*ends, values, apart=apart)
        made += total.forces()
    return made
