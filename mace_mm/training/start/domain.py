"""What a model was trained on, as its archive tells simulations: charges and short distances."""

from dataclasses import dataclass, field

import numpy as np

from mace_mm.data.labels import LabeledMolecule
from mace_mm.elements import symbol
from mace_mm.graph.neighbors import neighbor_list

# Pairs that never come closer stay unknown.
_REACH = 4.0  # Å
_N_ELEMENTS = 119


@dataclass(kw_only=True, eq=False)
class Domain:
    """The range of the training frames of one head.

    Attributes:
        charges: molecular charges seen, e.
        shortest: (119, 119) shortest distance by atomic numbers, Å; infinite where unseen.
    """

    charges: set[int] = field(default_factory=set)
    shortest: np.ndarray = field(
        default_factory=lambda: np.full((_N_ELEMENTS, _N_ELEMENTS), np.inf)
    )

    def add(self, frame: LabeledMolecule) -> None:
        """Take a frame into account."""
        molecule = frame.molecule
        self.charges.add(round(molecule.total_charge))
        positions, numbers = molecule.positions, molecule.atomic_numbers
        pairs = neighbor_list(positions, _REACH, molecule.cell)
        vectors = positions[pairs.receivers] - positions[pairs.senders]
        if molecule.cell is not None:
            vectors = vectors + pairs.cell_shifts @ molecule.cell
        places = numbers[pairs.senders], numbers[pairs.receivers]
        np.minimum.at(self.shortest, places, np.linalg.norm(vectors, axis=1))

    def shortest_distances(self) -> dict[str, float]:
        """Distances in Å by pair of symbols, ascending atomic numbers, such as "C-O"."""
        return {
            f"{symbol(a)}-{symbol(b)}": round(float(self.shortest[a, b]), 4)
            for a, b in np.argwhere(np.isfinite(self.shortest)).tolist()
            if a <= b
        }
