"""Put a conformer where the ligand is, and let its surroundings make room."""

import logging
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import openmm
from openmm import app
from rdkit import Chem

from mace_mm.errors import GeometryError
from mace_mm.free_energy.systems.ligand_choice import is_solvent

logger = logging.getLogger(__name__)

# Radii whose sums are shorter than contacts in liquids and hydrogen bonds, nm; others 0.15.
_RADII_NM = {
    1: 0.055,
    6: 0.155,
    7: 0.14,
    8: 0.135,
    9: 0.13,
    16: 0.165,
    17: 0.16,
    35: 0.17,
    53: 0.18,
}
_CUTOFF_NM = 0.45
# kJ/mol/nm²: of overlaps, of the shapes of molecules, of tethers to where atoms were.
_PUSH, _SHAPE, _TETHER, _SOLVENT_TETHER = 2.0e4, 2.0e5, 5.0e3, 5.0
# An overlap of two heavy atoms that cannot be, nm: two carbons within 0.24.
CLASH_NM = 0.07


def align(conformer_nm: np.ndarray, pose_nm: np.ndarray, mol: Chem.Mol) -> np.ndarray:
    """A conformer laid on a pose, heavy atom on heavy atom (Kabsch, Acta Cryst. A 32, 922, 1976).

    Args:
        conformer_nm, pose_nm: (n_atoms, 3).
        mol: says which atoms are heavy.
    """
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    chosen = heavy if len(heavy) >= 3 else list(range(len(pose_nm)))
    center, target = conformer_nm[chosen].mean(axis=0), pose_nm[chosen].mean(axis=0)
    left, _, right = np.linalg.svd((conformer_nm[chosen] - center).T @ (pose_nm[chosen] - target))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return (conformer_nm - center) @ left @ flip @ right + target


def make_room(
    topology: app.Topology,
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None,
    ligand: Sequence[int],
) -> np.ndarray:
    """Push what overlaps with the ligand out of its way; the ligand itself does not move.

    Atoms repel each other softly, molecules keep their shape, water and ions move freely, all else
    is held where it was. Minimization in the leg's own energy comes afterwards.

    Args:
        topology: of the leg.
        positions_nm: (n_particles, 3) with the ligand in its new conformer.
        box_nm: (3, 3) rows or None.
        ligand: indices of its particles.

    Returns:
        (n_particles, 3).

    Raises:
        GeometryError: heavy atoms overlap with what is no solvent, or still with anything; says
            which and by how much.
    """
    inside = set(ligand)
    atoms = list(topology.atoms())
    if len(inside) == len(atoms):
        return positions_nm
    radii = radii_of(topology)
    held = [atom for atom in atoms if not is_solvent(atom.residue.atoms())]
    _check_clashes(held, positions_nm, box_nm, inside, radii)
    system = _soft_system(atoms, topology, positions_nm, box_nm, inside, radii)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), _platform())
    if box_nm is not None:
        context.setPeriodicBoxVectors(*box_nm)
    context.setPositions(positions_nm)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance=5.0, maxIterations=1000)
    state = context.getState(getPositions=True)
    moved = np.array(state.getPositions(asNumpy=True)._value)
    moved[list(ligand)] = positions_nm[list(ligand)]
    _check_clashes(atoms, moved, box_nm, inside, radii)
    return moved


def closest_overlap(
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None,
    one: Sequence[int],
    two: Sequence[int],
    radii_nm: np.ndarray,
) -> tuple[float, int, int]:
    """The largest overlap in nm between two sets of atoms, and whose it is."""
    worst = (-np.inf, -1, -1)
    others = np.array(two)
    for atom in one:
        apart = positions_nm[others] - positions_nm[atom]
        if box_nm is not None:
            for axis in (2, 1, 0):
                apart -= np.round(apart[:, axis] / box_nm[axis, axis])[:, None] * box_nm[axis]
        overlap = radii_nm[atom] + radii_nm[others] - np.linalg.norm(apart, axis=1)
        best = int(np.argmax(overlap))
        if overlap[best] > worst[0]:
            worst = (float(overlap[best]), atom, int(others[best]))
    return worst


def _platform() -> openmm.Platform:
    names = [
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    ]
    return openmm.Platform.getPlatformByName("CPU" if "CPU" in names else "Reference")


def radii_of(topology: app.Topology) -> np.ndarray:
    """(n_atoms,) nm, 0 for virtual sites."""
    elements = [atom.element for atom in topology.atoms()]
    return np.array([0.0 if e is None else _RADII_NM.get(e.atomic_number, 0.15) for e in elements])


def _soft_system(
    atoms: list[app.topology.Atom],
    topology: app.Topology,
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None,
    inside: set[int],
    radii: np.ndarray,
) -> openmm.System:
    system = openmm.System()
    repel = openmm.CustomNonbondedForce(f"{_PUSH}*step(s-r)*(s-r)^2; s=radius1+radius2")
    repel.addPerParticleParameter("radius")
    shape, tether = openmm.HarmonicBondForce(), openmm.CustomExternalForce(_tether(box_nm))
    for name in ("k", "x0", "y0", "z0"):
        tether.addPerParticleParameter(name)
    for atom in atoms:
        # A particle without mass stays where it is.
        fixed = atom.index in inside
        system.addParticle(0.0 if fixed else 12.0)
        repel.addParticle([float(radii[atom.index])])
        if not fixed:
            strength = _SOLVENT_TETHER if is_solvent(atom.residue.atoms()) else _TETHER
            tether.addParticle(atom.index, [strength, *positions_nm[atom.index]])
    for first, second in _shape_pairs(topology):
        repel.addExclusion(first, second)
        if first in inside or second in inside:
            continue
        apart = positions_nm[second] - positions_nm[first]
        if box_nm is not None:
            for axis in (2, 1, 0):
                apart = apart - np.round(apart[axis] / box_nm[axis, axis]) * box_nm[axis]
        shape.addBond(first, second, float(np.linalg.norm(apart)), _SHAPE)
    if box_nm is not None:
        system.setDefaultPeriodicBoxVectors(*box_nm)
        repel.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
        shape.setUsesPeriodicBoundaryConditions(True)
    else:
        repel.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffNonPeriodic)
    repel.setCutoffDistance(_CUTOFF_NM)
    for force in (repel, shape, tether):
        system.addForce(force)
    return system


def _tether(box_nm: np.ndarray | None) -> str:
    if box_nm is None:
        return "0.5*k*((x-x0)^2+(y-y0)^2+(z-z0)^2)"
    return "0.5*k*periodicdistance(x,y,z,x0,y0,z0)^2"


def _shape_pairs(topology: app.Topology) -> set[tuple[int, int]]:
    """Atoms one or two bonds apart, and all pairs of particles of a water with its sites."""
    neighbors: dict[int, set[int]] = {}
    for bond in topology.bonds():
        neighbors.setdefault(bond.atom1.index, set()).add(bond.atom2.index)
        neighbors.setdefault(bond.atom2.index, set()).add(bond.atom1.index)
    pairs: set[tuple[int, int]] = set()
    for center, near in neighbors.items():
        pairs.update((min(center, other), max(center, other)) for other in near)
        pairs.update((min(a, b), max(a, b)) for a, b in combinations(sorted(near), 2))
    for residue in topology.residues():
        members = sorted(atom.index for atom in residue.atoms())
        sites = any(atom.element is None for atom in residue.atoms())
        if is_solvent(residue.atoms()) or sites:
            pairs.update(combinations(members, 2))
    return pairs


def _check_clashes(
    atoms: list[app.topology.Atom],
    positions_nm: np.ndarray,
    box_nm: np.ndarray | None,
    inside: set[int],
    radii: np.ndarray,
) -> None:
    heavy = [a.index for a in atoms if a.element is not None and a.element.atomic_number > 1]
    one = [i for i in heavy if i in inside]
    two = [i for i in heavy if i not in inside]
    if not one or not two:
        return
    overlap, first, second = closest_overlap(positions_nm, box_nm, one, two, radii)
    if overlap > CLASH_NM:
        by_index = {atom.index: atom for atom in atoms}
        other = by_index[second]
        apart = radii[first] + radii[second] - overlap
        raise GeometryError(
            f"{by_index[first].name} of the ligand comes within {apart:.2f} nm of {other.name} of "
            f"{other.residue.name}{other.residue.id}, which cannot move away"
        )
