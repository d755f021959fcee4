"""What a look at a molecule says: bonds, protons, configurations, contacts."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from mace_mm.errors import InputError
from mace_mm.identity.change import Kind
from mace_mm.identity.pairs import bonds_by_distance
from mace_mm.identity.perception import stereo_from_geometry, stereo_of
from mace_mm.identity.reference import MolecularIdentity, make_identity
from mace_mm.identity.watch import MoleculeWatch

pytestmark = pytest.mark.plain


def molecule(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    AllChem.UFFOptimizeMolecule(mol)
    return mol


def parts(mol: Chem.Mol) -> tuple[np.ndarray, list[tuple[int, int]], np.ndarray]:
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    return numbers, bonds, mol.GetConformer().GetPositions()


def identity_of(smiles: str) -> tuple[MolecularIdentity, np.ndarray]:
    mol = molecule(smiles)
    numbers, bonds, positions = parts(mol)
    return make_identity(numbers, bonds, positions, stereo=stereo_of(mol)), positions


def kinds(watch: MoleculeWatch, positions: np.ndarray, cell: np.ndarray | None = None) -> list[str]:
    return [str(change.kind) for change in watch.look(positions, cell)]


def moved(positions: np.ndarray, atom: int, away_from: int, length: float) -> np.ndarray:
    """Positions with a bond of an atom brought to a length along its direction."""
    changed = positions.copy()
    direction = positions[atom] - positions[away_from]
    changed[atom] = positions[away_from] + length * direction / np.linalg.norm(direction)
    return changed


def test_a_bond_breaks_and_heals_with_hysteresis() -> None:
    identity, start = identity_of("C")
    watch = MoleculeWatch(identity)
    # The covalent length of C-H is 1.07 Å.
    for length, broken in ((1.09, 0), (1.55, 0), (1.65, 1), (1.45, 1), (1.35, 0), (1.55, 0)):
        changes = watch.look(moved(start, 1, 0, length))
        assert [c.kind for c in changes] == [Kind.BOND_BROKEN] * broken, length
    (change,) = watch.look(moved(start, 1, 0, 2.0))
    assert change.text == "bond C0–H1 (atoms 0 and 1) broke: 2.00 Å"
    assert change.atoms == (0, 1)


def test_two_heavy_atoms_that_meet_form_a_bond() -> None:
    numbers = [6, 1, 1, 1, 1] * 2
    methane = identity_of("C")[1]
    bonds = [(5 * k, 5 * k + i) for k in range(2) for i in range(1, 5)]

    def pair(distance: float) -> np.ndarray:
        # Turned so that the second one shows its face to the face of the first.
        first = methane - methane[0]
        axis = first[1] / np.linalg.norm(first[1])
        return np.concatenate([first, -first - distance * axis])

    watch = MoleculeWatch(make_identity(numbers, bonds, pair(4.0)))
    assert kinds(watch, pair(3.2)) == []
    assert "bond_made" not in kinds(watch, pair(2.2))
    assert "bond_made" in kinds(watch, pair(1.6))


def test_hydrogens_that_pair_are_a_bond_made_and_two_broken() -> None:
    identity, start = identity_of("CC")
    watch = MoleculeWatch(identity)
    changed = start.copy()
    changed[2] = start.mean(axis=0) + [0.0, 0.0, 4.0]
    changed[5] = changed[2] + [0.74, 0.0, 0.0]
    assert sorted(kinds(watch, changed)) == ["bond_broken", "bond_broken", "bond_made"]


def test_the_proton_of_an_acid_that_hops_is_named_and_no_bond_is_broken() -> None:
    identity, start = identity_of("CC(=O)O")
    numbers = identity.atomic_numbers
    proton = int(max(np.flatnonzero(numbers == 1), key=lambda k: -_distance(start, k, 3)))
    watch = MoleculeWatch(identity)
    changed = start.copy()
    outward = start[2] - start[1]
    changed[proton] = start[2] + 0.98 * outward / np.linalg.norm(outward)
    (change,) = watch.look(changed)
    assert change.kind == Kind.PROTON_MOVED
    assert change.text == (
        f"proton H{proton} (atom {proton}) moved from O3 (atom 3) to O2 (atom 2)"
    )
    assert change.atoms == (proton, 3, 2)
    assert watch.look(start) == []


def _distance(positions: np.ndarray, i: int, j: int) -> float:
    return float(np.linalg.norm(positions[i] - positions[j]))


def test_a_keto_form_that_enolizes_moves_a_proton() -> None:
    identity, start = identity_of("CC(C)=O")
    changed = start.copy()
    outward = start[3] - start[1]
    sideways = np.cross(outward, start[0] - start[1])
    direction = outward + 1.5 * sideways / np.linalg.norm(sideways)
    changed[4] = start[3] + 0.97 * direction / np.linalg.norm(direction)
    (change,) = MoleculeWatch(identity).look(changed)
    assert change.kind == Kind.PROTON_MOVED
    assert change.atoms == (4, 0, 3)


def test_a_proton_between_two_waters_is_shared_and_then_handed_over() -> None:
    """The way of Grotthuss: nothing breaks, and who had the proton is said."""

    def waters(way: float) -> np.ndarray:
        """Oxygens 2.45 Å apart, the proton ``way`` Å from the first."""
        return np.array(
            [[0, 0, 0], [way, 0, 0], [-0.3, 0.9, 0], [2.45, 0, 0], [2.75, 0.9, 0], [2.75, -0.9, 0]],
            dtype=float,
        )

    bonds = [(0, 1), (0, 2), (3, 4), (3, 5)]
    watch = MoleculeWatch(make_identity([8, 1, 1, 8, 1, 1], bonds, waters(0.98)))
    for way in (0.98, 1.1, 1.2, 1.3):
        assert watch.look(waters(way)) == [], way
    (change,) = watch.look(waters(1.43))
    assert change.kind == Kind.PROTON_MOVED
    assert change.atoms == (1, 0, 3)
    # It rattles: until it is nearer to its old oxygen it stays with the new one.
    assert kinds(watch, waters(1.3)) == ["proton_moved"]
    assert kinds(watch, waters(1.15)) == []


@pytest.mark.parametrize("smiles", ["N", "CN", "CNC", "CN(C)CC", "O", "CC(=O)NC"])
def test_nitrogens_that_invert_freely_are_no_stereocenters(smiles: str) -> None:
    identity, start = identity_of(smiles)
    assert len(identity.volumes) == 0
    assert MoleculeWatch(identity).look(start * [1, 1, -1]) == []


@pytest.mark.parametrize(
    ("smiles", "centers"),
    [
        ("CC(N)C(=O)O", [1]),
        ("C[N+](CC)(CCC)C=C", [1]),
        ("CS(=O)CC", [1]),
        ("CP(CC)CCC", [1]),
        # Only RDKit knows these: each center makes the other one.
        ("CC1CCC(C)CC1", [1, 4]),
        ("CC1CN1CC", [1, 3]),
        ("C1CN2CCC1CC2", [2, 5]),
    ],
)
def test_inverted_centers_are_named(smiles: str, centers: list[int]) -> None:
    identity, start = identity_of(smiles)
    watch = MoleculeWatch(identity)
    changes = watch.look(start * [1, 1, -1])
    assert sorted(change.atoms[0] for change in changes) == centers
    assert {change.kind for change in changes} == {Kind.STEREO_INVERTED}
    assert watch.look(start) == []


def test_a_double_bond_that_turns_is_named() -> None:
    identity, start = identity_of("C/C=C/C")
    other = identity_of("C/C=C\\C")[1]
    assert _distance(start, 0, 3) > 3.5 > _distance(other, 0, 3)
    (change,) = MoleculeWatch(identity).look(other)
    assert change.kind == Kind.STEREO_INVERTED
    assert change.text == "double bond C1–C2 (atoms 1 and 2) turned from trans to cis"


@pytest.mark.parametrize("smiles", ["CC=C=CC", "CC(C)N=C=O", "CC#CC", "O=C1C=CC(=O)N1"])
def test_straight_and_small_ring_double_bonds_have_no_sides(smiles: str) -> None:
    assert len(identity_of(smiles)[0].cosines) == 0


@pytest.mark.parametrize(
    "smiles",
    [
        "CC(N)C(=O)O", "CN(CC)CCC", "CC1CN1CC", "C[N+](CC)(CCC)C=C", "CS(=O)CC", "CS(=O)(=O)CC",
        "C/C=C/C", "CC=NO", "CC1CCC(C)CC1", "C1CN2CCC1CC2", "c1ccccc1/C=C/C(=O)O", "CN=NC",
        "C=CC=CC=CC", "CC(=O)NC", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "OC1C(O)C(O)C(CO)OC1O",
        "C[S+](CC)CCC", "COC(=O)C=CN(C)C", "CP(=O)(OC)OCC", "CC=C=CC", "NC(N)=NC",
    ],
)  # fmt: skip
def test_bonds_and_geometry_tell_what_bond_orders_tell(smiles: str) -> None:
    """Amber files and PDB files bring no bond orders."""
    mol = molecule(smiles)
    known, told = stereo_of(mol), stereo_from_geometry(*parts(mol))
    assert sorted(known.centers[:, 0]) == sorted(told.centers[:, 0])
    assert {frozenset(row) for row in known.double_bonds[:, 1:3].tolist()} == {
        frozenset(row) for row in told.double_bonds[:, 1:3].tolist()
    }


def test_nothing_is_said_of_a_configuration_whose_bonds_are_gone() -> None:
    identity, start = identity_of("C[C@H](N)C(=O)O")
    center = int(identity.stereo.centers[0, 0])
    changed = start * [1, 1, -1]
    changed[center] += 3.0
    assert set(kinds(MoleculeWatch(identity), changed)) == {"bond_broken"}


def test_short_contacts_and_squeezed_bonds_are_named() -> None:
    identity, start = identity_of("CCO")
    (squeezed,) = MoleculeWatch(identity).look(moved(start, 3, 0, 0.7))
    assert squeezed.kind == Kind.SHORT_CONTACT
    assert squeezed.text == "C0–H3 (atoms 0 and 3) are only 0.70 Å apart"
    argon = np.concatenate([start, [start[0] + [0.0, 0.0, 0.0]]])
    argon[-1] = start[3] + 1.4 * (start[3] - start[0]) / _distance(start, 3, 0)
    numbers = [*identity.atomic_numbers, 18]
    far = argon.copy()
    far[-1] += 20.0
    watch = MoleculeWatch(make_identity(numbers, identity.bonds, far))
    assert watch.look(far) == []
    assert kinds(watch, argon) == ["short_contact"]


@pytest.mark.parametrize("smiles", ["C12CC1C2", "C1C2CC12", "C1CC1", "C1OC1", "CC(=O)C=C(C)O"])
def test_strained_rings_and_hydrogen_bonds_raise_no_alarm(smiles: str) -> None:
    identity, start = identity_of(smiles)
    rng = np.random.default_rng(3)
    watch = MoleculeWatch(identity)
    for _ in range(200):
        assert watch.look(start + rng.normal(scale=0.04, size=start.shape)) == []


def test_the_closest_carbons_without_a_bond_are_not_bonded() -> None:
    """Bicyclo[1.1.1]pentane: 1.87 Å across the cage."""
    identity, start = identity_of("C1C2CC1C2")
    ends = [k for k in range(5) if sum(k in pair for pair in identity.bonds.tolist()) == 4]
    heads = [
        k for k in ends if sum(identity.atomic_numbers[j] == 6 for j in _bonded(identity, k)) == 3
    ]
    first, second = heads
    vector = start[second] - start[first]
    shift = 0.5 * (vector - 1.87 * vector / np.linalg.norm(vector))
    changed = start.copy()
    changed[first] += shift
    changed[second] -= shift
    assert _distance(changed, first, second) == pytest.approx(1.87)
    assert kinds(MoleculeWatch(identity), changed) == []


def _bonded(identity: MolecularIdentity, atom: int) -> list[int]:
    return [sum(pair) - atom for pair in identity.bonds.tolist() if atom in pair]


def test_a_molecule_across_the_boundary_of_its_box_is_whole() -> None:
    identity, start = identity_of("C[C@H](N)C(=O)O")
    # A triclinic box as OpenMM has it.
    cell = np.array([[12.0, 0.0, 0.0], [3.0, 11.0, 0.0], [-2.0, 4.0, 10.0]])
    watch = MoleculeWatch(identity)
    for shift in ([0.0, 0.0, 0.0], [11.5, 2.0, 9.0], [5.0, 10.8, 4.0]):
        fractions = (start + shift) @ np.linalg.inv(cell)
        wrapped = (fractions - np.floor(fractions)) @ cell
        assert watch.look(wrapped, cell) == []
    assert "bond_broken" in kinds(MoleculeWatch(identity), wrapped)


def test_molecules_that_part_break_no_bond() -> None:
    identity, start = identity_of("O.O")
    apart = start.copy()
    apart[[0, 2, 3]] += 50.0
    assert MoleculeWatch(identity).look(apart) == []


def test_many_atoms_are_looked_at_as_few_are() -> None:
    """Beyond 60 atoms a neighbor list finds the pairs."""
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    grid = 3.1 * np.stack(np.meshgrid(*[range(4)] * 3), axis=-1).reshape(-1, 3)
    start = (grid[:, None] + water).reshape(-1, 3)
    cell = np.eye(3) * 12.4
    bonds = [(3 * k, 3 * k + i) for k in range(64) for i in (1, 2)]
    numbers = [8, 1, 1] * 64
    changed = start.copy()
    changed[4] += [0.0, 0.0, 1.2]
    changed[10] = changed[6] + [0.0, 0.0, -0.98]
    changed[12] = changed[15] + [-1.0, -1.0, 0.0]
    changed[[13, 14]] = changed[12] + [[-0.2, -0.1, 0.93], [-0.2, -0.1, -0.93]]
    for box in (cell, None):
        watch = MoleculeWatch(make_identity(numbers, bonds, start, box))
        assert watch.look(start, box) == []
        found = {(change.kind, change.atoms) for change in watch.look(changed, box)}
        assert found == {
            (Kind.BOND_BROKEN, (3, 4)),
            (Kind.PROTON_MOVED, (10, 9, 6)),
            (Kind.BOND_MADE, (12, 15)),
        }
        few = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
        small = make_identity(numbers[:18], bonds[:12], start[:18], box, indices=few)
        again = {
            (change.kind, change.atoms) for change in MoleculeWatch(small).look(changed[few], box)
        }
        assert again == found


def test_positions_that_are_no_numbers_are_said_to_be() -> None:
    identity, start = identity_of("CCO")
    start[1] = np.nan
    (change,) = MoleculeWatch(identity).look(start)
    assert change.kind == Kind.NOT_FINITE
    assert "C1 (atom 1)" in change.text
    with pytest.raises(InputError, match="finite positions"):
        make_identity(identity.atomic_numbers, [], start)


def test_a_structure_without_bonds_gets_those_that_distances_tell() -> None:
    mol = molecule("CC(=O)Nc1ccc(O)cc1")
    numbers, bonds, positions = parts(mol)
    assert bonds_by_distance(numbers, positions) == sorted((min(b), max(b)) for b in bonds)
    identity = make_identity(numbers, [], positions)
    assert len(identity.bonds) == len(bonds)
    assert "20 bonds were taken from distances" in identity.notes[0]
    # Where the topology knows the bonds of an atom it is believed.
    assert make_identity(numbers, bonds, positions).notes == ()


def test_ions_are_bonded_to_nobody() -> None:
    numbers = [11, 8, 1, 1]
    start = np.array([[0.0, 0.0, 0.0], [2.3, 0.0, 0.0], [2.9, 0.75, 0.0], [2.9, -0.75, 0.0]])
    identity = make_identity(numbers, [(1, 2), (1, 3)], start)
    assert len(identity.bonds) == 2
    watch = MoleculeWatch(identity)
    for shift in (-0.3, 0.0, 3.0):
        assert watch.look(start + [[-shift, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]) == []


def test_a_configuration_that_cannot_be_told_at_the_start_is_not_watched() -> None:
    mol = molecule("C[C@H](F)Cl")
    numbers, bonds, positions = parts(mol)
    center = positions[1]
    normal = np.cross(positions[2] - positions[0], positions[3] - positions[0])
    normal /= np.linalg.norm(normal)
    positions[1] = center - normal * float((center - positions[0]) @ normal)
    positions[7] = 2 * positions[1] - positions[[0, 2, 3]].mean(axis=0)
    identity = make_identity(numbers, bonds, positions, stereo=stereo_of(mol))
    assert len(identity.volumes) == 0
    assert "no configuration to watch" in identity.notes[0]
