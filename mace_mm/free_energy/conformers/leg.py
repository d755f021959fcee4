"""Which conformers a leg starts from: searched for once, kept in the leg's folder."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rdkit import Chem

from mace_mm.errors import GeometryError, InputError
from mace_mm.free_energy.conformers.files import read_conformers, with_positions
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule, read_molecule
from mace_mm.free_energy.conformers.placement import align, make_room
from mace_mm.free_energy.conformers.search import (
    Conformers,
    End,
    columns_of,
    load_conformers,
    search,
)
from mace_mm.free_energy.conformers.site import is_in_site
from mace_mm.free_energy.conformers.start_choice import choose_starts
from mace_mm.free_energy.coordinates.conformation import (
    ConformationObserver,
    follow_conformation,
    measure,
)
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate, find_coordinates
from mace_mm.free_energy.settings import Starts
from mace_mm.free_energy.systems.inputs import MMSystem

logger = logging.getLogger(__name__)

SD_NAME = "conformers.sdf"
# Given conformers whose center is this close to the pose's stay where their file places them, nm.
_SAME_PLACE_NM = 0.4


@dataclass(frozen=True, kw_only=True, eq=False)
class LegConformers:
    """What a leg needs to know to choose and place its starts.

    Attributes:
        ligand: graph and pose.
        coordinates: its soft coordinates.
        mm: the leg's force-field system.
        make_ends: makes the energies of the leg's ends for the ligand alone, with what surrounds
            it as a continuum; called when they are needed.
        settings: of the search.
        kt_kj_mol: of the run.
        in_site: whether the ligand sits in something else than solvent.
    """

    ligand: LigandMolecule
    coordinates: tuple[SoftCoordinate, ...]
    mm: MMSystem
    make_ends: Callable[[], Sequence[End]]
    settings: Starts
    kt_kj_mol: float
    in_site: bool

    @property
    def observer(self) -> ConformationObserver | None:
        """What follows the molecule, None where nothing in it is soft."""
        return follow_conformation(self.ligand, self.coordinates)

    def prepare(self, folder: Path | None, n_replicas: int, *, began: bool = False) -> Conformers:
        """Find the conformers and starts, or read what was found before.

        Args:
            folder: where they are kept; None only looks.
            n_replicas: of the leg; no more starts than that.
            began: the run has begun from its pose alone, with a version that knew no conformers.

        Raises:
            InputError: a file of conformers that does not fit the ligand.
            DataError, ConfigError: see :func:`load_conformers`.
        """
        found = None if folder is None else load_conformers(folder, self.coordinates)
        if found is not None:
            return found
        given = self._given()
        if self.coordinates and self.settings.search:
            logger.info(
                "searching for conformers: %d torsions, rings and centers", len(self.coordinates)
            )
        found = self._search(given)
        most = min(n_replicas, self.settings.most or n_replicas)
        found = self._with_starts(found, given, most, began)
        logger.info("%s", found.ground)
        if folder is not None:
            found.save(folder)
            self._write_sd(found, folder / SD_NAME)
        return found

    def place(self, conformers: Conformers) -> np.ndarray:
        """(n_starts, n_particles, 3) nm: the leg's start with each conformer in the ligand's place.

        Raises:
            GeometryError: a conformer clashes with what cannot move away.
        """
        placed = []
        for number, row in enumerate(conformers.starts, start=1):
            positions = self.mm.positions_nm.copy()
            positions[list(self.ligand.atoms)] = self._laid(conformers, row)
            if not _is_pose(conformers, row):
                try:
                    positions = make_room(
                        self.mm.topology, positions, self.mm.box_nm, self.mm.ligand
                    )
                except GeometryError as error:
                    raise GeometryError(f"conformer {number} does not fit: {error}") from error
            placed.append(positions)
        return np.array(placed)

    def _laid(self, conformers: Conformers, row: int) -> np.ndarray:
        positions, pose = conformers.positions_nm[row], self.ligand.positions_nm
        if conformers.ends[row] < 0 and self.in_site:
            apart = np.linalg.norm(positions.mean(axis=0) - pose.mean(axis=0))
            if apart < _SAME_PLACE_NM:
                return positions
        return align(positions, pose, self.ligand.mol)

    def _given(self) -> np.ndarray:
        """(n, n_atoms, 3) the pose, then the user's conformers."""
        pose = self.ligand.positions_nm[None]
        if self.mm.conformers is None:
            return pose
        return np.concatenate([pose, read_conformers(self.mm.conformers, self.ligand)])

    def _search(self, given: np.ndarray) -> Conformers:
        empty = Conformers(
            end_names=(),
            columns=columns_of(self.coordinates),
            positions_nm=given,
            ends=np.full(len(given), -1),
            energies_kt=np.full(len(given), np.nan),
            values=measure(self.coordinates, given),
            starts=(),
            ground="",
        )
        if not self.coordinates or not self.settings.search:
            return empty
        places = [self.mm.ligand.index(atom) for atom in self.ligand.atoms]
        try:
            found = search(
                self.ligand,
                self.coordinates,
                self.make_ends(),
                self.kt_kj_mol,
                given_nm=given,
                places=places,
                n_embedded=self.settings.embedded,
                n_expensive=self.settings.relaxed,
            )
        except InputError as error:
            logger.warning("conformers are not searched: %s", error)
            return empty
        return replace(
            found,
            positions_nm=np.concatenate([given, found.positions_nm]),
            ends=np.concatenate([empty.ends, found.ends]),
            energies_kt=np.concatenate([empty.energies_kt, found.energies_kt]),
            values=np.concatenate([empty.values, found.values]),
        )

    def _with_starts(
        self, found: Conformers, given: np.ndarray, most: int, began: bool
    ) -> Conformers:
        """Choose, and say why."""
        if began:
            return replace(found, starts=(0,), ground=_BEGAN)
        if len(given) > 1:
            n_given = len(given) - 1
            used = min(n_given, most)
            rest = "" if used == n_given else f" (of {n_given}; there are no more replicas)"
            return replace(
                found,
                starts=tuple(range(1, used + 1)),
                ground=f"{used} conformers of {self.mm.conformers}{rest}",
            )
        if not self.coordinates:
            return replace(found, starts=(0,), ground=_STIFF)
        if not self.settings.search:
            return replace(found, starts=(0,), ground=_NO_SEARCH)
        if self.in_site:
            return replace(found, starts=(0,), ground=_IN_SITE)
        rows = choose_starts(found, self.coordinates, most, self.settings.window_kt)
        if not rows:
            return replace(found, starts=(0,), ground=_NOTHING_FOUND)
        return replace(
            found,
            starts=rows,
            ground=(
                f"{len(rows)} conformer{'s' if len(rows) > 1 else ''} within "
                f"{self.settings.window_kt:g} kT of the lowest by "
                f"{' or '.join(found.end_names)}"
            ),
        )

    def _write_sd(self, conformers: Conformers, path: Path) -> None:
        with Chem.SDWriter(str(path)) as writer:
            for number, row in enumerate(conformers.starts, start=1):
                mol = with_positions(self.ligand.mol, self._laid(conformers, row))
                mol.SetProp("_Name", f"start {number}")
                energy = conformers.energies_kt[row]
                if np.isfinite(energy):
                    mol.SetProp("energy_kt", f"{energy:.2f}")
                    mol.SetProp("relaxed_by", conformers.end_names[conformers.ends[row]])
                writer.write(mol)


_BEGAN = "1 conformer, the pose: the run began before several were started"
_STIFF = "1 conformer, the pose: no bond of the ligand turns and no ring puckers"
_NO_SEARCH = "1 conformer, the pose: starts.search is false"
_IN_SITE = "1 conformer, the pose in its site, which is kept: give others as input.conformers"
_NOTHING_FOUND = "1 conformer, the pose: no other could be relaxed"


def _is_pose(conformers: Conformers, row: int) -> bool:
    return row == 0 and bool(conformers.ends[row] < 0)


def conformers_of(
    mm: MMSystem,
    make_ends: Callable[[], Sequence[End]],
    settings: Starts,
    kt_kj_mol: float,
) -> LegConformers | None:
    """The conformers of a leg, None for a ligand of several molecules.

    Raises:
        InputError: a SMILES that is not the ligand's.
    """
    ligand = read_molecule(
        mm.topology, mm.ligand, mm.positions_nm, mm.system, smiles=mm.smiles, box_nm=mm.box_nm
    )
    if ligand.n_fragments > 1:
        logger.warning(
            "the ligand consists of %d molecules: conformers are neither searched nor followed",
            ligand.n_fragments,
        )
        return None
    return LegConformers(
        ligand=ligand,
        coordinates=find_coordinates(ligand),
        mm=mm,
        make_ends=make_ends,
        settings=settings,
        kt_kj_mol=kt_kj_mol,
        in_site=is_in_site(mm),
    )
