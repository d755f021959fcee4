"""Covalent boundaries: link atoms, forces through them, OpenMM-ML's own embedding beside ours."""

import copy
import os
import subprocess
import sys

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from openmmml.embeddings.mechanicalembedding import MechanicalEmbedding

from mace_mm.errors import InputError
from mace_mm.ml_mm.boundary import with_link_atoms
from tests.support.mixed_systems import (
    LAMBDA,
    alanine_dipeptide,
    context_of,
    evaluate,
    read,
    side_of,
    solvated,
    topology_of_part,
)

pytestmark = pytest.mark.plain
DOUBLE = {"precision": "double"}


@pytest.fixture(scope="module")
def butanol():
    """Butanol in water; the region is its CH2OH end."""
    topology, system, positions, (atoms,) = solvated(["CCCCO"])
    bond = (atoms[3], atoms[2])
    return topology, system, positions, side_of(topology, atoms, bond), bond


def mix(topology, system, atoms, **options):
    return MLPotential("mace").createMixedSystem(
        topology, system, atoms, returnInfo=True, **{**DOUBLE, **options}
    )


def test_the_model_sees_the_capped_molecule(butanol):
    topology, system, positions, atoms, bond = butanol
    info = mix(topology, system, atoms, linkAtomDistances=[(*bond, 1.09 * unit.angstrom)])
    n = system.getNumParticles()
    assert info["system"].getNumParticles() == n + 1 == info["topology"].getNumAtoms()
    assert info["oldToNew"] == list(range(n))
    assert topology.getNumAtoms() == n
    extended = with_link_atoms(positions, info["system"])
    cap = extended._value[n]
    arm = positions[bond[1]] - positions[bond[0]]
    np.testing.assert_allclose(cap, positions[bond[0]] + 0.109 * arm / np.linalg.norm(arm))
    capped = topology_of_part(info["topology"], [*atoms, n])
    model = MLPotential("mace").createSystem(capped, **DOUBLE)
    want = evaluate(model, extended._value[[*atoms, n]]).energy
    grouped = mix(
        topology, system, atoms, forceGroup=6, linkAtomDistances=[(*reversed(bond), 0.109)]
    )["system"]
    assert evaluate(grouped, extended, groups=1 << 6).energy == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("interpolate", [False, True])
def test_same_as_the_embedding_of_openmm_ml(butanol, interpolate):
    """Same terms are left out, with our potential in both."""
    topology, system, positions, atoms, bond = butanol
    distances = [(*bond, 0.107 * unit.nanometer)]
    ours = mix(topology, system, atoms, interpolate=interpolate, linkAtomDistances=distances)
    impl = MLPotential("mace")._impl
    arguments = {**DOUBLE, "linkAtomDistances": distances, "backend": "pythonforce"}
    theirs = MechanicalEmbedding().createMixedSystem(
        impl, topology, system, atoms, 0, interpolate, **arguments
    )
    extended = with_link_atoms(positions, ours["system"])
    for factor in (1.0, 0.35) if interpolate else (None,):
        parameters = None if factor is None else {LAMBDA: factor}
        got = evaluate(ours["system"], extended, parameters=parameters)
        want = evaluate(theirs, extended, parameters=parameters)
        assert got.energy == pytest.approx(want.energy, abs=1e-2)
        np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-2)


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_forces_through_the_cap_by_finite_differences(butanol, embedding):
    topology, system, positions, atoms, bond = butanol
    mixed = mix(topology, system, atoms, embedding=embedding)["system"]
    mixed = copy.deepcopy(mixed)
    for force in mixed.getForces():
        force.setForceGroup(0 if force.getName() in ("MACE", "electrostatic embedding") else 1)
    extended = with_link_atoms(positions, mixed)._value
    context = context_of(mixed, extended)
    forces = read(context, groups=1).forces
    assert np.abs(forces[bond[1]]).max() > 1.0
    step = 1e-5
    for i in (*bond, atoms[1]):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = extended.copy()
                moved[i, axis] += sign * step
                context.setPositions(moved)
                context.computeVirtualSites()
                energies.append(read(context, groups=1).energy)
            slope = (energies[0] - energies[1]) / (2 * step)
            assert forces[i, axis] == pytest.approx(-slope, abs=1e-2)


def test_residue_of_a_protein(shared_dir):
    """The alanine of the dipeptide as the region: two amide bonds are cut."""
    topology, system, positions, atoms = alanine_dipeptide(shared_dir, constraints=app.HBonds)
    residue = [a.index for a in topology.atoms() if a.residue.name == "ALA"]
    info = mix(topology, system, residue, interpolate=False)
    assert info["topology"].getNumAtoms() == topology.getNumAtoms() + 2
    extended = with_link_atoms(positions * unit.nanometer, info["system"])
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
    context = context_of(info["system"], extended, "CPU", integrator=integrator)
    integrator.step(20)
    energy = context.getState(energy=True).getPotentialEnergy()._value
    assert np.isfinite(energy)
    _, flexible, _, _ = alanine_dipeptide(shared_dir)
    zero = mix(topology, flexible, residue, interpolate=True)["system"]
    got = evaluate(zero, extended, parameters={LAMBDA: 0.0})
    # The long-range dispersion correction counts the massless particles.
    assert got.energy == pytest.approx(evaluate(flexible, positions).energy, abs=1e-3)


def test_soft_core_force_does_not_see_the_cap(butanol):
    topology, system, positions, atoms, _ = butanol
    system = copy.deepcopy(system)
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force = openmm.CustomNonbondedForce("0.1*(w1+w2)/(r+0.1)")
    force.addPerParticleParameter("w")
    for _ in range(system.getNumParticles()):
        force.addParticle([1.0])
    for i in range(nonbonded.getNumExceptions()):
        force.addExclusion(*nonbonded.getExceptionParameters(i)[:2])
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.8)
    force.setForceGroup(9)
    system.addForce(force)
    mixed = mix(topology, system, atoms, interpolate=True)["system"]
    extended = with_link_atoms(positions, mixed)
    want = evaluate(system, positions)
    for platform in ("Reference", "CPU"):
        got = evaluate(mixed, extended, platform, {LAMBDA: 0.0})
        assert got.energy == pytest.approx(want.energy, abs=0.1 if platform == "CPU" else 1e-3)


def test_boundaries_that_are_refused(butanol):
    topology, system, _, atoms, bond = butanol
    with pytest.raises(InputError, match="linkAtomDistances"):
        mix(topology, system, atoms, linkAtomDistances=[(0, 1, 0.1)])
    with pytest.raises(InputError, match="positive"):
        mix(topology, system, atoms, linkAtomDistances=[(*bond, -0.1)])
    implicit = copy.deepcopy(system)
    implicit.addForce(openmm.GBSAOBCForce())
    with pytest.raises(InputError, match="GBSAOBCForce"):
        mix(topology, implicit, atoms)
    # The carbon across the bond is left out, with its hydrogens; what follows it is not.
    middle = bond[1]
    every = range(topology.getNumAtoms())
    carbons = {a.index for a in topology.atoms() if a.element and a.element.symbol == "C"}
    next_one = next(
        {b.atom1.index, b.atom2.index} - {middle}
        for b in topology.bonds()
        if middle in (b.atom1.index, b.atom2.index)
        and {b.atom1.index, b.atom2.index} <= carbons - {bond[0]}
    )
    outer = side_of(topology, every, (*next_one, middle))
    with pytest.raises(InputError, match="cuts two bonds"):
        mix(topology, system, [*atoms, *outer])


@pytest.mark.slow
def test_example_of_a_residue(project_root, tmp_path):
    script = project_root / "examples/mixed_residue.py"
    table = tmp_path / "side_chain.csv"
    command = [sys.executable, str(script), "--steps", "100", "--padding", "0.6"]
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    run = subprocess.run(
        [*command, "--output", str(table)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        env=environment,
    )
    assert "5 of them by the model" in run.stdout
    assert len(table.read_text().splitlines()) == 3
