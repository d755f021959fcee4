"""May a run be believed about its conformers? Which coordinates moved, and which should have.

A coordinate counts against a result if it was seen in several states and no replica went between
them, or too rarely; or if a state that is known to be populated was not reached. Known are the
wells of the search (see :mod:`mace_mm.free_energy.conformers.search`) within ``starts.window_kt``
of the lowest at one of the ends. Nothing is said of a coordinate with one well, of wells above the
window, of turns that only permute equal atoms, and of mirror images of a molecule that is its own
mirror image, as long as no other coordinate is slow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem

from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.conformers.search import Conformers
from mace_mm.free_energy.coordinates.conformation import per_coordinate
from mace_mm.free_energy.coordinates.judge import ConformerJudge, Fits
from mace_mm.free_energy.coordinates.slow_states import SlowStates
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate
from mace_mm.free_energy.coordinates.states import (
    find_states,
    find_wells,
    fold_mirror,
    is_mirror_symmetric,
)
from mace_mm.free_energy.settings import Limits


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """One coordinate of a run and what it means for the result.

    Attributes:
        coordinate: whose.
        name: for people: atoms, their indices in the system, a fragment.
        states: what the states are called, those seen first.
        values: (n_iterations, n_replicas, n) what was observed.
        slow: transitions, None where the run was not followed.
        reasons: against the result.
        ground: what was decided, and why.
    """

    coordinate: SoftCoordinate
    name: str
    states: tuple[str, ...]
    values: np.ndarray
    slow: SlowStates | None
    reasons: tuple[str, ...]
    ground: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for a results file."""
        content = {"name": self.name, "states_known": list(self.states), "decided": self.ground}
        return content | ({} if self.slow is None else self.slow.to_json())


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What was observed in the windows or the switches of a leg.

    Attributes:
        values: (n_iterations, n_replicas, n_columns), None where the run was not followed.
        states: (n_iterations, n_replicas) window of each replica.
        discard: iterations of equilibration.
        lambdas: (n_states,) coordinates of the windows.
    """

    values: np.ndarray | None
    states: np.ndarray
    discard: int
    lambdas: tuple[float, ...]


def judge_conformers(
    ligand: LigandMolecule,
    coordinates: Sequence[SoftCoordinate],
    conformers: Conformers,
    run: Run,
    limits: Limits,
    *,
    window_kt: float,
    in_site: bool,
    fits: Fits | None = None,
) -> list[Followed]:
    """Follow every soft coordinate through a run.

    Args:
        ligand, coordinates, conformers: the molecule, and what is known of it.
        run: what was observed.
        limits: how many transitions are enough.
        window_kt: energy above the lowest up to which a state counts.
        in_site: mirror images differ there.
        fits: whether the surroundings have room for a state; None where they make room.
    """
    names = [name_coordinate(ligand, coordinate) for coordinate in coordinates]
    values = run.values
    rows = np.zeros(0, bool) if values is None else np.isfinite(values).all(axis=(1, 2))
    if values is None or rows[run.discard :].sum() < 2:
        return [
            _not_followed(coordinate, name)
            for coordinate, name in zip(coordinates, names, strict=True)
        ]
    discard = int(rows[: run.discard].sum())
    judge = ConformerJudge(run.states[rows], discard, run.lambdas, limits, window_kt, fits)
    wells = find_wells(coordinates, conformers, values.shape[1])
    parts = per_coordinate(coordinates, values[rows])
    states = [find_states(c, part, known) for (c, part), known in zip(parts, wells, strict=True)]
    found = [judge.follow(name, s) for name, s in zip(names, states, strict=True)]
    against = [index for index, (_, reasons, _) in enumerate(found) if reasons]
    if len(against) == 1 and not in_site and is_mirror_symmetric(ligand, coordinates):
        index = against[0]
        folded = fold_mirror(states[index])
        if len(folded.peaks) < len(states[index].peaks):
            states[index] = folded
            slow, reasons, ground = judge.follow(names[index], folded)
            found[index] = slow, reasons, f"mirror images count as one state; {ground}"
    return [
        Followed(
            coordinate=coordinate,
            name=name,
            states=tuple(s.describe(i) for i in range(len(s.peaks))),
            values=part,
            slow=slow,
            reasons=tuple(reasons),
            ground=ground,
        )
        for (coordinate, part), name, s, (slow, reasons, ground) in zip(
            per_coordinate(coordinates, values[rows]), names, states, found, strict=True
        )
    ]


def name_coordinate(ligand: LigandMolecule, coordinate: SoftCoordinate) -> str:
    """For example: torsion O1-C2-O2-H4 (atoms 3, 1, 2, 7; [H]OC(C)=O)."""
    names = "-".join(ligand.names[i] for i in coordinate.atoms)
    indices = ", ".join(str(ligand.atoms[i]) for i in coordinate.atoms)
    inner = coordinate.atoms[1:3] if coordinate.kind == "torsion" else coordinate.atoms
    near = {n.GetIdx() for i in inner for n in ligand.mol.GetAtomWithIdx(i).GetNeighbors()}
    heavy = {i for i in near if ligand.mol.GetAtomWithIdx(i).GetAtomicNum() > 1}
    fragment = Chem.MolFragmentToSmiles(ligand.mol, sorted({*coordinate.atoms, *heavy}))
    return f"{coordinate.kind} {names} (atoms {indices}; {fragment})"


def _not_followed(coordinate: SoftCoordinate, name: str) -> Followed:
    return Followed(
        coordinate=coordinate,
        name=name,
        states=(),
        values=np.zeros((0, 0, len(coordinate.columns))),
        slow=None,
        reasons=(f"{name} was not followed: the run was made by a version that did not",),
        ground="not followed",
    )
