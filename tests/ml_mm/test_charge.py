"""The charge of what a model computes: whole molecules, cut ones, ion pairs, zwitterions."""

import dataclasses
import logging

import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from rdkit import Chem

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_model
from mace_mm.errors import ChargeError, ConfigError, InputError
from mace_mm.evaluate.domain.charged_groups import pattern_groups
from mace_mm.ml_mm.plugin import MaceEmbeddingFactory
from mace_mm.ml_mm.potential import MacePotentialImpl
from mace_mm.ml_mm.region_charge import region_problems
from mace_mm.ml_mm.region_parts import MLAtoms
from mace_mm.simulation.ligand import ligand_from_smiles
from tests.support.free_energy_molecules import crude_molecule
from tests.support.mixed_systems import add_molecule, molecule_of, solvated

MaceEmbeddingFactory()

IONS = {
    "[O-]C(=O)C(=O)[O-]": -2,
    "[O-]C(=O)CCC(=O)[O-]": -2,
    "[O-]S(=O)(=O)c1ccc(cc1)S(=O)(=O)[O-]": -2,
    "CC(=O)[O-]": -1,
    "[O-][N+](=O)[O-]": -1,
    "[O-]c1ccccc1": -1,
    "C[NH3+]": 1,
    "C[N+](C)(C)C": 1,
}
ZWITTERIONS = {
    "[NH3+]CCCC(=O)[O-]": ("N 0 (+1)", "O 6 (-1)", "C 4 (-1)"),
    "[NH3+]CC(=O)[O-]": ("N 0 (+1)", "O 4 (-1)", "C 2 (-1)"),
    "[NH3+]CCS(=O)(=O)[O-]": ("N 0 (+1)", "O 6 (-1)", "S 3 (-1)"),
    "C[N+](C)(C)CC(=O)[O-]": ("N 1 (+1)", "O 7 (-1)", "C 5 (-1)"),
}
NEUTRAL = [
    "CCO", "C[N+](=O)[O-]", "C[N+](C)(C)[O-]", "[O-][n+]1ccccc1", "C=[N+]=[N-]", "CN=[N+]=[N-]",
    "C[N+]#[C-]", "CS(C)=O", "CS(=O)(=O)N", "CS(=O)(=O)O", "NC(=N)N", "CC(=O)O", "c1c[nH]cn1",
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Archive:
    return open_model()


def trained_for(archive: Archive, *charges: int) -> Archive:
    metadata = dataclasses.replace(archive.metadata, total_charges=charges)
    return dataclasses.replace(archive, metadata=metadata)


def atoms_of(topology, atoms=None, system=None) -> MLAtoms:
    every = list(topology.atoms())
    chosen = list(range(len(every))) if atoms is None else list(atoms)
    numbers = [every[i].element.atomic_number for i in chosen]
    return MLAtoms(topology=topology, particles=chosen, atomic_numbers=numbers, force_field=system)


def mix(topology, system, atoms, **options):
    return MLPotential("mace").createMixedSystem(
        topology, system, atoms, returnInfo=True, **options
    )


@pytest.mark.parametrize("smiles", IONS)
def test_an_ion_is_refused_by_its_formal_and_by_its_force_fields_charges(smiles, model) -> None:
    charge = IONS[smiles]
    formal = atoms_of(ligand_from_smiles(smiles).topology)
    topology, system, _ = crude_molecule(smiles)
    described = atoms_of(topology, system=system)
    n_atoms = topology.getNumAtoms()
    for atoms, source in (
        (formal, f"formal charges sum to {charge:+d}"),
        (described, f"force-field charges of {n_atoms} atoms sum to {charge:+.3f}"),
    ):
        with pytest.raises(ChargeError) as refused:
            region_problems(model, atoms)
        assert f"total charge is {charge:+d} e ({source})" in str(refused.value)
        assert "small was trained for molecules of total charge 0:" in str(refused.value)
        (warning,) = region_problems(model, atoms, allow_unknown_charge=True)
        assert source in warning and "allow_unknown_charge is set" in warning
        assert region_problems(trained_for(model, 0, charge), atoms) == []


@pytest.mark.parametrize("smiles", NEUTRAL)
def test_neutral_molecules_pass_without_a_word(smiles, model) -> None:
    topology, system, _ = crude_molecule(smiles)
    for atoms in (
        atoms_of(ligand_from_smiles(smiles).topology),
        atoms_of(topology, system=system),
        atoms_of(topology),
    ):
        assert region_problems(model, atoms) == []


@pytest.mark.parametrize("smiles", ZWITTERIONS)
def test_separated_charges_inside_a_neutral_sum_are_named(smiles, model) -> None:
    cation, formal_anion, group_anion = ZWITTERIONS[smiles]
    topology, system, _ = crude_molecule(smiles)
    for atoms, kind, anion in (
        (atoms_of(ligand_from_smiles(smiles).topology), "formal charges on", formal_anion),
        (atoms_of(topology, system=system), "charged groups on", group_anion),
        (atoms_of(topology), "charged groups on", group_anion),
    ):
        (found,) = region_problems(model, atoms)
        assert f"{kind} {cation}, {anion}:" in found and "proton" in found
        assert ("force field's charges stay" in found) == (atoms.force_field is not None)


def test_a_zwitterion_reaches_the_caller_and_the_log_once(caplog) -> None:
    topology, system, _ = crude_molecule("[NH3+]CC(=O)[O-]")
    with caplog.at_level(logging.WARNING):
        info = mix(topology, system, range(topology.getNumAtoms()), interpolate=True)
    (found,) = (w for w in info["warnings"] if "beyond the reach" not in w)
    logged = [r.getMessage() for r in caplog.records if "outside" in r.getMessage()]
    assert logged == [f"outside what the model was trained for: {found}"]
    potential = MLPotential("mace")
    potential.createSystem(ligand_from_smiles("CCO").topology)
    assert potential._impl.warnings == []


def test_acids_are_told_from_bonds_where_nobody_states_a_charge(model) -> None:
    """Oxalate has an even number of electrons as an ion and without its charge."""
    topology, _, _ = crude_molecule("[O-]C(=O)C(=O)[O-]")
    (found,) = region_problems(model, atoms_of(topology))
    assert "no hydrogen on the acid group at C 1, C 3" in found
    quinone, _, _ = crude_molecule("O=C1C=CC(=O)C=C1")
    assert region_problems(model, atoms_of(quinone)) == []


@pytest.mark.parametrize(
    ("smiles", "charges"),
    [
        ("NC(=[NH2+])NC", [1]),
        ("C[NH+]1C=CN=C1", [1]),
        ("[O-]P(=O)([O-])OC", [-2]),
        ("[O-]P(=O)(O)OC", [-1]),
        ("[O-]S(=O)C", [-1]),
        ("C[S+](C)C", [1]),
        ("CC[O-]", [-1]),
        ("F[B-](F)(F)F", [-1]),
        ("CC(C)=[N+](C)[O-]", []),
        ("C[N+](C)(C)[B-](F)(F)F", []),
        ("OS(=O)(=O)O", []),
        ("O=Cl(=O)(=O)O", []),
        ("C[P+](C)(C)[O-]", []),
        ("O=C=O", []),
    ],
)
def test_groups_of_the_bonding_pattern(smiles, charges) -> None:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()]
    assert [group.charge for group in pattern_groups(numbers, bonds)] == charges


def test_the_bonds_of_a_metal_make_no_ammonium(model) -> None:
    """Four-bonded nitrogen beside a metal has given it its lone pair."""
    numbers = [30, 7, 1, 1, 1]
    assert pattern_groups(numbers, [(0, 1), (1, 2), (1, 3), (1, 4)]) == []


def several(*smiles: str) -> tuple[app.Topology, openmm.System, list[list[int]]]:
    """Molecules beside each other with crude charges."""
    topology, system, _ = crude_molecule(smiles[0])
    atoms = [list(range(topology.getNumAtoms()))]
    for other in smiles[1:]:
        first = topology.getNumAtoms()
        add_molecule(molecule_of(other), topology, system)
        atoms.append(list(range(first, topology.getNumAtoms())))
    return topology, system, atoms


def test_molecules_count_one_by_one_and_together(model) -> None:
    topology, system, (ligand, ion) = several("CCO", "[Cl-]")
    assert region_problems(model, atoms_of(topology, ligand, system)) == []
    with pytest.raises(
        ChargeError, match=r"is -1 e .*of 10 atoms sum to -1\.000; of these LIG 2 -1"
    ):
        region_problems(model, atoms_of(topology, None, system))
    with pytest.raises(ChargeError, match=r"of 1 atoms sum to -1\.000\)"):
        region_problems(model, atoms_of(topology, ion, system))
    topology, system, (anion, cation) = several("CC(=O)[O-]", "C[NH3+]")
    (found,) = region_problems(model, atoms_of(topology, None, system))
    assert "N 8 (+1), C 1 (-1)" in found
    for alone in (anion, cation):
        with pytest.raises(ChargeError):
            region_problems(model, atoms_of(topology, alone, system))
    # Two cations are more than a model of single ones has seen.
    topology, system, _ = several("C[NH3+]", "C[NH3+]")
    with pytest.raises(ChargeError, match=r"is \+2 e"):
        region_problems(trained_for(model, 0, 1), atoms_of(topology, None, system))


def test_charges_of_two_ions_without_bonds_are_separated(model) -> None:
    topology, system, _ = several("[Cl-]", "C[N+](C)(C)C")
    (found,) = region_problems(model, atoms_of(topology, None, system))
    assert "N 2 (+1), Cl 0 (-1)" in found


def nonbonded(system: openmm.System) -> openmm.NonbondedForce:
    return next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))


def shift(system: openmm.System, atom: int, charge: float) -> None:
    force = nonbonded(system)
    old, *others = force.getParticleParameters(atom)
    force.setParticleParameters(atom, old + charge * unit.elementary_charge, *others)


def test_rounded_charges_are_whole_and_scaled_ones_are_not(model) -> None:
    topology, system, _ = crude_molecule("[O-]C(=O)C(=O)[O-]")
    shift(system, 0, 0.0003)
    with pytest.raises(ChargeError, match=r"is -2 e .*sum to -2\.000|sum to -1\.9997"):
        region_problems(model, atoms_of(topology, system=system))
    topology, system, atoms = several(*["CO"] * 12)
    for molecule in atoms:
        shift(system, molecule[0], 0.03)
    assert region_problems(model, atoms_of(topology, system=system)) == []
    topology, system, _ = crude_molecule("C[NH3+]")
    shift(system, 0, -0.25)
    with pytest.raises(ChargeError, match=r"is \+0\.75 e"):
        region_problems(trained_for(model, 0, 1), atoms_of(topology, system=system))


def test_statements_that_disagree_are_refused() -> None:
    topology, system, _ = crude_molecule("CC(=O)[O-]")
    archive = trained_for(open_model(), 0, -1)
    potential = MacePotentialImpl()
    potential._archive = archive
    everything = range(topology.getNumAtoms())
    assert potential.check_charge(topology, system, everything, charge=-1, multiplicity=1) == []
    with pytest.raises(ChargeError, match=r"contradictory: charge=0; force-field charges"):
        potential.check_charge(topology, system, everything, charge=0)
    with pytest.raises(ChargeError, match=r"is -2 e \(charge=-2; force-field"):
        potential.check_charge(topology, system, everything, charge=-2)
    for charge in ("minus one", float("nan")):
        with pytest.raises(ConfigError, match="charge"):
            potential.check_charge(topology, system, everything, charge=charge)
    with pytest.raises(ConfigError, match="closed shells, got multiplicity=2"):
        potential.check_charge(topology, system, everything, multiplicity=2)


def test_formal_charges_of_some_atoms_say_little(model) -> None:
    """A PDB file may give them for charged atoms only, or for none."""
    topology, system, _ = crude_molecule("CC(=O)[O-]")
    every = list(topology.atoms())
    every[0].formalCharge = 0
    with pytest.raises(ChargeError, match=r"e \(force-field charges of 7"):
        region_problems(model, atoms_of(topology, system=system))
    every[3].formalCharge = -1
    with pytest.raises(ChargeError, match=r"e \(formal charges sum to -1\)"):
        region_problems(model, atoms_of(topology))


def test_charges_beside_the_nonbonded_force(model) -> None:
    topology, system, _ = crude_molecule("CC(=O)[O-]")
    force = nonbonded(system)
    custom = openmm.CustomNonbondedForce("138.9*charge1*charge2/r")
    custom.addPerParticleParameter("charge")
    for i in range(force.getNumParticles()):
        charge, *others = force.getParticleParameters(i)
        custom.addParticle([charge])
        force.setParticleParameters(i, 0.0, *others)
    assert "acid group" in region_problems(model, atoms_of(topology, system=system))[0]
    system.addForce(custom)
    with pytest.raises(ChargeError, match=r"force-field charges of 7 atoms sum to -1\.000"):
        region_problems(model, atoms_of(topology, system=system))


def test_offsets_of_charges_count_at_their_default(model) -> None:
    topology, system, _ = crude_molecule("CO")
    force = nonbonded(system)
    force.addGlobalParameter("scale", 0.5)
    force.addParticleParameterOffset("scale", 0, 2.0, 0.0, 0.0)
    with pytest.raises(ChargeError, match=r"is \+1 e"):
        region_problems(model, atoms_of(topology, system=system))


@pytest.mark.parametrize("water", ["amber14/tip3pfb.xml", "amber14/tip4pew.xml"])
def test_sites_of_water_belong_to_it(water, model) -> None:
    topology, system, _, (ligand,) = solvated(["[Cl-]"], water)
    waters = [atom.index for atom in topology.atoms() if atom.element is not None][:9]
    assert region_problems(model, atoms_of(topology, waters, system)) == []
    with pytest.raises(ChargeError, match=r"of 10 atoms sum to -1\.000; of these LIG"):
        region_problems(model, atoms_of(topology, [*waters, *ligand], system))


def test_a_topology_without_bonds_is_divided_by_residues(model) -> None:
    topology, system, _ = crude_molecule("CC(=O)[O-]")
    bare = app.Topology()
    residue = bare.addResidue("LIG", bare.addChain())
    for atom in topology.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    with pytest.raises(ChargeError, match=r"is -1 e \(force-field charges of 7 atoms"):
        region_problems(model, atoms_of(bare, system=system))


def test_a_model_that_does_not_say_is_taken_for_one_of_neutral_molecules(model) -> None:
    topology, system, _ = crude_molecule("CC(=O)[O-]")
    unknown = trained_for(model)
    with pytest.raises(ChargeError, match="does not say for which total charges"):
        region_problems(unknown, atoms_of(topology, system=system))
    topology, system, _ = crude_molecule("CCO")
    assert region_problems(unknown, atoms_of(topology, system=system)) == []


def test_the_error_is_one_of_settings_and_of_input() -> None:
    topology, system, _ = crude_molecule("CC(=O)[O-]")
    for error in (ConfigError, InputError):
        with pytest.raises(error, match="total charge is -1 e"):
            mix(topology, system, range(topology.getNumAtoms()))
    info = mix(topology, system, range(topology.getNumAtoms()), allow_unknown_charge=True)
    assert "allow_unknown_charge is set" in info["warnings"][0]
