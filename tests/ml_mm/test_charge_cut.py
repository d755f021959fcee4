"""The charge of regions that cut bonds: link atoms have bonds, parts of charges are whole ones."""

import io

import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from rdkit import Chem
from rdkit.Chem import AllChem

from mace_mm.errors import ChargeError
from mace_mm.ml_mm.plugin import MaceEmbeddingFactory
from mace_mm.ml_mm.region_parts import whole_charge
from tests.support.mixed_systems import side_of, solvated

MaceEmbeddingFactory()

BACKBONE = {"N", "CA", "C", "O", "OXT", "H", "H1", "H2", "H3", "HA", "HA2", "HA3"}


def mix(topology, system, atoms, **options):
    potential = MLPotential("mace")
    info = potential.createMixedSystem(topology, system, atoms, returnInfo=True, **options)
    found = potential._impl.warnings
    # OpenMM-ML's own embedding returns what it knows; what lies beyond the model's reach is no
    # matter of charge.
    returned = [w for w in info.get("warnings", found) if "beyond the reach" not in w]
    assert returned == found
    return found


@pytest.fixture(scope="module")
def peptide() -> tuple[app.Topology, openmm.System]:
    """Ala-Asp-Ser-Lys-Arg-Glu with charged ends, by Amber in vacuum."""
    molecule = Chem.AddHs(Chem.MolFromSequence("ADSKRE"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    block = Chem.MolToPDBBlock(Chem.RemoveHs(molecule), flavor=4)
    pdb = app.PDBFile(io.StringIO(block))
    field = app.ForceField("amber14-all.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addHydrogens(field)
    system = field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff)
    return modeller.topology, system


def side_chain(topology: app.Topology, name: str) -> list[int]:
    return [
        atom.index
        for atom in topology.atoms()
        if atom.residue.name == name and atom.name not in BACKBONE
    ]


@pytest.mark.parametrize("name", ["ALA", "SER"])
def test_a_neutral_side_chain_passes_without_a_word(peptide, name) -> None:
    """The first residue has the charge of its ammonium end, its side chain has none."""
    topology, system = peptide
    assert mix(topology, system, side_chain(topology, name)) == []


@pytest.mark.parametrize(
    ("name", "charge"), [("ASP", "-1"), ("LYS", "+1"), ("ARG", "+1"), ("GLU", "-1")]
)
def test_a_charged_side_chain_is_refused(peptide, name, charge) -> None:
    topology, system = peptide
    source = f"atoms sum to .*, which with 1 link atoms is .{charge[1:]}"
    with pytest.raises(ChargeError, match=rf"total charge is \{charge} e .*{source}"):
        mix(topology, system, side_chain(topology, name))


def test_residues_between_two_cut_peptide_bonds(peptide) -> None:
    topology, system = peptide
    residues = {r.name: [a.index for a in r.atoms()] for r in topology.residues()}
    assert mix(topology, system, residues["SER"]) == []
    with pytest.raises(ChargeError, match=r"sum to \+1\.000, which with 2 link atoms is \+1"):
        mix(topology, system, residues["LYS"])
    # Asp and Lys: the sum is neutral, the charges are apart.
    (found,) = mix(topology, system, [*residues["ASP"], *residues["SER"], *residues["LYS"]])
    assert "separated charges" in found
    (found,) = mix(topology, system, [*side_chain(topology, "ASP"), *side_chain(topology, "LYS")])
    assert "separated charges" in found


def test_the_end_of_a_chain_has_its_own_charge(peptide) -> None:
    topology, system = peptide
    first = next(topology.residues())
    with pytest.raises(ChargeError, match=r"is \+1 e"):
        mix(topology, system, [atom.index for atom in first.atoms()])


def cut_molecule(smiles: str, bond: tuple[int, int]):
    """A molecule in water, and its atoms on the side of the bond's first one."""
    topology, system, _, (atoms,) = solvated([smiles], edge=1.7)
    return topology, system, side_of(topology, atoms, (atoms[bond[0]], atoms[bond[1]]))


@pytest.mark.parametrize(
    ("smiles", "bond"),
    [
        ("CCCCO", (3, 2)),
        ("CSSC", (1, 2)),
        ("CC(C)C(C)C", (1, 3)),
        ("CS(=O)(=O)CCN", (4, 5)),
        ("CC(=O)NCC", (4, 5)),
        ("C[N+](C)([O-])CCO", (4, 5)),
    ],
)
def test_a_cap_has_its_bond(smiles, bond) -> None:
    """Without it the molecule and the cap have an odd number of electrons each."""
    topology, system, atoms = cut_molecule(smiles, bond)
    for embedding in ("mechanical", "mace-mm"):
        assert mix(topology, system, atoms, embedding=embedding) == [], embedding


def test_several_caps_and_whole_molecules_together() -> None:
    topology, system, atoms = cut_molecule("OCCCCCCO", (1, 2))
    water = [atom.index for atom in list(topology.residues())[0].atoms()]
    assert mix(topology, system, [*atoms, *water]) == []
    middle = cut_molecule("OCCCCCCO", (2, 1))[2]
    outer = cut_molecule("OCCCCCCO", (6, 5))[2]
    assert mix(topology, system, [i for i in middle if i not in outer]) == []
    assert mix(topology, system, [*atoms, *outer]) == []


@pytest.mark.parametrize(
    ("smiles", "bond", "charge"),
    [
        ("CCC(=O)[O-]", (2, 1), "-1"),
        ("CC[NH3+]", (2, 1), r"\+1"),
        ("CCCC[N+](C)(C)C", (3, 2), r"\+1"),
    ],
)
def test_a_group_that_left_a_part_of_its_charge_behind(smiles, bond, charge) -> None:
    topology, system, atoms = cut_molecule(smiles, bond)
    with pytest.raises(ChargeError, match=f"total charge is {charge} e"):
        mix(topology, system, atoms)


def test_a_charge_between_two_is_said_to_be_unknown() -> None:
    topology, system, atoms = cut_molecule("CCCCO", (3, 2))
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charge, *others = force.getParticleParameters(atoms[0])
    force.setParticleParameters(atoms[0], charge + 0.95 * unit.elementary_charge, *others)
    (found,) = mix(topology, system, atoms)
    assert "cannot be told" in found and "1 bonds are cut" in found
    assert mix(topology, system, atoms, charge=0) == []
    with pytest.raises(ChargeError, match="charge=1"):
        mix(topology, system, atoms, charge=1)


@pytest.mark.parametrize(
    ("raw", "n_cut", "n_protons", "charge"),
    [
        (0.45, 1, 11, 1),  # ammonium cut from its carbon, which keeps the rest
        (-1.45, 1, 40, -2),  # phosphate
        (-0.55, 1, 18, 0),
        (0.7, 1, 18, None),
        (0.45, 0, 11, 0.45),
        (-1.9997, 0, 46, -2),
    ],
)
def test_the_closed_shell_decides_where_bonds_are_cut(raw, n_cut, n_protons, charge) -> None:
    assert whole_charge(raw, n_cut, n_protons) == charge
