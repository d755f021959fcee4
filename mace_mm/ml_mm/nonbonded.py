"""Take the interactions inside an ML region out of a NonbondedForce, exactly.

The pairs become exclusions. What they contributed is a sum over pairs, whatever the method: the
reciprocal sum of particle mesh Ewald is the same with and without exclusions, so a pair beyond the
cutoff contributed the erf part that an exclusion takes out (U. Essmann et al., J. Chem. Phys. 103,
8577, 1995), and a pair within the cutoff its whole Coulomb and Lennard-Jones energy.
"""

import itertools
import math

import openmm
from openmm import unit

from mace_mm.errors import InputError
from mace_mm.ml_mm.pairs import COULOMB_KJ_MOL_NM, PairTerms, plain
from mace_mm.ml_mm.region import Region

_EWALD = (openmm.NonbondedForce.Ewald, openmm.NonbondedForce.PME, openmm.NonbondedForce.LJPME)
_REACTION_FIELD = (openmm.NonbondedForce.CutoffNonPeriodic, openmm.NonbondedForce.CutoffPeriodic)


def exclude_inside(force: openmm.NonbondedForce, region: Region) -> list[openmm.Force]:
    """Exclude all pairs inside the region from a force, in place.

    Returns:
        forces with the energy that this removed.

    Raises:
        InputError: LJPME with a switching function.
    """
    terms = PairTerms(force)
    known = _exceptions(force)
    by_exception = terms.sum(_plain_energy(), ("",))
    by_particle = terms.sum(_pair_energy(force), ("1", "2"))
    removed = []
    for first, second in itertools.combinations(region.particles, 2):
        index = known.get((min(first, second), max(first, second)))
        apart = region.molecules[first] != region.molecules[second]
        if index is None:
            parameters = terms.particle(first) + terms.particle(second)
            by_particle.add(first, second, parameters, apart=apart)
            force.addException(first, second, 0.0, 1.0, 0.0)
            continue
        parameters = terms.exception(index)
        if any(parameters[i] for i in range(len(parameters)) if i % 3 != 1):
            by_exception.add(first, second, parameters, apart=apart)
        force.setExceptionParameters(index, first, second, 0.0, 1.0, 0.0)
        removed.append(index)
    _drop_offsets(force, set(removed))
    if force.usesPeriodicBoundaryConditions():
        # An atom of the region may be wrapped into the box without its neighbors.
        force.setExceptionsUsePeriodicBoundaryConditions(True)
    return by_particle.forces() + by_exception.forces()


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
    for first, second in itertools.combinations(region.particles, 2):
        images.addException(first, second, 0.0, 1.0, 0.0)
    images.setForceGroup(force.getForceGroup())
    return images


def _plain_energy() -> str:
    """Energy of an exception: no cutoff, no screening, whatever the method."""
    return f"{COULOMB_KJ_MOL_NM!r}*q/r + 4*eps*((sigma/r)^12-(sigma/r)^6)"


def _pair_energy(force: openmm.NonbondedForce) -> str:
    """What excluding a pair takes out of the energy."""
    charges = f"qq={COULOMB_KJ_MOL_NM!r}*q1*q2"
    return f"qq*({coulomb_potential(force)}) + dispersion; {charges}; {dispersion_energy(force)}"


def coulomb_potential(force: openmm.NonbondedForce, r: str = "r") -> str:
    """The potential of a unit charge in the energy of a pair, without the factor of its unit.

    Args:
        force: with the method.
        r: name of the distance in nm.
    """
    method = force.getNonbondedMethod()
    if method == openmm.NonbondedForce.NoCutoff:
        return f"1/{r}"
    within = f"step({cutoff_of(force)!r}-{r})"
    if method in _EWALD:
        return f"select({within}, 1, erf({_ewald_alpha(force, cutoff_of(force))!r}*{r}))/{r}"
    k, c = reaction_field(force)
    return f"{within}*(1/{r} + {k!r}*{r}^2 - {c!r})"


def cutoff_of(force: openmm.NonbondedForce) -> float:
    """The cutoff in nm."""
    return float(force.getCutoffDistance().value_in_unit(unit.nanometer))


def reaction_field(force: openmm.NonbondedForce) -> tuple[float, float]:
    """The numbers k and c of the potential 1/r + k r^2 - c, 1/nm^3 and 1/nm.

    I. G. Tironi et al., J. Chem. Phys. 102, 5451, 1995. Both are zero with another method.
    """
    if force.getNonbondedMethod() not in _REACTION_FIELD:
        return 0.0, 0.0
    cutoff = cutoff_of(force)
    dielectric = force.getReactionFieldDielectric()
    k = (dielectric - 1) / (2 * dielectric + 1) / cutoff**3
    return k, 3 * dielectric / (2 * dielectric + 1) / cutoff


def dispersion_energy(force: openmm.NonbondedForce) -> str:
    """Definitions of the Lennard-Jones energy `dispersion` of two particles at the distance r.

    They define `within` too, 1 up to the cutoff and 0 beyond.
    """
    mixing = "sigma=0.5*(sigma1+sigma2); eps=sqrt(eps1*eps2)"
    plain_lj = "4*eps*((sigma/r)^12-(sigma/r)^6)"
    method = force.getNonbondedMethod()
    if method == openmm.NonbondedForce.NoCutoff:
        return f"dispersion={plain_lj}; {mixing}"
    cutoff = cutoff_of(force)
    within = f"within=step({cutoff!r}-r)"
    if method == openmm.NonbondedForce.LJPME:
        inside, beyond = _ljpme_energy(force, cutoff)
        return f"dispersion=within*({inside}){beyond}; {within}; {mixing}"
    if not force.getUseSwitchingFunction():
        return f"dispersion=within*{plain_lj}; {within}; {mixing}"
    start = force.getSwitchingDistance().value_in_unit(unit.nanometer)
    x = f"x=min(1,max(0,(r-{start!r})/{cutoff - start!r}))"
    switch = "(1+x^3*(-10+x*(15-6*x)))"
    return f"dispersion=within*{switch}*{plain_lj}; {within}; {x}; {mixing}"


def _ljpme_energy(force: openmm.NonbondedForce, cutoff: float) -> tuple[str, str]:
    """Lennard-Jones with mesh dispersion: within the cutoff, and what is beyond it.

    The mesh part of a pair uses the geometric mean of sigma (C. L. Wennberg et al., J. Chem. Theory
    Comput. 9, 3527, 2013); OpenMM shifts the direct part to zero at the cutoff.
    """
    if force.getUseSwitchingFunction():
        raise InputError("LJPME with a switching function is not supported: switch it off")
    alpha = plain(force.getLJPMEParameters()[:1])[0]
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
    alpha = plain(force.getPMEParameters()[:1])[0] if explicit else 0.0
    return alpha if alpha != 0.0 else _alpha_of_tolerance(force, cutoff)


def _alpha_of_tolerance(force: openmm.NonbondedForce, cutoff: float) -> float:
    """OpenMM's rule for the width of the Ewald charges, in 1/nm."""
    return math.sqrt(-math.log(2 * force.getEwaldErrorTolerance())) / cutoff


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
