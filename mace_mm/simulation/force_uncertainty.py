"""Expected force errors of one model while it is used."""

from pathlib import Path

import numpy as np

from mace_mm.deploy.archive import Archive
from mace_mm.deploy.open_model import BUNDLED_MODELS, bundled_path, open_model
from mace_mm.graph.batching import build_graph
from mace_mm.graph.molecule import Molecule
from mace_mm.model.uncertainty import Uncertainty, load_uncertainty


def bundled_uncertainty(sha256: str) -> Uncertainty | None:
    """The uncertainty that ships with a bundled model; None for other weights."""
    for name in BUNDLED_MODELS:
        path = bundled_path(name).with_suffix(".uncertainty")
        if path.is_file():
            found = load_uncertainty(path)
            if found.sha256 == sha256:
                return found
    return None


class ForceUncertainty:
    """Expected force errors of one model, by atom.

    Args:
        model: an archive, by path or opened; None for the bundled model.
        uncertainty: made for it, by path or opened.

    Raises:
        ArchiveError: files that cannot be read or do not belong together.
    """

    def __init__(
        self, model: str | Path | Archive | None, uncertainty: str | Path | Uncertainty
    ) -> None:
        self.archive = model if isinstance(model, Archive) else open_model(model)
        if isinstance(uncertainty, Uncertainty):
            self.uncertainty = uncertainty
        else:
            self.uncertainty = load_uncertainty(uncertainty, self.archive.sha256)

    def __call__(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray | None = None
    ) -> np.ndarray:
        """Expected root-mean-square error of every atom's force components, (n_atoms,) eV/Å.

        Args:
            atomic_numbers: (n_atoms,).
            positions: (n_atoms, 3) Å.
            cell: (3, 3) lattice vectors as rows, Å; None in vacuum.
        """
        config = self.archive.config
        molecule = Molecule(atomic_numbers=atomic_numbers, positions=positions, cell=cell)
        graph = build_graph(molecule, config.atomic_numbers, config.r_max)
        return self.uncertainty(self.archive.potential, graph).numpy()
