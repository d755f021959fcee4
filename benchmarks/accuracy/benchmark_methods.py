"""The methods that the benchmark compares: an archive, ANI-2x, GFN2-xTB, AIMNet2."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_model
from mace_mm.generation.labels.ani import ANICommittee
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.labels.tblite import TBLiteProgram
from mace_mm.graph.batching import build_graph
from mace_mm.graph.molecule import Molecule

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "bundled_model"))
from teachers import AIMNet2

# Atomic numbers (n_atoms,) and positions (n_frames, n_atoms, 3) Å to energies (n_frames,) eV
# and forces (n_frames, n_atoms, 3) eV/Å.
Method = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

ANI_ELEMENTS = frozenset((1, 6, 7, 8, 9, 16, 17))
AIMNET2_ELEMENTS = ANI_ELEMENTS | {5, 14, 15, 33, 34, 35, 53}


def open_method(name: str, data: Path) -> tuple[Method, frozenset[int] | None, bool]:
    """A method, its elements (None: all), and whether its zero of energy is SPICE's.

    By name, "ani-2x" or "gfn2-xtb", or by the path of an archive or of AIMNet2's ensemble (.jpt).
    """
    if name == "gfn2-xtb":
        return _gfn2(), None, False
    if name == "ani-2x":
        return _ani(data / "ani-2x" / "ani-2x_8x.info"), ANI_ELEMENTS, False
    if name.endswith(".jpt"):
        return AIMNet2(Path(name)), AIMNET2_ELEMENTS, False
    archive = open_model(name)
    return _archive(archive), frozenset(archive.config.atomic_numbers), True


def _gfn2() -> Method:
    program = TBLiteProgram(LabelSettings(name="gfn2", kind="tblite", method="GFN2-xTB"))

    def evaluate(numbers: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = [program.single_point(numbers, frame, 0) for frame in frames]
        return np.array([p.energy for p in points]), np.array([p.forces for p in points])

    return evaluate


def _ani(info: Path) -> Method:
    committee = ANICommittee(LabelSettings(name="ani", kind="ani", path=info))

    def evaluate(numbers: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = committee.label(numbers, frames, 0)
        return labels.energies, labels.forces

    return evaluate


def _archive(archive: Archive) -> Method:
    config = archive.config

    def one(numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
        molecule = Molecule(atomic_numbers=numbers, positions=positions)
        found = archive.potential(build_graph(molecule, config.atomic_numbers, config.r_max))
        return float(found.energy), found.forces.detach().numpy()

    def evaluate(numbers: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = [one(numbers, frame) for frame in frames]
        return np.array([p[0] for p in points]), np.array([p[1] for p in points])

    return evaluate
