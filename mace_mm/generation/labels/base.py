"""Labels of frames by a level of theory; a failed label is a reason, never a number."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mace_mm.elements import atomic_number, symbol
from mace_mm.errors import DataError
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.units import HARTREE_TO_EV


class LabelError(DataError):
    """A calculation that failed or did not converge: the frame gets no label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameLabels:
    """Labels of the frames of one molecule; frames without a label are named in ``failures``.

    Attributes:
        energies: (n_frames,) total energies, eV; NaN where failed.
        forces: (n_frames, n_atoms, 3) eV/Å; NaN where failed.
        energy_std: (n_frames,) standard deviation of a committee, eV; None without a committee.
        force_std: (n_frames, n_atoms, 3) eV/Å; None without a committee.
        dipoles: (n_frames, 3) e·Å about the origin; None where the program has none.
        seconds: (n_frames,) what each frame took, core-seconds; None where it was not measured.
        failures: frame -> reason.
        atom_energies: atomic number -> energy of the isolated atom, eV.
        provenance: level of theory, programs and versions, settings.
    """

    energies: np.ndarray
    forces: np.ndarray
    energy_std: np.ndarray | None = None
    force_std: np.ndarray | None = None
    dipoles: np.ndarray | None = None
    seconds: np.ndarray | None = None
    failures: dict[int, str] = field(default_factory=dict)
    atom_energies: dict[int, float]
    provenance: dict[str, str]

    def __post_init__(self) -> None:
        finite = np.isfinite(self.energies) & np.isfinite(self.forces).all(axis=(1, 2))
        labelled = np.ones(len(self.energies), dtype=bool)
        labelled[list(self.failures)] = False
        if (finite != labelled).any():
            frame = int(np.flatnonzero(finite != labelled)[0])
            raise DataError(f"frame {frame}: a label must be finite or have a reason for failing")


class Labeler(Protocol):
    """A level of theory, ready to label the frames of any molecule."""

    def label(self, atomic_numbers: np.ndarray, frames: np.ndarray, charge: int) -> FrameLabels:
        """Label frames (n_frames, n_atoms, 3) Å of one molecule of total charge ``charge`` e."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SinglePoint:
    """One structure's label.

    Attributes:
        energy: total energy, eV.
        forces: (n_atoms, 3) eV/Å.
        energy_std: of a committee, eV; None without one.
        force_std: (n_atoms, 3) eV/Å; None without a committee.
        dipole: (3,) e·Å about the origin; None where the program gives none.
        seconds: what it took, core-seconds; None where it was not measured.
    """

    energy: float
    forces: np.ndarray
    energy_std: float | None = None
    force_std: np.ndarray | None = None
    dipole: np.ndarray | None = None
    seconds: float | None = None


class SinglePointProgram(Protocol):
    """A program that computes one structure at a time."""

    def provenance_of(self, atomic_numbers: np.ndarray) -> dict[str, str]:
        """What is stored with the labels of a molecule: level of theory, programs, numerics."""
        ...

    def single_point(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int
    ) -> SinglePoint:
        """The label at positions (n_atoms, 3) Å; LabelError where it fails."""
        ...

    def atom_energy(self, atomic_number: int) -> float:
        """Energy of the isolated neutral atom in its ground state, eV, or LabelError."""
        ...


class FrameByFrame:
    """Labels with a single-point program, each frame from scratch and on its own.

    Args:
        program: computes one structure.
        atom_energies: symbol -> hartree, instead of the program's own.
    """

    def __init__(
        self, program: SinglePointProgram, atom_energies: dict[str, float] | None = None
    ) -> None:
        self.program = program
        self._atoms = {
            atomic_number(s): energy * HARTREE_TO_EV for s, energy in (atom_energies or {}).items()
        }

    def label(self, atomic_numbers: np.ndarray, frames: np.ndarray, charge: int) -> FrameLabels:
        """See `Labeler.label`; a frame that fails costs only itself."""
        atoms = self._atom_energies(atomic_numbers)
        energies, energy_std = np.full((2, len(frames)), np.nan)
        forces, force_std = np.full((2, *frames.shape), np.nan)
        dipoles, seconds = np.full((len(frames), 3), np.nan), np.full(len(frames), np.nan)
        failures: dict[int, str] = {}
        for i, positions in enumerate(frames):
            try:
                point = self.program.single_point(atomic_numbers, positions, charge)
                if not (np.isfinite(point.energy) and np.isfinite(point.forces).all()):
                    raise LabelError("the program returned values that are not finite")
                energies[i], forces[i] = point.energy, point.forces
                if point.energy_std is not None and point.force_std is not None:
                    energy_std[i], force_std[i] = point.energy_std, point.force_std
                if point.dipole is not None:
                    dipoles[i] = point.dipole
                if point.seconds is not None:
                    seconds[i] = point.seconds
            except LabelError as error:
                failures[i] = str(error)
        return FrameLabels(
            energies=energies,
            forces=forces,
            energy_std=energy_std if np.isfinite(energy_std).any() else None,
            force_std=force_std if np.isfinite(energy_std).any() else None,
            dipoles=dipoles if np.isfinite(dipoles).any() else None,
            seconds=seconds if np.isfinite(seconds).any() else None,
            failures=failures,
            atom_energies=atoms,
            provenance=self.program.provenance_of(atomic_numbers),
        )

    def _atom_energies(self, atomic_numbers: np.ndarray) -> dict[int, float]:
        for number in {int(z) for z in atomic_numbers} - set(self._atoms):
            self._atoms[number] = self.program.atom_energy(number)
        return {int(z): self._atoms[int(z)] for z in atomic_numbers}


def provenance(settings: LabelSettings, **programs: str) -> dict[str, str]:
    """What is stored with labels: the level of theory, the settings and program versions."""
    return {
        "level_of_theory": settings.level_of_theory(),
        "label_settings": settings.model_dump_json(exclude={"path"}, exclude_defaults=True),
        "programs": ", ".join(f"{name} {version}" for name, version in sorted(programs.items())),
    }


def unpaired_electrons(number: int) -> int:
    """Unpaired electrons of the isolated neutral atom in its ground state (Hund), H to Kr and I.

    Raises:
        LabelError: an element outside this table.
    """
    table = dict(enumerate((1, 0, 1, 0, 1, 2, 3, 2, 1, 0, 1, 0, 1, 2, 3, 2, 1, 0, 1, 0), start=1))
    table.update({31: 1, 32: 2, 33: 3, 34: 2, 35: 1, 36: 0, 53: 1})
    if number not in table:
        raise LabelError(f"no ground state of the isolated atom {symbol(number)} is known")
    return table[number]
