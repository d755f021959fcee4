"""Mixed systems of forces whose pairs depend on parameters, and of the region's images."""

import copy

import numpy as np
import openmm
import pytest
from openmmml import MLPotential

from tests.support.mixed_systems import LAMBDA, context_of, evaluate, inside_of, read, solvated

pytestmark = pytest.mark.plain
DOUBLE = {"precision": "double"}


def mix(topology, system, atoms, **options):
    return MLPotential("mace").createMixedSystem(topology, system, atoms, **{**DOUBLE, **options})


def soft_core(system, atoms, computed) -> openmm.CustomNonbondedForce:
    """A soft-core force between the ligand and everything, as tools for free energies make it.

    With a table, and a parameter derivative or a value computed per particle.
    """
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force = openmm.CustomNonbondedForce(
        "scale*lambda_sterics*4*eps*x*(x-1); x=1/(0.5*(1-lambda_sterics)+(r/sigma)^6);"
        "eps=root1*root2; sigma=half1+half2; scale=table(r)"
    )
    force.addPerParticleParameter("half")
    force.addGlobalParameter("lambda_sterics", 0.7)
    if computed:
        force.addPerParticleParameter("eps")
        force.addComputedValue("root", "sqrt(safe); safe=max(eps,0)")
    else:
        force.addPerParticleParameter("root")
        force.addEnergyParameterDerivative("lambda_sterics")
    force.addTabulatedFunction("table", openmm.Continuous1DFunction([1.0, 1.05, 0.9, 1.0], 0, 3))
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.8)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.3)
    for i in range(nonbonded.getNumParticles()):
        charge, sigma, epsilon = nonbonded.getParticleParameters(i)
        depth = epsilon._value if computed else np.sqrt(epsilon._value)
        force.addParticle([0.5 * sigma._value, depth])
        if i in atoms:
            nonbonded.setParticleParameters(i, charge, sigma, 0.0)
    for i in range(nonbonded.getNumExceptions()):
        force.addExclusion(*nonbonded.getExceptionParameters(i)[:2])
    return force


@pytest.mark.parametrize("groups", [False, True], ids=["all pairs", "interaction groups"])
def test_custom_nonbonded_force(groups):
    topology, system, positions, (atoms,) = solvated(["CCCO"])
    alone = copy.deepcopy(system)
    force = soft_core(system, set(atoms), computed=groups)
    if groups:
        rest = set(range(system.getNumParticles())) - set(atoms)
        force.addInteractionGroup(atoms, rest)
        force.addInteractionGroup(atoms, atoms)
    force.setForceGroup(9)
    system.addForce(force)
    mixed = mix(topology, system, atoms, interpolate=True)
    context = context_of(mixed, positions)
    want = evaluate(system, positions)
    zero = context_of(mixed, positions, parameters={LAMBDA: 0.0})
    got = read(zero)
    assert abs(got.energy - want.energy) < 1e-6
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-6)
    if not groups:
        name = "lambda_sterics"
        assert got.derivatives[name] == pytest.approx(want.derivatives[name], abs=1e-8)
    # At lambda = 1 the soft-core force knows pairs across the boundary only.
    outside = soft_core(copy.deepcopy(alone), set(atoms), computed=groups)
    rest = [i for i in range(system.getNumParticles()) if i not in set(atoms)]
    if groups:
        outside.addInteractionGroup(atoms, rest)
    else:
        outside.addInteractionGroup(rest, range(system.getNumParticles()))
    outside.setForceGroup(9)
    alone.addForce(outside)
    want = evaluate(alone, positions, groups=1 << 9)
    got = read(context, groups=1 << 9)
    assert abs(got.energy - want.energy) < 1e-6
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-6)


def test_charges_that_depend_on_parameters():
    topology, system, positions, (atoms,) = solvated(["CCCO"])
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    # The long-range correction does not see how parameters depend on others.
    force.setUseDispersionCorrection(False)
    force.addGlobalParameter("lambda_charges", 0.6)
    for i in atoms:
        charge, sigma, epsilon = force.getParticleParameters(i)
        force.setParticleParameters(i, 0.1 * charge, sigma, epsilon)
        force.addParticleParameterOffset("lambda_charges", i, 0.9 * charge, 0.01, 0.1)
    for index in range(force.getNumExceptions()):
        first, second, product, *_ = force.getExceptionParameters(index)
        if first in atoms and product._value:
            force.addExceptionParameterOffset("lambda_charges", index, 0.5 * product, 0.0, 0.05)
    mixed = mix(topology, system, atoms, interpolate=True)
    plain = mix(topology, system, atoms)
    for value in (0.6, 0.1):
        parameters = {"lambda_charges": value}
        baked = with_offsets_baked_in(system, value)
        for whole, factor in ((system, 0.0), (baked, 0.0), (mix(topology, baked, atoms), 1.0)):
            own = {} if whole is not system else parameters
            want = evaluate(whole, positions, parameters=own)
            got = evaluate(mixed, positions, parameters={**parameters, LAMBDA: factor})
            assert abs(got.energy - want.energy) < 1e-6
            np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-6)
        got = evaluate(plain, positions, parameters=parameters)
        assert abs(got.energy - want.energy) < 1e-6


def with_offsets_baked_in(system, value):
    """The System with its charges at one value of the parameter and no offsets."""
    baked = openmm.System()
    baked.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    for i in range(system.getNumParticles()):
        baked.addParticle(system.getParticleMass(i))
    for force in system.getForces():
        made = copy.deepcopy(force)
        if isinstance(force, openmm.NonbondedForce):
            made = openmm.NonbondedForce()
            made.setNonbondedMethod(force.getNonbondedMethod())
            made.setCutoffDistance(force.getCutoffDistance())
            made.setUseDispersionCorrection(False)
            for i in range(force.getNumParticles()):
                made.addParticle(*force.getParticleParameters(i))
            for i in range(force.getNumExceptions()):
                made.addException(*force.getExceptionParameters(i))
            for i in range(force.getNumParticleParameterOffsets()):
                _, index, *slopes = force.getParticleParameterOffset(i)
                old = [q._value for q in made.getParticleParameters(index)]
                new = [a + value * b for a, b in zip(old, slopes, strict=True)]
                made.setParticleParameters(index, *new)
            for i in range(force.getNumExceptionParameterOffsets()):
                _, index, *slopes = force.getExceptionParameterOffset(i)
                first, second, *old = made.getExceptionParameters(index)
                new = [a._value + value * b for a, b in zip(old, slopes, strict=True)]
                made.setExceptionParameters(index, first, second, *new)
        baked.addForce(made)
    return baked


def test_long_range_option_takes_the_images_out():
    topology, system, positions, (atoms,) = solvated(["CC(=O)N"], edge=1.9)
    mixed = mix(topology, system, atoms, mlLongRange=True, interpolate=True)
    plain = mix(topology, system, atoms, mlLongRange=True)
    charges_only = openmm.System()
    charges_only.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    inside = inside_of(system, atoms)
    for force in inside.getForces():
        if isinstance(force, openmm.CustomCVForce):
            charges_only.addForce(copy.deepcopy(force))
    for _ in range(system.getNumParticles()):
        charges_only.addParticle(1.0)
    # This System holds minus the energy of the images.
    images = evaluate(charges_only, positions)
    assert abs(images.energy) > 1e-3
    near = evaluate(mix(topology, system, atoms), positions)
    for made in (mixed, plain):
        got = evaluate(made, positions)
        assert abs(got.energy - near.energy - images.energy) < 1e-5
        want = near.forces + images.forces
        np.testing.assert_allclose(got.forces, want, rtol=0, atol=1e-5)
    zero = evaluate(mixed, positions, parameters={LAMBDA: 0.0})
    assert abs(zero.energy - evaluate(system, positions).energy) < 1e-6
