"""Virtual sites of an ML region lie inside it: water of four and five sites, sigma holes."""

import copy

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.errors import InputError
from tests.support.mixed_systems import (
    LAMBDA,
    add_molecule,
    context_of,
    evaluate,
    inside_of,
    molecule_of,
    read,
    solvated,
    topology_of_part,
)

pytestmark = pytest.mark.plain
WATER = np.array([[0, 0, 0], [0.09572, 0, 0], [-0.0239987, 0.0926627, 0]])
TURNED = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])
DOUBLE = {"precision": "double"}
FIELDS = ["amber14/tip3p.xml", "amber14/tip4pew.xml", "amber14/opc.xml", "tip5p.xml"]


def mix(topology, system, atoms, **options):
    return MLPotential("mace").createMixedSystem(topology, system, atoms, **{**DOUBLE, **options})


def model_energy(topology, atoms, positions) -> float:
    """Of some atoms without anything else."""
    alone = MLPotential("mace").createSystem(topology_of_part(topology, sorted(atoms)), **DOUBLE)
    return evaluate(alone, positions[sorted(atoms)]).energy


def placed(system, positions):
    """Positions with those of the virtual sites computed, nm."""
    context = context_of(system, positions)
    context.computeVirtualSites()
    return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)


def two_waters(field: str, **options):
    """Topology, System, positions in nm, the real atoms and the virtual sites."""
    forces = app.ForceField(field)
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("HOH", chain)
        atoms = [
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        ]
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[0], atoms[2])
    start = np.concatenate([WATER, WATER @ TURNED + [0.29, 0.02, 0.01]])
    modeller = app.Modeller(topology, start * unit.nanometer)
    modeller.addExtraParticles(forces)
    system = forces.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff, **options)
    positions = placed(system, modeller.positions)
    real = [a.index for a in modeller.topology.atoms() if a.element is not None]
    sites = [a.index for a in modeller.topology.atoms() if a.element is None]
    return modeller.topology, system, positions, real, sites


def with_sigma_hole(smiles="CCCl", charge=0.3):
    """A molecule in vacuum with a charged site beyond its chlorine."""
    topology, system = app.Topology(), openmm.System()
    for kind in (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce):
        system.addForce(kind())
    system.addForce(openmm.NonbondedForce())
    molecule = molecule_of(smiles)
    positions = add_molecule(molecule, topology, system)
    chlorine = next(a for a in molecule.GetAtoms() if a.GetSymbol() == "Cl")
    carbon = chlorine.GetNeighbors()[0].GetIdx()
    site = add_site(topology, system, (carbon, chlorine.GetIdx()), charge)
    positions = placed(system, np.vstack([positions, np.zeros(3)]))
    return topology, system, positions, list(range(site)), site


def add_site(topology, system, parents, charge) -> int:
    """A site beyond the second of two particles; the charge is taken from that."""
    site = system.addParticle(0.0)
    system.setVirtualSite(site, openmm.TwoParticleAverageSite(*parents, -0.8, 1.8))
    topology.addAtom("X", None, list(topology.residues())[-1])
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            q, sigma, epsilon = force.getParticleParameters(parents[1])
            force.setParticleParameters(parents[1], q._value - charge, sigma, epsilon)
            force.addParticle(charge, 0.1, 0.0)
            for i in range(force.getNumExceptions()):
                pair = force.getExceptionParameters(i)[:2]
                if parents[1] in pair:
                    other = pair[0] if pair[1] == parents[1] else pair[1]
                    force.addException(other, site, 0.0, 0.1, 0.0)
            force.addException(parents[1], site, 0.0, 0.1, 0.0)
    return site


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
@pytest.mark.parametrize("field", FIELDS)
def test_waters_alone_have_the_energy_of_the_model(field, embedding):
    topology, system, positions, real, sites = two_waters(field)
    assert len(sites) == 2 * (0 if "tip3p" in field else 2 if "tip5p" in field else 1)
    want = model_energy(topology, real, positions)
    for atoms in (real, iter(real), [*sites, *reversed(real)]):
        mixed = mix(topology, system, atoms, embedding=embedding)
        assert evaluate(mixed, positions).energy == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("field", FIELDS[1:])
def test_interpolated_waters(field):
    topology, system, positions, real, sites = two_waters(field, rigidWater=False)
    want = {0.0: evaluate(system, positions).energy, 1.0: model_energy(topology, real, positions)}
    for atoms in (real, real + sites):
        context = context_of(mix(topology, system, atoms, interpolate=True), positions)
        for factor, energy in want.items():
            context.setParameter(LAMBDA, factor)
            assert read(context).energy == pytest.approx(energy, abs=1e-6)


def test_molecule_with_a_sigma_hole():
    topology, system, positions, real, site = with_sigma_hole()
    want = model_energy(topology, real, positions)
    context = context_of(mix(topology, system, real, interpolate=True), positions)
    assert read(context).energy == pytest.approx(want, abs=1e-6)
    assert np.abs(read(context).forces[site]).max() == 0.0
    context.setParameter(LAMBDA, 0.0)
    whole = evaluate(system, positions)
    assert read(context).energy == pytest.approx(whole.energy, abs=1e-6)
    np.testing.assert_allclose(read(context).forces, whole.forces, rtol=0, atol=1e-6)


def test_site_defined_by_a_site():
    topology, system, positions, real, first = with_sigma_hole()
    second = add_site(topology, system, (real[1], first), 0.1)
    positions = placed(system, np.vstack([positions, np.zeros(3)]))
    want = model_energy(topology, real, positions)
    for atoms in (real, [*real, second]):
        assert evaluate(mix(topology, system, atoms), positions).energy == pytest.approx(want)
    context = openmm.Context(mix(topology, system, real), openmm.VerletIntegrator(0.001))
    assert [sorted(m) for m in context.getMolecules()] == [[*real, first, second]]


@pytest.mark.parametrize("method", [app.PME, app.LJPME, app.CutoffPeriodic])
def test_region_in_a_box_of_four_site_water(method):
    """One water and a solute by the model, with everything the sites do to the rest."""
    topology, system, positions, (solute,) = solvated(
        ["CCO"], "amber14/tip4pew.xml", edge=1.7, method=method, rigidWater=False
    )
    positions = placed(system, positions)
    real = [0, 1, 2, *solute]
    whole = evaluate(system, positions)
    inside = evaluate(inside_of(system, [*real, 3]), positions)
    one = whole.energy - inside.energy + model_energy(topology, real, positions)
    got = {}
    for atoms in (real, [3, *real]):
        context = context_of(mix(topology, system, atoms, interpolate=True), positions)
        for factor, want in ((0.0, whole.energy), (1.0, one)):
            context.setParameter(LAMBDA, factor)
            got[factor] = read(context)
            assert got[factor].energy == pytest.approx(want, abs=1e-4)
    np.testing.assert_allclose(got[0.0].forces, whole.forces, rtol=0, atol=1e-4)


def test_images_of_a_region_with_sites():
    topology, system, positions, _ = solvated([], "amber14/tip4pew.xml", edge=1.7)
    positions = placed(system, positions)
    real, every = [0, 1, 2], [0, 1, 2, 3]
    with_images = evaluate(mix(topology, system, real, mlLongRange=False), positions).energy
    without = evaluate(mix(topology, system, real, mlLongRange=True), positions).energy
    # Of the region alone, its inside less its inside without images.
    images = -sum(
        evaluate(part_of(inside_of(system, every), force), positions).energy
        for force in inside_of(system, every).getForces()
        if isinstance(force, openmm.CustomCVForce)
    )
    assert abs(images) > 1e-3
    assert with_images - without == pytest.approx(images, abs=1e-6)


def part_of(system, force):
    part = openmm.System()
    part.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    for _ in range(system.getNumParticles()):
        part.addParticle(1.0)
    part.addForce(copy.deepcopy(force))
    return part


def test_pairs_of_custom_forces_and_implicit_solvent():
    topology, system, positions, real, site = with_sigma_hole()
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    custom = openmm.CustomNonbondedForce("10*w1*w2/(r+0.1)")
    custom.addPerParticleParameter("w")
    solvent = openmm.GBSAOBCForce()
    for i in range(system.getNumParticles()):
        custom.addParticle([0.5 + 0.1 * i])
        solvent.addParticle(nonbonded.getParticleParameters(i)[0], 0.15, 0.8)
    for i in range(nonbonded.getNumExceptions()):
        custom.addExclusion(*nonbonded.getExceptionParameters(i)[:2])
    system.addForce(custom)
    solvent.setForceGroup(3)
    system.addForce(solvent)
    context = context_of(mix(topology, system, real, interpolate=True), positions)
    # The energy of solvation belongs to everything in the solvent and stays, at every lambda.
    solvation = evaluate(system, positions, groups=1 << 3).energy
    want = model_energy(topology, real, positions) + solvation
    assert read(context).energy == pytest.approx(want, abs=1e-6)
    context.setParameter(LAMBDA, 0.0)
    assert read(context).energy == pytest.approx(evaluate(system, positions).energy, abs=1e-6)


def test_sites_that_belong_to_both_sides():
    topology, system, _, real, site = with_sigma_hole("CCCCCl")
    chlorine = next(a.index for a in topology.atoms() if a.element is app.element.chlorine)
    rest = [i for i in real if i != chlorine]
    with pytest.raises(InputError, match=f"virtual site {site} is defined by"):
        mix(topology, system, rest)
    with pytest.raises(InputError, match=f"virtual site {site} is defined by"):
        mix(topology, system, [*rest, site])
    with pytest.raises(InputError, match="listed once"):
        mix(topology, system, [*real, site, site])
    # A site without interactions, such as a link atom, belongs to no side.
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force.setParticleParameters(site, 0.0, 0.1, 0.0)
    mixed = mix(topology, system, rest)
    assert mixed.getNumParticles() == system.getNumParticles() + 1
    custom = openmm.CustomNonbondedForce("w1*w2/r")
    custom.addPerParticleParameter("w")
    for _ in range(system.getNumParticles()):
        custom.addParticle([1.0])
    system.addForce(custom)
    with pytest.raises(InputError, match=f"virtual site {site} is defined by"):
        mix(topology, system, rest)
