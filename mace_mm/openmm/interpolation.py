"""Linear interpolation between a force field (0) and a mixed system (1).

The energy is E(0) + lambda (E(1) - E(0)); OpenMM computes its derivative when asked with
``getState(parameterDerivatives=True)``. Terms of the force field inside the ML region carry the
factor 1 - lambda, the model carries lambda, everything else is left alone.
"""

import copy

import openmm

from mace_mm.errors import InputError

PARAMETER = "lambda_interpolate"
# The model is not evaluated at lambda = 0, unless this parameter is 1: only then is the derivative
# known there.
AT_ZERO = "evaluate_ml_at_zero"

_ON = f"(1-{PARAMETER})"


def fade_out(force: openmm.Force) -> openmm.Force:
    """A force with energy (1 - lambda) times that of the given one, in the same group.

    Args:
        force: bonded terms; it is not changed.
    """
    return _scale(force, _ON)


def fade_in_terms(force: openmm.Force) -> openmm.Force:
    """The same with lambda times the energy."""
    return _scale(force, PARAMETER)


def _scale(force: openmm.Force, factor: str) -> openmm.Force:
    scaled = _custom_form(force)
    if scaled is None:
        scaled = openmm.CustomCVForce(f"{factor}*terms")
        scaled.addCollectiveVariable("terms", copy.deepcopy(force))
    else:
        first, *definitions = scaled.getEnergyFunction().split(";")
        scaled.setEnergyFunction(";".join([f"{factor}*({first})", *definitions]))
    declare_parameter(scaled, PARAMETER, 1.0)
    scaled.addEnergyParameterDerivative(PARAMETER)
    scaled.setForceGroup(force.getForceGroup())
    scaled.setName(force.getName())
    return scaled


def fade_in(force: openmm.Force, *, skipped: bool = False, sign: int = 1) -> openmm.Force:
    """A force with energy sign lambda times that of the given one, in the same group.

    Args:
        force: not part of a System; it is consumed.
        skipped: whether the force itself is not evaluated at lambda = 0. The derivative is then
            not known there and reads infinity, so that nothing is silently wrong.
        sign: 1 or -1.
    """
    energy = f"{sign}*{PARAMETER}*model"
    if skipped:
        # Zero energy and zero force, but an infinite derivative where the model was skipped.
        energy += f"+select(max({PARAMETER},{AT_ZERO}),0,sqrt({PARAMETER}))"
    scaled = openmm.CustomCVForce(energy)
    scaled.setForceGroup(force.getForceGroup())
    scaled.setName(force.getName())
    scaled.addCollectiveVariable("model", force)
    declare_parameter(scaled, PARAMETER, 1.0)
    if skipped:
        declare_parameter(scaled, AT_ZERO, 0.0)
    scaled.addEnergyParameterDerivative(PARAMETER)
    return scaled


def declare_parameter(force: openmm.Force, name: str, default: float) -> None:
    """Add a global parameter unless the force has it already.

    Raises:
        InputError: it has it with another default.
    """
    for i in range(force.getNumGlobalParameters()):
        if force.getGlobalParameterName(i) == name:
            got = force.getGlobalParameterDefaultValue(i)
            if got != default:
                raise InputError(
                    f"the global parameter {name!r} starts at {default}, but the force "
                    f"{force.getName()!r} already has it starting at {got}"
                )
            return
    force.addGlobalParameter(name, default)


def _custom_form(force: openmm.Force) -> openmm.Force | None:
    """The force with an energy expression, or None if its kind has no such form."""
    kinds = (
        openmm.CustomBondForce,
        openmm.CustomAngleForce,
        openmm.CustomTorsionForce,
        openmm.CustomCompoundBondForce,
    )
    if isinstance(force, kinds):
        return copy.deepcopy(force)
    makers = {
        openmm.HarmonicBondForce: _harmonic_bonds,
        openmm.HarmonicAngleForce: _harmonic_angles,
        openmm.PeriodicTorsionForce: _periodic_torsions,
        openmm.RBTorsionForce: _rb_torsions,
    }
    maker = makers.get(type(force))
    if maker is None:
        return None
    custom = maker(force)
    custom.setUsesPeriodicBoundaryConditions(force.usesPeriodicBoundaryConditions())
    return custom


def _harmonic_bonds(force: openmm.HarmonicBondForce) -> openmm.CustomBondForce:
    custom = openmm.CustomBondForce("0.5*k*(r-r0)^2")
    for name in ("r0", "k"):
        custom.addPerBondParameter(name)
    for i in range(force.getNumBonds()):
        first, second, *parameters = force.getBondParameters(i)
        custom.addBond(first, second, parameters)
    return custom


def _harmonic_angles(force: openmm.HarmonicAngleForce) -> openmm.CustomAngleForce:
    custom = openmm.CustomAngleForce("0.5*k*(theta-theta0)^2")
    for name in ("theta0", "k"):
        custom.addPerAngleParameter(name)
    for i in range(force.getNumAngles()):
        first, second, third, *parameters = force.getAngleParameters(i)
        custom.addAngle(first, second, third, parameters)
    return custom


def _periodic_torsions(force: openmm.PeriodicTorsionForce) -> openmm.CustomTorsionForce:
    custom = openmm.CustomTorsionForce("k*(1+cos(n*theta-phase))")
    for name in ("n", "phase", "k"):
        custom.addPerTorsionParameter(name)
    for i in range(force.getNumTorsions()):
        first, second, third, fourth, *parameters = force.getTorsionParameters(i)
        custom.addTorsion(first, second, third, fourth, parameters)
    return custom


def _rb_torsions(force: openmm.RBTorsionForce) -> openmm.CustomTorsionForce:
    # psi = theta - pi, so that cos(psi) = -cos(theta).
    names = [f"c{i}" for i in range(6)]
    series = "+".join(f"{name}*(-cos(theta))^{i}" for i, name in enumerate(names))
    custom = openmm.CustomTorsionForce(series)
    for name in names:
        custom.addPerTorsionParameter(name)
    for i in range(force.getNumTorsions()):
        first, second, third, fourth, *parameters = force.getTorsionParameters(i)
        custom.addTorsion(first, second, third, fourth, parameters)
    return custom
