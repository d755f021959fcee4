"""The molecule of a leg as RDKit sees it: atoms, bonds, and bond orders where they can be known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import openmm
from openmm import app
from rdkit import Chem

from mace_mm.errors import InputError
from mace_mm.free_energy.conformers.bond_orders import with_orders
from mace_mm.units import ANGSTROM_TO_NM

# Bonds of force fields and of geometries are taken up to this multiple of the covalent radii.
_LONGEST_BOND = 1.3


@dataclass(frozen=True, kw_only=True, eq=False)
class LigandMolecule:
    """A ligand's graph.

    Attributes:
        mol: RDKit molecule with all hydrogens as atoms and one conformer, the start.
        atoms: (n_atoms,) index of each of its atoms in the system; virtual sites are not atoms.
        names: (n_atoms,) of the topology.
        bonds_from, orders_from: where bonds and bond orders come from, for people; orders are None
            where nothing told them, and every bond is single then.
    """

    mol: Chem.Mol
    atoms: tuple[int, ...]
    names: tuple[str, ...]
    bonds_from: str
    orders_from: str | None

    @property
    def n_atoms(self) -> int:
        return len(self.atoms)

    @property
    def positions_nm(self) -> np.ndarray:
        """(n_atoms, 3) the start."""
        return self.mol.GetConformer().GetPositions() * ANGSTROM_TO_NM

    @property
    def n_fragments(self) -> int:
        """Molecules that the ligand consists of."""
        return len(Chem.GetMolFrags(self.mol))


def read_molecule(
    topology: app.Topology,
    ligand: Sequence[int],
    positions_nm: np.ndarray,
    system: openmm.System | None = None,
    *,
    smiles: str | None = None,
    box_nm: np.ndarray | None = None,
) -> LigandMolecule:
    """Make a graph of the ligand from whatever knows its bonds and their orders.

    Bonds: the topology's, else the force field's bond terms, else the geometry. Orders: the
    SMILES, else the topology's, else those that fit bonds, valences and the force field's net
    charge (Kim and Kim, Bull. Korean Chem. Soc. 36, 1769, 2015, by RDKit).

    Args:
        topology: with elements.
        ligand: indices of its atoms and virtual sites.
        positions_nm: (n_particles, 3).
        system: whose bond terms and charges help where the topology is poor.
        smiles: of the ligand as it is charged, None if not known.
        box_nm: (3, 3) rows; a molecule that is cut by the box is made whole.

    Raises:
        InputError: the SMILES is no SMILES or that of another molecule, or no atom has an element.
    """
    inside = set(ligand)
    atoms = [a for a in topology.atoms() if a.index in inside and a.element is not None]
    if not atoms:
        raise InputError("none of the ligand's atoms has an element")
    place = {atom.index: i for i, atom in enumerate(atoms)}
    numbers = [atom.element.atomic_number for atom in atoms]
    positions = np.array([positions_nm[atom.index] for atom in atoms])
    bonds_from, bonds = _find_bonds(topology, system, place, numbers, positions, box_nm)
    positions = make_whole(positions, sorted(bonds), box_nm)
    graph = _graph(numbers, sorted(bonds), positions)
    orders_from, mol = with_orders(graph, topology, place, smiles, _net_charge(system, ligand))
    return LigandMolecule(
        mol=mol,
        atoms=tuple(place),
        names=tuple(atom.name for atom in atoms),
        bonds_from=bonds_from,
        orders_from=orders_from,
    )


def make_whole(
    positions_nm: np.ndarray, bonds: Sequence[tuple[int, int]], box_nm: np.ndarray | None
) -> np.ndarray:
    """Positions (..., n_atoms, 3) with every bond shorter than half the box, (..., 3, 3) rows."""
    if box_nm is None:
        return np.asarray(positions_nm, dtype=np.float64)
    whole = np.array(positions_nm, dtype=np.float64)
    for parent, child in spanning_tree(whole.shape[-2], bonds):
        step = whole[..., child, :] - whole[..., parent, :]
        for axis in (2, 1, 0):
            row = box_nm[..., axis, :]
            step = step - np.round(step[..., axis] / row[..., axis])[..., None] * row
        whole[..., child, :] = whole[..., parent, :] + step
    return whole


def spanning_tree(n_atoms: int, bonds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(parent, child) bonds that reach every atom of each fragment once, parents first."""
    neighbors: list[list[int]] = [[] for _ in range(n_atoms)]
    for first, second in bonds:
        neighbors[first].append(second)
        neighbors[second].append(first)
    seen: set[int] = set()
    for root in range(n_atoms):
        if root in seen:
            continue
        seen.add(root)
        waiting = [root]
        for parent in waiting:
            for child in neighbors[parent]:
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)
                    yield parent, child


def _find_bonds(
    topology: app.Topology,
    system: openmm.System | None,
    place: dict[int, int],
    numbers: Sequence[int],
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None,
) -> tuple[str, set[tuple[int, int]]]:
    def inside(pairs: Iterator[tuple[int, int]]) -> set[tuple[int, int]]:
        known = ((place[i], place[j]) for i, j in pairs if i in place and j in place)
        return {(min(pair), max(pair)) for pair in known}

    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(number) for number in numbers]) * ANGSTROM_TO_NM

    def short(i: int, j: int) -> bool:
        pair = make_whole(positions_nm[[i, j]], [(0, 1)], box_nm)
        length = np.linalg.norm(pair[1] - pair[0])
        return bool(length < _LONGEST_BOND * (radii[i] + radii[j]))

    found = {"topology": inside((b.atom1.index, b.atom2.index) for b in topology.bonds())}
    if system is not None:
        # Urey-Bradley terms join atoms two bonds apart: too long for a bond.
        found["force field"] = {pair for pair in inside(_force_bonds(system)) if short(*pair)}
    if not any(found.values()):
        pairs = combinations(range(len(numbers)), 2)
        return "geometry", {pair for pair in pairs if short(*pair)}
    # Files without bond records of a residue leave it in pieces that the force field joins.
    return max(found.items(), key=lambda item: len(list(spanning_tree(len(numbers), [*item[1]]))))


def _force_bonds(system: openmm.System) -> Iterator[tuple[int, int]]:
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            for index in range(force.getNumBonds()):
                first, second, *_ = force.getBondParameters(index)
                yield first, second
    for index in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(index)
        yield first, second


def _net_charge(system: openmm.System | None, ligand: Sequence[int]) -> int | None:
    forces = () if system is None else system.getForces()
    for force in forces:
        if isinstance(force, openmm.NonbondedForce):
            charges = (force.getParticleParameters(i)[0]._value for i in ligand)
            return round(sum(charges))
    return None


def _graph(
    numbers: Sequence[int], bonds: Sequence[tuple[int, int]], positions_nm: np.ndarray
) -> Chem.Mol:
    graph = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for first, second in bonds:
        graph.AddBond(first, second, Chem.BondType.SINGLE)
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(positions_nm / ANGSTROM_TO_NM, dtype=np.float64))
    graph.AddConformer(conformer)
    return graph.GetMol()
