"""What OpenMM-ML's documentation shows and its tests of mechanical embedding demand, with ours."""

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from mace_mm import MACECalculator
from tests.support.mixed_systems import LAMBDA, evaluate, molecule_of, topology_of_part

pytestmark = pytest.mark.plain

PLATFORMS = [
    openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
]
BOUND = 0.01  # kJ/mol, as in OpenMM-ML


def three_chains() -> tuple[app.Topology, np.ndarray]:
    """A protein, a ligand that Amber knows, and solvent; positions in nm."""
    topology = app.Topology()
    positions = []
    for place, smiles in enumerate(("CC(=O)NC", "CC(=O)NC", "O", "O")):
        if place != 3:
            chain = topology.addChain()
        molecule = molecule_of(smiles)
        if smiles == "O":
            residue = topology.addResidue("HOH", chain)
            names = {0: ("O", residue), 1: ("H1", residue), 2: ("H2", residue)}
        else:
            ace, nme = topology.addResidue("ACE", chain), topology.addResidue("NME", chain)
            names = {
                0: ("CH3", ace), 1: ("C", ace), 2: ("O", ace), 3: ("N", nme), 4: ("C", nme),
                5: ("H1", ace), 6: ("H2", ace), 7: ("H3", ace), 8: ("H", nme), 9: ("H1", nme),
                10: ("H2", nme), 11: ("H3", nme),
            }  # fmt: skip
        made = {}
        # OpenMM wants the atoms of a residue to stand together.
        order = sorted(names, key=lambda i: (names[i][1].index, i))
        for i in order:
            name, residue = names[i]
            element = app.Element.getByAtomicNumber(molecule.GetAtomWithIdx(i).GetAtomicNum())
            made[i] = topology.addAtom(name, element, residue)
        for bond in molecule.GetBonds():
            topology.addBond(made[bond.GetBeginAtomIdx()], made[bond.GetEndAtomIdx()])
        xyz = molecule.GetConformer().GetPositions()[order] * 0.1
        positions.append(xyz + np.array([0.7 * place, 0.0, 0.0]))
    return topology, np.vstack(positions)


def test_example_of_the_users_guide():
    """Word for word, but for the name of the potential."""
    topology, positions = three_chains()
    forcefield = app.ForceField("amber14-all.xml", "amber14/tip3pfb.xml")
    mm_system = forcefield.createSystem(topology)
    chains = list(topology.chains())
    ml_atoms = [atom.index for atom in chains[1].atoms()]
    potential = MLPotential("mace")
    ml_system = potential.createMixedSystem(topology, mm_system, ml_atoms)
    ligand = topology_of_part(topology, ml_atoms)
    inside = forcefield.createSystem(ligand)
    want = (
        evaluate(mm_system, positions).energy
        - evaluate(inside, positions[ml_atoms]).energy
        + evaluate(potential.createSystem(ligand), positions[ml_atoms]).energy
    )
    assert evaluate(ml_system, positions).energy == pytest.approx(want, abs=BOUND)


@pytest.fixture(scope="module")
def dipeptide(shared_dir):
    """Topology, positions in nm, atoms of the dipeptide, force field."""
    folder = shared_dir / "data/openmm-ml/alanine-dipeptide"
    pdb = app.PDBFile(str(folder / "alanine-dipeptide-explicit.pdb"))
    atoms = [a.index for a in pdb.topology.atoms() if a.residue.chain.index == 0]
    field = app.ForceField("amber19-all.xml", "amber19/tip3pfb.xml")
    return pdb.topology, pdb.getPositions(asNumpy=True)._value, atoms, field


def without_dispersion_correction(system: openmm.System) -> openmm.System:
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setUseDispersionCorrection(False)
    return system


CASES = {
    "no cutoff": (app.NoCutoff, app.NoCutoff, None),
    "long-range": (app.PME, app.PME, True),
    "short-range": (app.PME, app.NoCutoff, None),
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", CASES)
def test_energy_of_mechanical_embedding(dipeptide, case, platform):
    """Periodic images of the region count on both sides or on none."""
    topology, positions, atoms, field = dipeptide
    method, inside_method, long_range = CASES[case]
    solute = topology_of_part(topology, atoms)
    whole = field.createSystem(topology, nonbondedMethod=method)
    inside = without_dispersion_correction(
        field.createSystem(solute, nonbondedMethod=inside_method)
    )
    model = MLPotential("mace").createSystem(solute)
    options = {"embedding": "mechanical", "mlLongRange": long_range}
    zero = evaluate(whole, positions, platform).energy
    one = (
        zero
        - evaluate(inside, positions[atoms], platform).energy
        + evaluate(model, positions[atoms], platform).energy
    )
    mix = MLPotential("mace").createMixedSystem
    got = evaluate(mix(topology, whole, atoms, **options), positions, platform).energy
    assert got == pytest.approx(one, abs=BOUND)
    faded = mix(topology, whole, atoms, interpolate=True, **options)
    for factor in (0.0, 0.25, 0.5, 0.75, 1.0):
        got = evaluate(faded, positions, platform, {LAMBDA: factor}).energy
        assert got == pytest.approx((1 - factor) * zero + factor * one, abs=BOUND)


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("long_range", [False, True, None])
def test_unknown_reach(dipeptide, embedding, periodic, long_range):
    """OpenMM-ML's potential for ASE does not know; its own embedding, and ours."""
    topology, _, atoms, field = dipeptide
    method = app.PME if periodic else app.NoCutoff
    system = field.createSystem(topology, nonbondedMethod=method)
    arguments = {"calculator": MACECalculator(), "mlLongRange": long_range}
    create = MLPotential("ase").createMixedSystem
    if periodic and long_range is None:
        with pytest.raises(ValueError, match="periodic and it is unknown"):
            create(topology, system, atoms, embedding=embedding, **arguments)
    else:
        create(topology, system, atoms, embedding=embedding, **arguments)


def test_same_as_openmm_ml_with_our_calculator(dipeptide):
    topology, positions, atoms, field = dipeptide
    system = field.createSystem(topology, nonbondedMethod=app.PME)
    calculator = MACECalculator(precision="double")
    theirs = MLPotential("ase").createMixedSystem(
        topology, system, atoms, calculator=calculator, mlLongRange=False
    )
    ours = MLPotential("mace").createMixedSystem(topology, system, atoms, precision="double")
    want, got = evaluate(theirs, positions), evaluate(ours, positions)
    # ASE's energy holds the isolated atoms, OpenMM's does not, and OpenMM-ML's forces are floats.
    np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=1e-2)


@pytest.mark.parametrize("remove", [False, True])
def test_constraints_inside_the_region(dipeptide, remove):
    topology, _, atoms, field = dipeptide
    system = field.createSystem(topology, constraints=app.AllBonds)
    mixed = MLPotential("mace").createMixedSystem(
        topology, system, atoms, removeConstraints=remove, embedding="mechanical"
    )

    def constraints(of):
        read = (of.getConstraintParameters(i) for i in range(of.getNumConstraints()))
        return {frozenset(entry[:2]): entry[2] for entry in read}

    before, after = constraints(system), constraints(mixed)
    gone = {pair for pair in before if remove and pair <= set(atoms)}
    assert len(gone) == (len(atoms) - 1 if remove else 0)
    assert after == {pair: length for pair, length in before.items() if pair not in gone}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_toluene_in_water(shared_dir, platform):
    folder = shared_dir / "data/openmm-ml/toluene"
    prmtop = app.AmberPrmtopFile(str(folder / "toluene-explicit.prm7"))
    inpcrd = app.AmberInpcrdFile(str(folder / "toluene-explicit.rst7"))
    system = prmtop.createSystem(nonbondedMethod=app.PME)
    potential = MLPotential("mace")
    atoms = list(range(15))
    mixed = potential.createMixedSystem(prmtop.topology, system, atoms, interpolate=False)
    faded = potential.createMixedSystem(prmtop.topology, system, atoms, interpolate=True)
    positions = inpcrd.positions.value_in_unit(unit.nanometer)
    want = evaluate(mixed, positions, platform).energy
    assert evaluate(faded, positions, platform).energy == pytest.approx(want, rel=1e-5)
    want = evaluate(system, positions, platform).energy
    got = evaluate(faded, positions, platform, {LAMBDA: 0.0}).energy
    assert got == pytest.approx(want, rel=1e-5)


def test_embeddings_are_listed():
    assert {"mechanical", "electrostatic"} <= set(MLPotential("mace").getSupportedEmbeddings())
    assert {"mechanical", "electrostatic"} <= set(MLPotential("ase").getSupportedEmbeddings())
