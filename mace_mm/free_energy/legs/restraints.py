"""Boresch restraints: hold a ligand in its site by one distance, two angles, three dihedrals."""

import math
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import app
from pydantic import Field, model_validator

from mace_mm.errors import InputError
from mace_mm.free_energy.analysis.estimator import kt_kj_mol
from mace_mm.free_energy.legs.schedule import check_lambdas
from mace_mm.free_energy.settings import Settings
from mace_mm.free_energy.systems.inputs import MMSystem

RESTRAINT_PARAMETER = "lambda_restraint"
# Volume of one molecule at 1 mol/L, nm³.
STANDARD_VOLUME_NM3 = 1.660539
_BACKBONE = ("CA", "C", "N")
# Distances and angles at which the restraint is well defined and not strained.
_NEAREST_NM, _FARTHEST_NM = 0.35, 1.2
_FLATTEST = math.radians(40.0)
_N_LIGAND_TRIPLES = 40

_ENERGY = (
    f"{RESTRAINT_PARAMETER}*0.5*(k_distance*(distance(p3,p4)-r0)^2"
    "+k_angle*((angle(p2,p3,p4)-theta_a)^2+(angle(p3,p4,p5)-theta_b)^2"
    "+turned_a^2+turned_b^2+turned_c^2));"
    # The shorter way around: a dihedral may pass through ±π.
    "turned_a=a-turn*floor(a/turn+0.5);a=dihedral(p1,p2,p3,p4)-phi_a;"
    "turned_b=b-turn*floor(b/turn+0.5);b=dihedral(p2,p3,p4,p5)-phi_b;"
    "turned_c=c-turn*floor(c/turn+0.5);c=dihedral(p3,p4,p5,p6)-phi_c;"
    f"turn={2.0 * math.pi!r}"
)


class BoreschSettings(Settings):
    """Strengths of a restraint; 10 kcal/mol/Å² and 10 kcal/mol/rad² are common."""

    distance_kj_mol_nm2: float = Field(default=4184.0, gt=0.0)
    angle_kj_mol_rad2: float = Field(default=41.84, gt=0.0)
    lambdas: tuple[float, ...] = Field(
        default=(0.0, 0.1, 0.4, 1.0), description="states that turn it on and off"
    )

    @model_validator(mode="after")
    def _check(self) -> "BoreschSettings":
        check_lambdas(self.lambdas)
        return self


@dataclass(frozen=True, kw_only=True)
class BoreschRestraint:
    """Six atoms and the geometry they are held in.

    Attributes:
        atoms: three of the protein and three of the ligand; the third and fourth are the ones
            whose distance is held.
        r0_nm: that distance.
        angles_rad: second-third-fourth, third-fourth-fifth.
        dihedrals_rad: of the first, second and third four atoms in a row.
        settings: strengths.
    """

    atoms: tuple[int, int, int, int, int, int]
    r0_nm: float
    angles_rad: tuple[float, float]
    dihedrals_rad: tuple[float, float, float]
    settings: BoreschSettings

    def force(self, periodic: bool) -> openmm.Force:
        """The restraint, scaled by the global parameter ``lambda_restraint`` (0 at first)."""
        force = openmm.CustomCompoundBondForce(6, _ENERGY)
        force.addGlobalParameter(RESTRAINT_PARAMETER, 0.0)
        values = {
            "k_distance": self.settings.distance_kj_mol_nm2,
            "k_angle": self.settings.angle_kj_mol_rad2,
            "r0": self.r0_nm,
            "theta_a": self.angles_rad[0],
            "theta_b": self.angles_rad[1],
            "phi_a": self.dihedrals_rad[0],
            "phi_b": self.dihedrals_rad[1],
            "phi_c": self.dihedrals_rad[2],
        }
        for name in values:
            force.addPerBondParameter(name)
        force.addBond(list(self.atoms), list(values.values()))
        force.setUsesPeriodicBoundaryConditions(periodic)
        return force

    def standard_state_kj_mol(self, temperature_k: float) -> float:
        """Free energy of restraining a ligand that interacts with nothing, from 1 mol/L.

        Boresch, Tettinger, Leitgeb and Karplus, J. Phys. Chem. B 107, 9535, 2003, equation 32
        with the opposite sign.
        """
        kt = kt_kj_mol(temperature_k)
        strengths = self.settings.distance_kj_mol_nm2 * self.settings.angle_kj_mol_rad2**5
        volume = self.r0_nm**2 * math.sin(self.angles_rad[0]) * math.sin(self.angles_rad[1])
        return kt * math.log(
            8.0
            * math.pi**2
            * STANDARD_VOLUME_NM3
            * math.sqrt(strengths)
            / (volume * (2.0 * math.pi * kt) ** 3)
        )


def restrain(mm: MMSystem, settings: BoreschSettings) -> BoreschRestraint:
    """Choose six atoms in the geometry that a complex has now.

    Backbone atoms of one residue and three bonded heavy atoms of the ligand, so that both angles
    are as close to 90° as can be found.

    Raises:
        InputError: no protein backbone near the ligand, or no choice without flat angles.
    """
    positions = mm.positions_nm
    ligand_triples = _ligand_triples(mm)
    anchors = _backbone_triples(mm.topology, set(mm.ligand))
    best: tuple[float, tuple[int, ...]] | None = None
    for anchor in anchors:
        for triple in ligand_triples:
            apart = float(np.linalg.norm(positions[anchor[2]] - positions[triple[0]]))
            if not _NEAREST_NM <= apart <= _FARTHEST_NM:
                continue
            atoms = (*anchor, *triple)
            angles = [bend(positions[list(atoms[i : i + 3])]) for i in range(4)]
            if min(min(angle, math.pi - angle) for angle in angles) < _FLATTEST:
                continue
            score = apart + sum(abs(angle - 0.5 * math.pi) for angle in angles[1:3])
            if best is None or score < best[0]:
                best = score, atoms
    if best is None:
        raise InputError(
            f"a Boresch restraint needs backbone atoms within {_NEAREST_NM} to {_FARTHEST_NM} nm "
            f"of the ligand at angles that are not flat; none fit among {len(anchors)} residues "
            f"and {len(ligand_triples)} triples of ligand atoms"
        )
    chosen = best[1]
    places = positions[list(chosen)]
    return BoreschRestraint(
        atoms=chosen,  # type: ignore[arg-type]
        r0_nm=float(np.linalg.norm(places[2] - places[3])),
        angles_rad=(bend(places[1:4]), bend(places[2:5])),
        dihedrals_rad=(twist(places[0:4]), twist(places[1:5]), twist(places[2:6])),
        settings=settings,
    )


def bend(places: np.ndarray) -> float:
    """Angle at the second of three points (3, 3), radians."""
    one, two = places[0] - places[1], places[2] - places[1]
    cosine = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    return float(math.acos(max(-1.0, min(1.0, float(cosine)))))


def twist(places: np.ndarray) -> float:
    """Dihedral of four points (4, 3), radians, with OpenMM's sign."""
    first, middle, last = places[1] - places[0], places[2] - places[1], places[3] - places[2]
    one, two = np.cross(first, middle), np.cross(middle, last)
    return float(math.atan2(np.linalg.norm(middle) * (first @ two), one @ two))


def _backbone_triples(topology: app.Topology, ligand: set[int]) -> list[tuple[int, int, int]]:
    triples = []
    for residue in topology.residues():
        named = {atom.name: atom.index for atom in residue.atoms()}
        if all(name in named for name in _BACKBONE) and not ligand & set(named.values()):
            alpha, carbon, nitrogen = (named[name] for name in _BACKBONE)
            triples += [(nitrogen, carbon, alpha), (carbon, nitrogen, alpha)]
    return triples


def _ligand_triples(mm: MMSystem) -> list[tuple[int, int, int]]:
    """Bonded heavy atoms in a row, those near the middle of the ligand first."""
    inside = set(mm.ligand)
    heavy = {
        atom.index
        for atom in mm.topology.atoms()
        if atom.index in inside and atom.element not in (None, app.element.hydrogen)
    }
    bonded: dict[int, set[int]] = {index: set() for index in heavy}
    for bond in mm.topology.bonds():
        first, second = bond[0].index, bond[1].index
        if first in heavy and second in heavy:
            bonded[first].add(second)
            bonded[second].add(first)
    middle = mm.positions_nm[sorted(heavy)].mean(axis=0) if heavy else np.zeros(3)
    triples = [
        (first, second, third)
        for first in heavy
        for second in bonded[first]
        for third in bonded[second] - {first}
    ]
    triples.sort(key=lambda triple: float(np.linalg.norm(mm.positions_nm[triple[0]] - middle)))
    return triples[:_N_LIGAND_TRIPLES]
