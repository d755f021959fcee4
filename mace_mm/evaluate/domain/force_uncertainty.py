"""Expected force errors of one model while it is used."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_model
from mace_mm.bundled_models import BUNDLED_MODELS, bundled_path
from mace_mm.graph.batching import build_graph
from mace_mm.graph.molecule import Molecule
from mace_mm.graph.neighbors import completed_box
from mace_mm.model.uncertainty import Uncertainty, load_uncertainty

# In units of the largest expected error of the calibration. Of the atoms held out from training two
# in a hundred lie above 1, one in a thousand above 2 and none above 3.
UNLIKE_SEEN = 3.0
# The network runs in plain torch for this.
MOST_ATOMS = 1000


def bundled_uncertainty(archive: Archive) -> Uncertainty | None:
    """The uncertainty that ships with a bundled model; None for other models."""
    if archive.metadata.name not in BUNDLED_MODELS:
        return None
    found = load_uncertainty(bundled_path(archive.metadata.name).with_suffix(".uncertainty"))
    # Others may give their models this name.
    return found if found.sha256 == archive.sha256 else None


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

    @property
    def strange_above(self) -> float:
        """Expected error in eV/Å above which an atom is unlike any that was trained on."""
        return UNLIKE_SEEN * float(self.uncertainty.errors[-1])

    def __call__(
        self,
        atomic_numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray | None = None,
        pbc: Sequence[bool] | np.ndarray = (True, True, True),
    ) -> np.ndarray:
        """Expected root-mean-square error of every atom's force components, (n_atoms,) eV/Å.

        Args:
            atomic_numbers: (n_atoms,).
            positions: (n_atoms, 3) Å.
            cell: (3, 3) lattice vectors as rows, Å; None in vacuum. Zero rows along open
                directions will do.
            pbc: (3,) the periodic directions.
        """
        config = self.archive.config
        box = completed_box(cell, pbc)
        molecule = Molecule(atomic_numbers=atomic_numbers, positions=positions, cell=box)
        graph = build_graph(molecule, config.atomic_numbers, config.r_max, pbc=pbc)
        return self.uncertainty(self.archive.potential, graph).numpy()
