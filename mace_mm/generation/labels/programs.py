"""The level of theory that settings name, made once a process."""

from functools import lru_cache

import numpy as np

from mace_mm.generation.labels.base import FrameByFrame, FrameLabels, Labeler
from mace_mm.generation.labels.named_files import contents_of
from mace_mm.generation.labels.settings import LabelSettings


def label_frames(
    settings: LabelSettings, atomic_numbers: np.ndarray, frames: np.ndarray, charge: int
) -> FrameLabels:
    """Label the frames of one molecule.

    Args:
        atomic_numbers: (n_atoms,).
        frames: (n_frames, n_atoms, 3) Å.
        charge: total charge, e.

    Raises:
        LabelError: the level of theory cannot describe this molecule at all.
        DependencyError: the program is not installed.
        ConfigError: the settings do not fit the program.
    """
    labeler = _labeler(settings.model_dump_json(), *contents_of(settings.options))
    return labeler.label(atomic_numbers, frames, charge)


# A process labels molecule after molecule: networks and libraries are loaded once, and again when
# a file that the settings name has changed.
@lru_cache(maxsize=8)
def _labeler(settings_json: str, *contents: str) -> Labeler:
    settings = LabelSettings.model_validate_json(settings_json)
    match settings.kind:
        case "tblite":
            from mace_mm.generation.labels.tblite import TBLiteProgram

            return FrameByFrame(TBLiteProgram(settings), settings.atom_energies)
        case "ani":
            from mace_mm.generation.labels.ani import ANICommittee

            return ANICommittee(settings)
        case "pyscf":
            from mace_mm.generation.labels.pyscf.program import PySCFProgram

            return FrameByFrame(PySCFProgram(settings), settings.atom_energies)
        case "qcengine":
            from mace_mm.generation.labels.qcengine import QCEngineProgram

            return FrameByFrame(QCEngineProgram(settings), settings.atom_energies)
        case "ase":
            from mace_mm.generation.labels.ase import ASEProgram

            return FrameByFrame(ASEProgram(settings), settings.atom_energies)
