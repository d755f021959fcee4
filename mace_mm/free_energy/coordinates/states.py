"""States of each soft coordinate in a run: what was seen, and what is known to exist besides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from mace_mm.free_energy.conformers.candidates import same_well
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.conformers.search import Conformers
from mace_mm.free_energy.coordinates.basins import (
    BETWEEN,
    INVERSION_WIDTH,
    RING_WIDTH,
    TORSION_WIDTH,
    Basins,
    find_basins,
)
from mace_mm.free_energy.coordinates.conformation import per_coordinate
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate, equal_atoms

# A peak of the run within this of a well of the search is the same state: degrees (a quarter of the
# period at most), Å, volume. Vacuum and water shift wells by less.
_REACH = {"torsion": 45.0, "ring": 0.3, "inversion": 0.5}
_WIDTHS = {"torsion": TORSION_WIDTH, "ring": RING_WIDTH, "inversion": INVERSION_WIDTH}


@dataclass(frozen=True, kw_only=True, eq=False)
class Well:
    """A minimum of one coordinate that the search or a start showed.

    Attributes:
        value: (n,) numbers of the coordinate.
        energies_kt: (n_ends,) of the lowest conformer in it above the lowest of all, at each end;
            infinite where nothing relaxes to it.
        started: replicas that started in it, by their number.
    """

    value: np.ndarray
    energies_kt: tuple[float, ...]
    started: tuple[int, ...]

    @property
    def lowest_kt(self) -> float:
        return min(self.energies_kt, default=np.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class CoordinateStates:
    """States of a coordinate in a run.

    Attributes:
        coordinate: whose.
        peaks: (n_states, n) where each state's density is highest; states that only the search
            knows come last, at their wells.
        labels: (n_iterations, n_replicas) state; between states the one that was left.
        wells: by state.
        n_seen: states that the run visited.
    """

    coordinate: SoftCoordinate
    peaks: np.ndarray
    labels: np.ndarray
    wells: tuple[tuple[Well, ...], ...]
    n_seen: int

    def describe(self, state: int) -> str:
        """A state for people."""
        return describe_value(self.coordinate, self.peaks[state])


def find_wells(
    coordinates: Sequence[SoftCoordinate], conformers: Conformers, n_replicas: int
) -> list[list[Well]]:
    """The wells of every coordinate among relaxed conformers and starts."""
    found: list[list[Well]] = []
    n_ends = len(conformers.end_names)
    rows = [int(r) for r in np.argsort(conformers.energies_kt, kind="stable")]
    rows = [r for r in rows if conformers.ends[r] >= 0 or r in conformers.starts]
    for coordinate, values in per_coordinate(coordinates, conformers.values):
        groups: list[list[int]] = []
        for row in rows:
            group = next(
                (g for g in groups if same_well(coordinate, values[g[0]], values[row])), None
            )
            if group is None:
                groups.append([row])
            else:
                group.append(row)
        found.append(
            [
                Well(
                    value=values[group[0]],
                    energies_kt=tuple(
                        min(
                            (
                                float(conformers.energies_kt[row])
                                for row in group
                                if conformers.ends[row] == end
                            ),
                            default=np.inf,
                        )
                        for end in range(n_ends)
                    ),
                    started=tuple(
                        replica
                        for replica in range(n_replicas)
                        if conformers.starts
                        and conformers.starts[replica % len(conformers.starts)] in group
                    ),
                )
                for group in groups
            ]
        )
    return found


def find_states(
    coordinate: SoftCoordinate, values: np.ndarray, wells: Sequence[Well]
) -> CoordinateStates:
    """Divide what a run saw of one coordinate into states.

    Args:
        coordinate: whose.
        values: (n_iterations, n_replicas, n) finite.
        wells: of the search.
    """
    width = _WIDTHS[coordinate.kind]
    parts = [find_basins(values[..., i], width, coordinate.period) for i in range(values.shape[-1])]
    each = np.stack([basins.label(values[..., i]) for i, basins in enumerate(parts)], axis=-1)
    inside = (each != BETWEEN).all(axis=-1)
    tuples = sorted({tuple(int(i) for i in row) for row in each[inside]})
    labels = _of_keys(each, tuples)
    lost = (labels == BETWEEN).all(axis=0)
    if lost.any():
        # On a shoulder all the time: it belongs to the peak without a valley before it.
        near = np.stack([b.near(values[:, lost, i]) for i, b in enumerate(parts)], axis=-1)
        tuples = sorted(
            {*tuples, *(tuple(int(i) for i in row) for row in near.reshape(-1, near.shape[-1]))}
        )
        labels = _of_keys(each, tuples)
        labels[:, lost] = _of_keys(near, tuples)
    peaks = [np.array([b.peaks[i] for b, i in zip(parts, key, strict=True)]) for key in tuples]
    owned: list[list[Well]] = [[] for _ in tuples]
    for well in wells:
        key = _key(coordinate, parts, well.value)
        if key in tuples:
            owned[tuples.index(key)].append(well)
            continue
        for state in range(len(tuples), len(peaks)):
            if same_well(coordinate, peaks[state], well.value):
                owned[state].append(well)
                break
        else:
            peaks.append(well.value)
            owned.append([well])
    return CoordinateStates(
        coordinate=coordinate,
        peaks=np.array(peaks),
        labels=committed(labels),
        wells=tuple(tuple(group) for group in owned),
        n_seen=len(tuples),
    )


def committed(labels: np.ndarray) -> np.ndarray:
    """Labels (n_iterations, n_replicas) without gaps: the state reached last, before the first
    one that one."""
    known = labels != BETWEEN
    rows = np.arange(len(labels))[:, None]
    last = np.maximum.accumulate(np.where(known, rows, -1), axis=0)
    last = np.where(last < 0, known.argmax(axis=0), last)
    return np.asarray(np.take_along_axis(labels, last, axis=0))


def _of_keys(each: np.ndarray, keys: Sequence[tuple[int, ...]]) -> np.ndarray:
    labels = np.full(each.shape[:-1], BETWEEN)
    for state, key in enumerate(keys):
        labels[(each == key).all(axis=-1)] = state
    return labels


def _key(
    coordinate: SoftCoordinate, parts: Sequence[Basins], value: np.ndarray
) -> tuple[int, ...] | None:
    reach = _REACH[coordinate.kind]
    if coordinate.period is not None:
        reach = min(reach, 0.25 * coordinate.period)
    found = [b.find(float(v), reach) for b, v in zip(parts, value, strict=True)]
    return None if None in found else tuple(i for i in found if i is not None)


def fold_mirror(states: CoordinateStates) -> CoordinateStates:
    """Take mirror images for one state; see :func:`is_mirror_symmetric`."""
    coordinate, n = states.coordinate, len(states.peaks)
    reach = 2.0 * _WIDTHS[coordinate.kind]
    partner = list(range(n))
    for state in range(n):
        image = -states.peaks[state]
        for other in range(state):
            apart = np.abs(states.peaks[other] - image)
            if coordinate.period is not None:
                apart = np.minimum(apart % coordinate.period, -apart % coordinate.period)
            if (apart <= reach).all():
                partner[state] = partner[other]
    kept = sorted(set(partner))
    new = {old: kept.index(partner[old]) for old in range(n)}
    labels = np.array([*(new[i] for i in range(n)), BETWEEN])[states.labels]
    wells: list[list[Well]] = [[] for _ in kept]
    for old, group in enumerate(states.wells):
        wells[new[old]] += group
    return CoordinateStates(
        coordinate=coordinate,
        peaks=states.peaks[kept],
        labels=labels,
        wells=tuple(tuple(group) for group in wells),
        n_seen=len({new[old] for old in range(states.n_seen)}),
    )


def is_mirror_symmetric(ligand: LigandMolecule, coordinates: Sequence[SoftCoordinate]) -> bool:
    """Whether each conformer and its mirror image are the same molecule, numbered differently.

    True where every pyramidal or tetrahedral atom has two equal neighbors, whose exchange undoes
    the reflection, or inverts by itself.
    """
    mol = ligand.mol
    classes = equal_atoms(mol)
    rings = [set(ring) for ring in Chem.GetSymmSSSR(mol)]
    inverting = {c.atoms[0] for c in coordinates if c.kind == "inversion"}
    positions = mol.GetConformer().GetPositions()
    for atom in mol.GetAtoms():
        center = atom.GetIdx()
        near = [n.GetIdx() for n in atom.GetNeighbors()]
        if len(near) < 3 or center in inverting or _is_flat(positions, center, near):
            continue
        if not any(
            classes[a] == classes[b] and not any({center, a, b} <= ring for ring in rings)
            for i, a in enumerate(near)
            for b in near[:i]
        ):
            return False
    return True


def _is_flat(positions: np.ndarray, center: int, near: Sequence[int]) -> bool:
    if len(near) != 3:
        return False
    a, b, c = (positions[i] - positions[center] for i in near)
    volume = np.cross(a, b) @ c / (np.linalg.norm(a) * np.linalg.norm(b) * np.linalg.norm(c))
    return bool(abs(volume) < 0.25)


def describe_value(coordinate: SoftCoordinate, value: np.ndarray) -> str:
    """Numbers of a coordinate for people."""
    if coordinate.kind == "torsion":
        return f"{value[0] % coordinate.period:.0f}°"
    if coordinate.kind == "inversion":
        return "flat" if abs(value[0]) < 0.25 else "up" if value[0] > 0.0 else "down"
    size = float(np.linalg.norm(value))
    if size < 0.15:
        return "flat"
    if len(coordinate.atoms) != 6:
        return "puckered (" + ", ".join(f"{q:+.2f}" for q in value) + " Å)"
    tilt = float(np.degrees(np.arccos(value[2] / size)))
    if 30.0 < tilt < 60.0 or 120.0 < tilt < 150.0:
        return "half-chair " + ("(+)" if tilt < 90.0 else "(−)")
    if tilt <= 30.0 or tilt >= 150.0:
        return "chair " + ("(+)" if tilt < 90.0 else "(−)")
    turn = float(np.degrees(np.arctan2(value[1], value[0]))) % 360.0
    return f"boat or twist-boat (φ = {turn:.0f}°)"
