"""Take the interactions inside an ML region out of a NonbondedForce, exactly.

The pairs become exclusions. What they contributed is a sum over pairs, whatever the method: the
reciprocal sum of particle mesh Ewald is the same with and without exclusions, so a pair beyond the
cutoff contributed the erf part that an exclusion takes out (U. Essmann et al., J. Chem. Phys. 103,
8577, 1995), and a pair within the cutoff its whole Coulomb and Lennard-Jones energy.
"""

import itertools
import math
from collections import defaultdict
from typing import Any

import openmm
from openmm import unit

from mace_mm.errors import InputError
from mace_mm.simulation.ml_mm_region import Region
from mace_mm.units import ANGSTROM_TO_NM, COULOMB_EV_ANGSTROM, EV_TO_KJ_MOL

COULOMB_KJ_MOL_NM = COULOMB_EV_ANGSTROM * EV_TO_KJ_MOL * ANGSTROM_TO_NM

_EWALD = (openmm.NonbondedForce.Ewald, openmm.NonbondedForce.PME, openmm.NonbondedForce.LJPME)
_REACTION_FIELD = (openmm.NonbondedForce.CutoffNonPeriodic, openmm.NonbondedForce.CutoffPeriodic)
# Kinds of parameters: charge, sigma, epsilon of a particle; charge product first for an exception.
_KINDS = ("q", "sigma", "eps")

# Change of one of three parameters per unit of a global parameter.
Offsets = dict[str, tuple[float, float, float]]


def exclude_inside(force: openmm.NonbondedForce, region: Region) -> list[openmm.CustomBondForce]:
    """Exclude all pairs inside the region from a force, in place.

    Returns:
        forces with the energy that this removed.

    Raises:
        InputError: LJPME with a switching function.
    """
    pairs = _PairTerms(force)
    known = _exceptions(force)
    by_exception = pairs.make(force, ("",), _plain_energy())
    by_particle = pairs.make(force, ("1", "2"), _pair_energy(force))
    removed = []
    for first, second in itertools.combinations(region.atoms, 2):
        index = known.get((min(first, second), max(first, second)))
        if index is None:
            parameters = pairs.particle(first) + pairs.particle(second)
            by_particle.addBond(first, second, parameters)
            force.addException(first, second, 0.0, 1.0, 0.0)
            continue
        parameters = pairs.exception(index)
        if any(parameters[i] for i in range(len(parameters)) if i % 3 != 1):
            by_exception.addBond(first, second, parameters)
        force.setExceptionParameters(index, first, second, 0.0, 1.0, 0.0)
        removed.append(index)
    _drop_offsets(force, set(removed))
    if _is_periodic(force):
        # An atom of the region may be wrapped into the box without its neighbors.
        force.setExceptionsUsePeriodicBoundaryConditions(True)
    return [f for f in (by_particle, by_exception) if f.getNumBonds()]


def images_of_region(force: openmm.NonbondedForce, region: Region) -> openmm.NonbondedForce:
    """The Coulomb energy of the region with its own periodic images, as the force computes it.

    Raises:
        InputError: the force is not periodic with Ewald summation.
    """
    if force.getNonbondedMethod() not in _EWALD:
        raise InputError(
            "mlLongRange=True needs a force field with Ewald, PME or LJPME electrostatics, got "
            f"method {force.getNonbondedMethod()}"
        )
    images = openmm.NonbondedForce()
    images.setNonbondedMethod(openmm.NonbondedForce.PME)
    images.setCutoffDistance(force.getCutoffDistance())
    images.setEwaldErrorTolerance(force.getEwaldErrorTolerance())
    images.setPMEParameters(*force.getPMEParameters())
    images.setExceptionsUsePeriodicBoundaryConditions(True)
    for i in range(force.getNumParticles()):
        charge = force.getParticleParameters(i)[0] if i in region else 0.0
        images.addParticle(charge, 1.0, 0.0)
    for first, second in itertools.combinations(region.atoms, 2):
        images.addException(first, second, 0.0, 1.0, 0.0)
    images.setForceGroup(force.getForceGroup())
    return images


class _PairTerms:
    """Parameters of a NonbondedForce with their dependence on its global parameters."""

    def __init__(self, force: openmm.NonbondedForce) -> None:
        self._force = force
        self._particle_offsets: dict[int, Offsets] = defaultdict(dict)
        self._exception_offsets: dict[int, Offsets] = defaultdict(dict)
        for i in range(force.getNumParticleParameterOffsets()):
            name, index, *scales = force.getParticleParameterOffset(i)
            _add(self._particle_offsets[index], name, scales)
        for i in range(force.getNumExceptionParameterOffsets()):
            name, index, *scales = force.getExceptionParameterOffset(i)
            _add(self._exception_offsets[index], name, scales)
        self._globals = [
            force.getGlobalParameterName(i) for i in range(force.getNumGlobalParameters())
        ]

    def particle(self, index: int) -> list[float]:
        """Parameters of a particle: q, sigma, eps, then their changes per global parameter."""
        values = _plain(self._force.getParticleParameters(index))
        return values + self._scales(self._particle_offsets.get(index, {}))

    def exception(self, index: int) -> list[float]:
        """The same of an exception, with the charge product for q."""
        values = _plain(self._force.getExceptionParameters(index)[2:])
        return values + self._scales(self._exception_offsets.get(index, {}))

    def _scales(self, offsets: Offsets) -> list[float]:
        return [x for name in self._globals for x in offsets.get(name, (0.0, 0.0, 0.0))]

    def make(
        self, force: openmm.NonbondedForce, suffixes: tuple[str, ...], energy: str
    ) -> openmm.CustomBondForce:
        """An empty bond force whose parameters come from :meth:`particle` or :meth:`exception`."""
        definitions = []
        names = []
        for end in suffixes:
            names += [f"base_{kind}{end}" for kind in _KINDS]
            for g in range(len(self._globals)):
                names += [f"offset{g}_{kind}{end}" for kind in _KINDS]
            for kind in _KINDS:
                terms = [f"base_{kind}{end}"]
                terms += [f"{p}*offset{g}_{kind}{end}" for g, p in enumerate(self._globals)]
                definitions.append(f"{kind}{end}={'+'.join(terms)}")
        made = openmm.CustomBondForce("; ".join([energy, *definitions]))
        for name in names:
            made.addPerBondParameter(name)
        for i, name in enumerate(self._globals):
            made.addGlobalParameter(name, force.getGlobalParameterDefaultValue(i))
        made.setUsesPeriodicBoundaryConditions(_is_periodic(force))
        made.setForceGroup(force.getForceGroup())
        made.setName(f"{force.getName()} inside the ML region")
        return made


def _plain_energy() -> str:
    """Energy of an exception: no cutoff, no screening, whatever the method."""
    return f"{COULOMB_KJ_MOL_NM!r}*q/r + 4*eps*((sigma/r)^12-(sigma/r)^6)"


def _pair_energy(force: openmm.NonbondedForce) -> str:
    """What excluding a pair takes out of the energy."""
    method = force.getNonbondedMethod()
    mixing = f"sigma=0.5*(sigma1+sigma2); eps=sqrt(eps1*eps2); qq={COULOMB_KJ_MOL_NM!r}*q1*q2"
    dispersion = "4*eps*((sigma/r)^12-(sigma/r)^6)"
    if method == openmm.NonbondedForce.NoCutoff:
        return f"qq/r + {dispersion}; {mixing}"
    cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
    within = f"within=step({cutoff!r}-r)"
    beyond_lj = ""
    if method == openmm.NonbondedForce.LJPME:
        dispersion, beyond_lj = _ljpme_energy(force, cutoff)
    elif force.getUseSwitchingFunction():
        start = force.getSwitchingDistance().value_in_unit(unit.nanometer)
        x = f"min(1,max(0,(r-{start!r})/{cutoff - start!r}))"
        dispersion = f"(1+x^3*(-10+x*(15-6*x)))*{dispersion}"
        within += f"; x={x}"
    if method in _REACTION_FIELD:
        dielectric = force.getReactionFieldDielectric()
        k = (dielectric - 1) / (2 * dielectric + 1) / cutoff**3
        c = 3 * dielectric / (2 * dielectric + 1) / cutoff
        return f"within*(qq*(1/r + {k!r}*r^2 - {c!r}) + {dispersion}); {within}; {mixing}"
    alpha = _ewald_alpha(force, cutoff)
    coulomb = f"qq/r*select(within, 1, erf({alpha!r}*r))"
    return f"{coulomb} + within*({dispersion}){beyond_lj}; {within}; {mixing}"


def _ljpme_energy(force: openmm.NonbondedForce, cutoff: float) -> tuple[str, str]:
    """Lennard-Jones with mesh dispersion: within the cutoff, and what is beyond it.

    The mesh part of a pair uses the geometric mean of sigma (C. L. Wennberg et al., J. Chem. Theory
    Comput. 9, 3527, 2013); OpenMM shifts the direct part to zero at the cutoff.
    """
    if force.getUseSwitchingFunction():
        raise InputError("LJPME with a switching function is not supported: switch it off")
    alpha = _plain(force.getLJPMEParameters()[:1])[0]
    if alpha == 0.0:
        alpha = _alpha_of_tolerance(force, cutoff)

    def mesh(r: str) -> str:
        a2 = f"({alpha!r}*{r})^2"
        screened = f"(1-exp(-{a2})*(1+{a2}+0.5*{a2}^2))"
        return f"4*eps*(sigma1*sigma2)^3/{r}^6*{screened}"

    at_cutoff = f"4*eps*((sigma/{cutoff!r})^12-(sigma/{cutoff!r})^6)"
    inside = f"4*eps*((sigma/r)^12-(sigma/r)^6) - ({at_cutoff}) - {mesh(repr(cutoff))}"
    return inside, f" - (1-within)*{mesh('r')}"


def _ewald_alpha(force: openmm.NonbondedForce, cutoff: float) -> float:
    # Only the mesh method takes the width from the user.
    explicit = force.getNonbondedMethod() != openmm.NonbondedForce.Ewald
    alpha = _plain(force.getPMEParameters()[:1])[0] if explicit else 0.0
    return alpha if alpha != 0.0 else _alpha_of_tolerance(force, cutoff)


def _alpha_of_tolerance(force: openmm.NonbondedForce, cutoff: float) -> float:
    """OpenMM's rule for the width of the Ewald charges, in 1/nm."""
    return math.sqrt(-math.log(2 * force.getEwaldErrorTolerance())) / cutoff


def _is_periodic(force: openmm.NonbondedForce) -> bool:
    return bool(force.usesPeriodicBoundaryConditions())


def _exceptions(force: openmm.NonbondedForce) -> dict[tuple[int, int], int]:
    found = {}
    for i in range(force.getNumExceptions()):
        first, second = force.getExceptionParameters(i)[:2]
        found[min(first, second), max(first, second)] = i
    return found


def _drop_offsets(force: openmm.NonbondedForce, exceptions: set[int]) -> None:
    for i in range(force.getNumExceptionParameterOffsets()):
        name, index = force.getExceptionParameterOffset(i)[:2]
        if index in exceptions:
            force.setExceptionParameterOffset(i, name, index, 0.0, 0.0, 0.0)


def _add(offsets: Offsets, name: str, scales: list[float]) -> None:
    old = offsets.get(name, (0.0, 0.0, 0.0))
    offsets[name] = (old[0] + scales[0], old[1] + scales[1], old[2] + scales[2])


def _plain(quantities: list[Any]) -> list[float]:
    """Numbers in OpenMM's units of nm, kJ/mol and e."""
    return [
        q.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(q) else float(q)
        for q in quantities
    ]
