"""Which torsions, rings and centers of a ligand are followed, and what is measured of them."""

import numpy as np
import openmm
import pytest
from openmm import app
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from mace_mm.errors import InputError
from mace_mm.free_energy.conformers.candidates import rotate_branch
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule, make_whole, read_molecule
from mace_mm.free_energy.coordinates.conformation import (
    ConformationObserver,
    follow_conformation,
    measure,
)
from mace_mm.free_energy.coordinates.soft_coordinates import (
    SoftCoordinate,
    equal_atoms,
    find_coordinates,
)
from mace_mm.free_energy.sampling.restart import Restart
from tests.support.free_energy_molecules import crude_molecule
from tests.support.ligands import embedded, ligand_of, positions_of, topology_of

# What is followed: kind, atoms that name it, turns that look the same.
FOLLOWED = {
    # Tops of three equal atoms, carboxylates, nitro groups and phenyls alone are no conformers.
    "CC": [],
    "Cc1ccccc1": [],
    "CC(C)(C)c1ccccc1": [],
    "FC(F)(F)CC": [],
    "CC(=O)[O-]": [],
    "C[N+](=O)[O-]": [],
    "C[NH3+]": [],
    "COP(=O)([O-])[O-]": [],
    "CC#CC(C)=C": [],
    "CCO": [("torsion", "C0-C1-O2-H8", 1)],
    "CC(=O)O": [("torsion", "O2-C1-O3-H7", 1)],
    "CCCC": [("torsion", "C0-C1-C2-C3", 1)],
    "OO": [("torsion", "H2-O0-O1-H3", 1)],
    "ClCCCl": [("torsion", "Cl0-C1-C2-Cl3", 1)],
    # Amides and esters turn, double bonds do not.
    "CC(=O)NC": [("torsion", "O2-C1-N3-C4", 1)],
    "COC=O": [("torsion", "C0-O1-C2-O3", 1)],
    "C=C/C=C/C": [("torsion", "C0-C1-C2-C3", 1)],
    "C/C=C/C": [],
    "CC(=O)N(C)C": [("torsion", "O2-C1-N3-C4", 2)],
    "c1ccccc1-c1ccccc1": [("torsion", "C0-C5-C6-C7", 2)],
    "c1ccccc1CO": [("torsion", "C0-C5-C6-O7", 2), ("torsion", "C5-C6-O7-H15", 1)],
    "Cc1cccc(C)c1-c1c(C)cccc1Cl": [("torsion", "C1-C7-C8-C9", 2)],
    # Straight chains turn as a whole.
    "OCC#CCO": [
        ("torsion", "H6-O0-C1-C2", 1),
        ("torsion", "O0-C1-C4-O5", 1),
        ("torsion", "C3-C4-O5-H11", 1),
    ],
    # Two equal atoms on a pyramid are one direction.
    "CCN": [("torsion", "C0-C1-N2-H8", 1)],
    "CN(C)CC": [("torsion", "C0-N1-C3-C4", 1)],
    "CNCC": [("torsion", "C0-N1-C2-C3", 1), ("inversion", "N1-C0-C2-H7", 1)],
    "CN1CCCCC1": [("ring", "N1-C2-C3-C4-C5-C6", 1), ("inversion", "N1-C0-C2-C6", 1)],
    "CC(=O)N1CCOCC1": [("torsion", "O2-C1-N3-C4", 2), ("ring", "N3-C4-C5-O6-C7-C8", 1)],
    "C1CCC1": [("ring", "C0-C1-C2-C3", 1)],
    "C1CC1": [],
    "c1ccoc1": [],
    "c1ccc2c(c1)Nc1ccccc1S2": [("ring", "C3-C4-N6-C7-C12-S13", 1)],
}


def _names(ligand: LigandMolecule, c: SoftCoordinate) -> tuple[str, str, int]:
    return c.kind, "-".join(ligand.names[i] for i in c.atoms), c.folds


@pytest.mark.parametrize("smiles", FOLLOWED)
def test_what_can_change_is_followed_and_what_only_permutes_is_not(smiles: str) -> None:
    ligand = ligand_of(smiles)
    found = [_names(ligand, c) for c in find_coordinates(ligand)]
    assert found == FOLLOWED[smiles]


@pytest.mark.parametrize("smiles", ["CC(=O)O", "CC(=O)NC", "C/C=C/CC", "N#CCCO", "CC=NC"])
def test_torsions_are_found_without_bond_orders(smiles: str) -> None:
    known, unknown = ligand_of(smiles), ligand_of(smiles)
    graph = Chem.RWMol(unknown.mol)
    for bond in graph.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
    graph.UpdatePropertyCache(strict=False)
    bare = LigandMolecule(
        mol=graph.GetMol(),
        atoms=unknown.atoms,
        names=unknown.names,
        bonds_from="topology",
        orders_from=None,
    )
    assert find_coordinates(bare) == find_coordinates(known)


def test_a_large_ring_is_followed_bond_by_bond() -> None:
    found = find_coordinates(ligand_of("C1CCCCCCCCC1"))
    assert [c.kind for c in found] == ["torsion"] * 10


def test_angles_are_those_of_rdkit() -> None:
    for smiles in ("CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O", "CC(=O)NCCO", "ClCC(F)O"):
        for seed in (7, 8, 9):
            ligand = ligand_of(smiles, seed=seed)
            checked = 0
            for c in find_coordinates(ligand):
                if c.kind == "torsion" and len(c.first) == len(c.last) == 1:
                    angle = rdMolTransforms.GetDihedralDeg(ligand.mol.GetConformer(), *c.atoms)
                    found = measure([c], ligand.positions_nm)[0]
                    period = 360.0 / c.folds
                    assert abs((found - angle + 0.5 * period) % period - 0.5 * period) < 1e-6
                    checked += 1
            assert checked >= 2


@pytest.mark.parametrize(
    "smiles", ["CCO", "c1ccccc1CO", "CC(=O)N(C)C", "CN(C)CC", "CCN", "CC(C)(C)CO"]
)
def test_exchanging_equal_atoms_changes_nothing(smiles: str) -> None:
    """The same structure with equal atoms renumbered: methyls turned, phenyls flipped."""
    ligand = ligand_of(smiles)
    coordinates = find_coordinates(ligand)
    positions = ligand.positions_nm
    wanted = measure(coordinates, positions)
    mol = ligand.mol
    matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=500)
    assert len(matches) > 1
    for match in matches:
        got = measure(coordinates, positions[list(match)])
        for c, one, two in zip(coordinates, wanted, got, strict=True):
            period = 360.0 / c.folds
            assert abs((one - two + 0.5 * period) % period - 0.5 * period) < 6.0


def test_centers_of_other_hands_are_not_equal() -> None:
    found = set()
    for smiles in ("O[C@H](C)C(N)[C@@H](C)O", "O[C@H](C)C(N)[C@H](C)O"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        first, last = (mol.GetAtomWithIdx(i) for i in (1, 5))
        same = first.GetProp("_CIPCode") == last.GetProp("_CIPCode")
        classes = equal_atoms(mol)
        assert (classes[1] == classes[5]) == same
        found.add(same)
    assert found == {True, False}


def test_puckers_are_cremer_and_poples() -> None:
    chair = ligand_of("C1CCCCC1")
    (ring,) = find_coordinates(chair)
    up = measure([ring], chair.positions_nm)
    # Cyclohexane: Q = 0.56 Å, all of it in q3 (Cremer and Pople 1975 give 0.55 to 0.57).
    assert abs(np.linalg.norm(up) - 0.56) < 0.03 and abs(up[2]) > 0.99 * np.linalg.norm(up)
    down = measure([ring], chair.positions_nm * [1.0, 1.0, -1.0])
    np.testing.assert_allclose(down, -up, atol=1e-9)
    # Amplitude as a sum of squared heights above the mean plane.
    envelope = ligand_of("C1CCCC1")
    (ring,) = find_coordinates(envelope)
    places = 10.0 * envelope.positions_nm[list(ring.atoms)]
    places -= places.mean(axis=0)
    turns = 2.0 * np.pi * np.arange(5) / 5
    normal = np.cross(np.sin(turns) @ places, np.cos(turns) @ places)
    heights = places @ normal / np.linalg.norm(normal)
    value = measure([ring], envelope.positions_nm)
    assert np.isclose(np.linalg.norm(value), np.sqrt((heights**2).sum()), rtol=1e-6)
    assert 0.3 < np.linalg.norm(value) < 0.5


def test_inversion_changes_its_sign() -> None:
    ligand = ligand_of("CNCC")
    coordinate = next(c for c in find_coordinates(ligand) if c.kind == "inversion")
    value = measure([coordinate], ligand.positions_nm)[0]
    assert abs(value) > 0.4
    mirror = measure([coordinate], ligand.positions_nm * [1.0, -1.0, 1.0])[0]
    assert np.isclose(mirror, -value)


def test_a_turned_bond_turns_its_torsion_alone() -> None:
    ligand = ligand_of("CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O")
    coordinates = find_coordinates(ligand)
    start = measure(coordinates, ligand.positions_nm)
    for index, coordinate in enumerate(coordinates):
        turned = rotate_branch(ligand, coordinate.atoms[1:3], 40.0, ligand.positions_nm)
        assert turned is not None
        change = measure(coordinates, turned) - start
        change[index] -= 40.0
        periods = np.array([360.0 / c.folds for c in coordinates])
        np.testing.assert_allclose((change + 90.0) % periods, np.full(5, 90.0) % periods, atol=1e-6)
    ring = ligand_of("C1CCCCCCCCC1")
    bond = find_coordinates(ring)[0].atoms[1:3]
    assert rotate_branch(ring, bond, 40.0, ring.positions_nm) is None


def test_a_molecule_cut_by_the_box_is_measured_whole() -> None:
    ligand = ligand_of("CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O")
    observer = follow_conformation(ligand, find_coordinates(ligand))
    assert observer is not None
    box = np.array([[2.0, 0.0, 0.0], [0.6, 2.0, 0.0], [-0.5, 0.4, 1.8]])
    whole = np.array([ligand.positions_nm, ligand.positions_nm + 0.9])
    cut = whole.copy()
    generator = np.random.default_rng(1)
    cut += generator.integers(-1, 2, (2, ligand.n_atoms, 3)) @ box
    np.testing.assert_allclose(
        _measured(observer, cut, box), _measured(observer, whole, box), atol=1e-6
    )
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in ligand.mol.GetBonds()]
    assert np.ptp(make_whole(cut, bonds, np.array([box, box])), axis=1).max() < 1.2


def _measured(observer: ConformationObserver, positions: np.ndarray, box: np.ndarray) -> np.ndarray:
    restart = Restart(
        iteration=1,
        states=np.zeros(len(positions), int),
        positions_nm=positions,
        velocities_nm_ps=np.zeros_like(positions),
        boxes_nm=np.array([box] * len(positions)),
    )
    values = observer.measure(restart, np.zeros((len(positions), 1)))
    assert values.shape == (len(positions), len(observer.columns))
    return values


@pytest.mark.parametrize("source", ["topology", "force field", "geometry"])
def test_bonds_come_from_whatever_knows_them(source: str) -> None:
    known, system, positions = crude_molecule("CC(=O)Nc1ccc(O)cc1")
    bare = app.Topology()
    residue = bare.addResidue("LIG", bare.addChain())
    for atom in known.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    given: openmm.System | None = system
    if source == "force field":
        # A Urey-Bradley term is no bond.
        bonds = next(f for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))
        bonds.addBond(0, 2, 0.24, 1000.0)
    elif source == "geometry":
        given = None
    topology = known if source == "topology" else bare
    ligand = read_molecule(topology, range(topology.getNumAtoms()), positions, given)
    assert ligand.bonds_from == source
    assert ligand.mol.GetNumBonds() == sum(1 for _ in known.bonds())
    assert ligand.orders_from == "bonds, valences and net charge"
    assert Chem.MolToSmiles(Chem.RemoveHs(ligand.mol)) == "CC(=O)Nc1ccc(O)cc1"


@pytest.mark.parametrize("smiles", ["CC(=O)[O-]", "C[NH2+]CC(=O)[O-]", "C[N+](=O)[O-]"])
def test_charges_are_found_with_the_force_fields_net_charge(smiles: str) -> None:
    topology, system, positions = crude_molecule(smiles)
    ligand = read_molecule(topology, range(topology.getNumAtoms()), positions, system)
    assert Chem.MolToSmiles(Chem.RemoveHs(ligand.mol)) == Chem.CanonSmiles(smiles)


def test_a_smiles_of_another_molecule_is_refused() -> None:
    mol = embedded("CC(=O)[O-]")
    topology, positions = topology_of(mol), positions_of(mol)
    ligand = read_molecule(topology, range(7), positions, smiles="CC(=O)[O-]")
    assert ligand.orders_from == "SMILES"
    with pytest.raises(InputError, match="C2 H4 O2 and 7 bonds, and is not the ligand with C2 H3"):
        read_molecule(topology, range(7), positions, smiles="CC(=O)O")
    with pytest.raises(InputError, match="is not the ligand"):
        read_molecule(topology, range(7), positions, smiles="COC=O")
    with pytest.raises(InputError, match="is not a SMILES string"):
        read_molecule(topology, range(7), positions, smiles="C1CC")


def test_virtual_sites_are_no_atoms() -> None:
    mol = embedded("CCCl")
    topology = topology_of(mol)
    topology.addAtom("EP", None, next(topology.residues()))
    positions = np.vstack([positions_of(mol), [[0.0, 0.0, 0.0]]])
    ligand = read_molecule(topology, range(9), positions)
    assert ligand.n_atoms == 8 and ligand.atoms == tuple(range(8))
