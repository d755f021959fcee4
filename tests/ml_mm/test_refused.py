"""ML regions that are refused."""

import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.errors import ElementError, InputError
from tests.support.mixed_systems import solvated

pytestmark = pytest.mark.plain
DOUBLE = {"precision": "double"}


def mix(topology, system, atoms, **options):
    return MLPotential("mace").createMixedSystem(topology, system, atoms, **{**DOUBLE, **options})


def test_regions_that_are_refused():
    topology, system, _, (atoms,) = solvated(["CCO"], "amber14/tip4pew.xml")
    with pytest.raises(InputError, match="at least one atom"):
        mix(topology, system, [])
    with pytest.raises(InputError, match="virtual site"):
        mix(topology, system, [*atoms, 3])
    with pytest.raises(InputError, match="more often"):
        mix(topology, system, [*atoms, atoms[0]])
    with pytest.raises(InputError, match="between 0 and"):
        mix(topology, system, [system.getNumParticles()])
    with pytest.raises(InputError, match="bond to hydrogen"):
        mix(topology, system, atoms[:-1])
    # Water without its virtual site may be a region: the site stays with the force field.
    mix(topology, system, [0, 1, 2])
    with pytest.raises(InputError, match="flexibleConstraints"):
        mix(topology, system, [0, 1, 2], interpolate=True)
    topology, system, _, (atoms,) = solvated(["CCO"])
    system.addForce(openmm.DrudeForce())
    with pytest.raises(InputError, match="DrudeForce"):
        mix(topology, system, atoms)


def test_elements_the_model_does_not_know():
    topology, system, _, (atoms,) = solvated(["CCO"])
    residue = topology.addResidue("NA", topology.addChain())
    topology.addAtom("NA", app.Element.getBySymbol("Na"), residue)
    system.addParticle(23.0)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.addParticle(1.0, 0.2, 0.1)
    with pytest.raises(ElementError, match="Na"):
        mix(topology, system, [*atoms, topology.getNumAtoms() - 1])


def test_cut_bonds_that_are_refused():
    topology, system, _, (atoms,) = solvated(["C=CC"])
    every = [a for a in topology.atoms() if a.index in atoms]
    carbons = [a.index for a in every if a.element.symbol == "C"]

    def group(index):
        bonded = {
            b.atom1.index if b.atom2.index == index else b.atom2.index
            for b in topology.bonds()
            if index in (b.atom1.index, b.atom2.index)
        }
        return [index, *(i for i in bonded if i not in carbons)]

    with pytest.raises(InputError, match="is double"):
        mix(topology, system, group(carbons[0]))
    # The same from lengths, where the topology has no types, as after reading a PDB file.
    untyped = app.Topology()
    chain = untyped.addChain()
    copies = {}
    for residue in topology.residues():
        made = untyped.addResidue(residue.name, chain)
        for atom in residue.atoms():
            copies[atom] = untyped.addAtom(atom.name, atom.element, made)
    for bond in topology.bonds():
        untyped.addBond(copies[bond.atom1], copies[bond.atom2])
    untyped.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    with pytest.raises(InputError, match="multiple bond"):
        mix(untyped, system, group(carbons[0]))
    info = mix(untyped, system, group(carbons[2]), returnInfo=True)
    assert info["topology"].getNumAtoms() == untyped.getNumAtoms() + 1


def test_bond_of_the_force_field_that_the_topology_lacks():
    topology, system, _, (atoms,) = solvated(["CCO"])
    force = next(f for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))
    force.addBond(0, atoms[0], 0.15 * unit.nanometer, 1000.0)
    with pytest.raises(InputError, match="across the boundary"):
        mix(topology, system, atoms)
