"""The conformers of a leg's ligand: which are low in energy, and in which a run starts.

Candidates (RDKit's, turns of every rotatable bond, the given structures) are minimized with the
energies between which the leg goes: the force field and the model of a correction, the charged and
the uncharged molecule of a decoupling. In water a continuum screens the charges, without which only
structures folded on their own hydrogen bonds would be low.
"""

import io
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import unit

from mace_mm.errors import ConfigError, DataError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.conformers.candidates import distinct, embedded, same_conformer, turned
from mace_mm.free_energy.conformers.files import configuration_change
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.coordinates.conformation import measure
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate

logger = logging.getLogger(__name__)

_FILE_NAME = "conformers.npz"
_NOISE_NM = 0.002
_SEED = 20262
_MOST_STEPS = 400
# What relaxes to more than this above the lowest, kT, is of no interest to a later, dearer energy.
_FAR_KT = 15.0


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of a leg inside the ligand.

    Attributes:
        name: for people.
        system: of the ligand alone.
    """

    name: str
    system: openmm.System


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformers:
    """Conformers of a ligand, relaxed at the ends of a leg.

    Attributes:
        end_names: (n_ends,) of the energies.
        columns: names of the numbers in ``values``.
        positions_nm: (n, n_atoms, 3), lowest first at each end.
        ends: (n,) the end at which each was relaxed, -1 for structures as they were given.
        energies_kt: (n,) above the lowest at that end; NaN without an end.
        values: (n, n_columns) soft coordinates.
        starts: (n_starts,) rows in which the run starts, in the order of its replicas.
        ground: one sentence: why these.
    """

    end_names: tuple[str, ...]
    columns: tuple[str, ...]
    positions_nm: np.ndarray
    ends: np.ndarray
    energies_kt: np.ndarray
    values: np.ndarray
    starts: tuple[int, ...]
    ground: str

    def save(self, folder: Path) -> None:
        """Write what :func:`load_conformers` reads."""
        text = {
            "end_names": self.end_names,
            "columns": self.columns,
            "starts": self.starts,
            "ground": self.ground,
        }
        buffer = io.BytesIO()
        np.savez(
            buffer,
            text=np.array(json.dumps(text)),
            positions_nm=self.positions_nm,
            ends=self.ends,
            energies_kt=self.energies_kt,
            values=self.values,
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _FILE_NAME, buffer.getvalue())


def load_conformers(folder: Path, coordinates: Sequence[SoftCoordinate]) -> Conformers | None:
    """What a former process found, None if there is nothing.

    Raises:
        DataError: the file is damaged.
        ConfigError: it is about other coordinates.
    """
    path = folder / _FILE_NAME
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            text: dict[str, Any] = json.loads(str(arrays["text"]))
            found = Conformers(
                end_names=tuple(text["end_names"]),
                columns=tuple(text["columns"]),
                positions_nm=arrays["positions_nm"],
                ends=arrays["ends"],
                energies_kt=arrays["energies_kt"],
                values=arrays["values"],
                starts=tuple(text["starts"]),
                ground=text["ground"],
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} holds no conformers that can be read: {error}") from error
    if found.columns != columns_of(coordinates):
        raise ConfigError(
            f"{path} describes other torsions and rings than the ligand has now: choose another "
            "folder"
        )
    return found


def columns_of(coordinates: Sequence[SoftCoordinate]) -> tuple[str, ...]:
    """Names of all numbers."""
    return tuple(column for coordinate in coordinates for column in coordinate.columns)


def search(
    ligand: LigandMolecule,
    coordinates: Sequence[SoftCoordinate],
    ends: Sequence[End],
    kt_kj_mol: float,
    *,
    given_nm: np.ndarray,
    places: Sequence[int],
    n_embedded: int,
    n_expensive: int,
) -> Conformers:
    """Find and relax conformers; none of them is a start yet.

    Args:
        ligand: the molecule.
        coordinates: its soft coordinates.
        ends: the energies, the cheapest first: only what it relaxes to is given to the others.
        kt_kj_mol: of the run.
        given_nm: (n, n_atoms, 3) structures that are looked at in any case, the pose first.
        places: (n_atoms,) index of each atom in the systems of the ends, which may hold virtual
            sites besides.
        n_embedded: structures that RDKit makes.
        n_expensive: at most that many are relaxed at each further end.
    """
    generator = np.random.default_rng(_SEED)
    random = embedded(ligand, n_embedded)
    seeds = [*given_nm, *random]
    turns = [t for base in (given_nm[0], *random[:1]) for t in turned(ligand, coordinates, base)]
    pool = distinct(coordinates, [*seeds, *turns])
    parts: list[tuple[int, np.ndarray, np.ndarray]] = []
    for index, end in enumerate(ends):
        relaxed, energies = _relax(end.system, pool, places, generator)
        energies = energies / kt_kj_mol
        # A candidate may fall into another molecule: two atoms apart, a proton elsewhere.
        energies[[_is_other(ligand, positions) for positions in relaxed]] = np.inf
        order = np.argsort(energies)
        order = order[np.isfinite(energies[order])]
        kept = _unlike(coordinates, relaxed[order])
        order = order[kept]
        if not len(order):
            logger.warning("no conformer could be relaxed at the end %s", end.name)
            continue
        energies = energies[order] - energies[order[0]]
        parts.append((index, relaxed[order], energies))
        if index == 0:
            low = relaxed[order][energies <= _FAR_KT][:n_expensive]
            pool = distinct(coordinates, [*given_nm, *low])
    return Conformers(
        end_names=tuple(end.name for end in ends),
        columns=columns_of(coordinates),
        positions_nm=_joined([p for _, p, _ in parts], given_nm),
        ends=np.concatenate([np.zeros(0, int), *(np.full(len(e), i) for i, _, e in parts)]),
        energies_kt=np.concatenate([np.zeros(0), *(e for _, _, e in parts)]),
        values=measure(coordinates, _joined([p for _, p, _ in parts], given_nm)),
        starts=(),
        ground="",
    )


def _is_other(ligand: LigandMolecule, positions_nm: np.ndarray) -> bool:
    return configuration_change(ligand, positions_nm) is not None


def _joined(parts: Sequence[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((0, *like.shape[1:])), *parts])


def _unlike(coordinates: Sequence[SoftCoordinate], structures: np.ndarray) -> list[int]:
    """Rows that are not the conformer of an earlier one."""
    rows = measure(coordinates, structures)
    kept: list[int] = []
    for index, row in enumerate(rows):
        if not any(same_conformer(coordinates, row, rows[other]) for other in kept):
            kept.append(index)
    return kept


def _relax(
    system: openmm.System,
    structures: Sequence[np.ndarray],
    places: Sequence[int],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize each; energies in kJ/mol, infinite where that fails."""
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    chosen = list(places)
    relaxed = np.array(structures, dtype=np.float64)
    energies = np.full(len(relaxed), np.inf)
    for index, structure in enumerate(structures):
        positions = np.zeros((system.getNumParticles(), 3))
        # Off the tops of barriers, where a turned bond may stand by symmetry.
        positions[chosen] = structure + generator.normal(0.0, _NOISE_NM, np.shape(structure))
        context.setPositions(positions)
        context.computeVirtualSites()
        try:
            openmm.LocalEnergyMinimizer.minimize(context, tolerance=1.0, maxIterations=_MOST_STEPS)
        except openmm.OpenMMException as error:
            logger.debug("a conformer cannot be minimized: %s", error)
            continue
        state = context.getState(getPositions=True, getEnergy=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        if np.isfinite(energy):
            found = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
            relaxed[index] = found[chosen]
            energies[index] = energy
    return relaxed, energies
