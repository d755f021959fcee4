"""E = E_MM(all) - E_MM(region) + E_ML(region), for energies and forces, and lambda between."""

import itertools

import numpy as np
import openmm
import pytest
from openmm import app
from openmmml import MLPotential

from tests.support.mixed_systems import (
    LAMBDA,
    alanine_dipeptide,
    context_of,
    evaluate,
    inside_of,
    read,
    toluene,
    topology_of_part,
    tyk2,
)

pytestmark = pytest.mark.plain

PLATFORMS = [
    openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
]
SYSTEMS = {"alanine dipeptide": alanine_dipeptide, "toluene": toluene, "TYK2 ligand": tyk2}
# kJ/mol and kJ/mol/nm. Other platforms compute nonbonded forces in single precision: the difference
# to Reference of the force field alone is taken off.
EXACT, ROUNDED = 1e-5, 1e-2


@pytest.fixture(scope="module", params=SYSTEMS)
def parts(request, shared_dir):
    """Everything on the Reference platform that does not depend on the mixed system."""
    topology, mm, positions, atoms = SYSTEMS[request.param](shared_dir)
    potential = MLPotential("mace")
    region_ml = potential.createSystem(
        topology_of_part(topology, atoms), precision="double", removeCMMotion=False
    )
    mixed = {
        interpolate: potential.createMixedSystem(
            topology, mm, iter(atoms), interpolate=interpolate, precision="double", forceGroup=5
        )
        for interpolate in (False, True)
    }
    whole = evaluate(mm, positions)
    inside = evaluate(inside_of(mm, atoms), positions)
    model = evaluate(region_ml, positions[atoms])
    forces = whole.forces - inside.forces
    forces[atoms] += model.forces
    energy = whole.energy - inside.energy + model.energy
    return mm, mixed, positions, (whole.energy, whole.forces), (energy, forces)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_energy_and_forces(parts, platform):
    mm, mixed, positions, zero, one = parts
    bound = EXACT if platform == "Reference" else ROUNDED
    here = evaluate(mm, positions, platform)
    rounding = here.energy - zero[0]
    force_rounding = here.forces - zero[1]
    got = evaluate(mixed[False], positions, platform)
    assert abs(got.energy - rounding - one[0]) < bound
    np.testing.assert_allclose(got.forces - force_rounding, one[1], rtol=0, atol=bound)
    context = context_of(mixed[True], positions, platform)
    for factor in (0.0, 0.25, 0.5, 1.0):
        context.setParameter(LAMBDA, factor)
        got = read(context)
        want = (1 - factor) * zero[0] + factor * one[0]
        assert abs(got.energy - rounding - want) < bound
        forces = (1 - factor) * zero[1] + factor * one[1]
        np.testing.assert_allclose(got.forces - force_rounding, forces, rtol=0, atol=bound)
        if factor:
            difference = one[0] - zero[0]
            assert got.derivatives[LAMBDA] == pytest.approx(difference, rel=1e-6)


METHODS = {
    "NoCutoff": app.NoCutoff,
    "CutoffNonPeriodic": app.CutoffNonPeriodic,
    "CutoffPeriodic": app.CutoffPeriodic,
    "Ewald": app.Ewald,
    "PME": app.PME,
    "LJPME": app.LJPME,
}


@pytest.mark.parametrize("method", METHODS)
def test_lambda_zero_is_the_force_field_for_every_method(shared_dir, method):
    """The cutoff is shorter than the region: pairs of the region lie on both sides of it."""
    options = {} if method == "LJPME" else {"switchDistance": 0.5}
    topology, mm, positions, atoms = alanine_dipeptide(
        shared_dir, METHODS[method], nonbondedCutoff=0.6, **options
    )
    distances = [
        np.linalg.norm(positions[i] - positions[j]) for i, j in itertools.combinations(atoms, 2)
    ]
    assert min(distances) < 0.5 and max(distances) > 0.65
    mixed = MLPotential("mace").createMixedSystem(
        topology, mm, atoms, interpolate=True, precision="double"
    )
    want = evaluate(mm, positions)
    got = evaluate(mixed, positions, parameters={LAMBDA: 0.0})
    assert abs(got.energy - want.energy) < 1e-6
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-6)
    plain = MLPotential("mace").createMixedSystem(topology, mm, atoms, precision="double")
    want = evaluate(plain, positions)
    got = evaluate(mixed, positions)
    assert abs(got.energy - want.energy) < 1e-6
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-6)


def test_derivative_equals_finite_difference(shared_dir):
    topology, mm, positions, atoms = alanine_dipeptide(shared_dir)
    mixed = MLPotential("mace").createMixedSystem(
        topology, mm, atoms, interpolate=True, precision="double"
    )
    context = context_of(mixed, positions)
    for factor in (0.1, 0.5, 0.9):
        energies = []
        for shifted in (factor - 0.05, factor + 0.05):
            context.setParameter(LAMBDA, shifted)
            energies.append(read(context).energy)
        context.setParameter(LAMBDA, factor)
        slope = (energies[1] - energies[0]) / 0.1
        assert read(context).derivatives[LAMBDA] == pytest.approx(slope, rel=1e-6)
