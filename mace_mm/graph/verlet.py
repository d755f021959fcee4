"""The skin (Verlet) list: neighbors found once and reused while atoms move little.

L. Verlet, Phys. Rev. 159, 98 (1967). Plain torch that TorchScript compiles.
"""

import torch

from mace_mm.errors import ConfigError, GeometryError
from mace_mm.graph.cell_list import full_neighbor_list


class VerletList(torch.nn.Module):
    """Neighbors within a cutoff, from a list that is a skin wider and seldom rebuilt.

    With an unchanged box the list is rebuilt when an atom has moved more than half the skin since
    the last build. A changed box carries the old positions along (x -> x F, F the deformation);
    what is left of the motion is compared with a bound that the deformation has narrowed: pairs
    outside the list were farther apart than cutoff + skin, and F shrinks no distance by more than
    the factor 1 - |F - 1|. So the list is exact whatever is asked in whatever order, and a caller
    that mixes several systems or simulations in one module pays with rebuilds, never with a wrong
    result. State is replaced, never written in place.

    Attributes:
        cutoff: Å.
        skin: Å.
        coincident: atoms closer than this, in Å, are an error.
        n_builds: how often the list was built.
    """

    listed_senders: torch.Tensor
    listed_receivers: torch.Tensor
    listed_shifts: torch.Tensor
    listed_positions: torch.Tensor
    listed_cell: torch.Tensor
    listed_pbc: torch.Tensor

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        super().__init__()
        if not cutoff > 0 or not skin >= 0:
            raise ConfigError(
                f"cutoff must be positive and skin not negative, got {cutoff} and {skin} Å"
            )
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.coincident = 1e-3
        self.n_builds = 0
        self.register_buffer("listed_senders", torch.zeros(0, dtype=torch.int64), False)
        self.register_buffer("listed_receivers", torch.zeros(0, dtype=torch.int64), False)
        self.register_buffer("listed_shifts", torch.zeros(0, 3, dtype=torch.float64), False)
        self.register_buffer("listed_positions", torch.zeros(0, 3, dtype=torch.float64), False)
        self.register_buffer("listed_cell", torch.zeros(3, 3, dtype=torch.float64), False)
        self.register_buffer("listed_pbc", torch.zeros(3, dtype=torch.bool), False)

    def is_stale(self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor) -> bool:
        """Whether the stored list may miss a pair closer than the cutoff."""
        if positions.shape != self.listed_positions.shape or positions.shape[0] == 0:
            return True
        if not torch.equal(pbc, self.listed_pbc):
            return True
        moved = positions - self.listed_positions
        limit = 0.5 * self.skin
        if not torch.equal(cell, self.listed_cell):
            if not bool(pbc.all()):
                return True
            deformation = torch.linalg.solve(self.listed_cell, cell)
            moved = positions - self.listed_positions @ deformation
            unit = torch.eye(3, dtype=cell.dtype, device=cell.device)
            least_stretch = 1.0 - float((deformation - unit).norm())
            limit = 0.5 * (least_stretch * (self.cutoff + self.skin) - self.cutoff)
            if limit <= 0.0:
                return True
        # Written so that NaN counts as moved.
        return not bool((moved * moved).sum(1).max() <= limit * limit)

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The full list of pairs closer than the cutoff, sorted by receiver, sender, shift.

        Args:
            positions: (n_atoms, 3), Å.
            cell: (3, 3) lattice vectors as rows, Å, in the dtype of the positions; zeros if none.
            pbc: (3,) bool.

        Returns:
            senders (n_edges,), receivers (n_edges,) int64 and cell_shifts (n_edges, 3) in the dtype
            of the positions; the edge vector is
            ``positions[receivers] - positions[senders] + cell_shifts @ cell``.

        Raises:
            ValueError: positions not finite, a periodic cell without volume (as
                ``torch.jit.Error`` from a compiled module).
        """
        positions = positions.detach()
        cell = cell.detach()
        if self.is_stale(positions, cell, pbc):
            senders, receivers, shifts = full_neighbor_list(
                positions, cell, pbc, self.cutoff + self.skin
            )
            self.listed_senders = senders
            self.listed_receivers = receivers
            self.listed_shifts = shifts
            # Copies: OpenMM hands out a view of memory that it goes on to change.
            self.listed_positions = positions.clone()
            self.listed_cell = cell.clone()
            self.listed_pbc = pbc.clone()
            self.n_builds += 1
        vectors = (
            positions.index_select(0, self.listed_receivers)
            - positions.index_select(0, self.listed_senders)
            + self.listed_shifts @ cell
        )
        squared = (vectors * vectors).sum(1)
        kept = torch.nonzero(squared < self.cutoff * self.cutoff).squeeze(1)
        if kept.shape[0] > 0 and bool(squared.min() < self.coincident**2):
            pair = int(squared.argmin())
            first = int(self.listed_senders[pair])
            second = int(self.listed_receivers[pair])
            distance = float(squared.min().sqrt())
            raise GeometryError(f"atoms {first} and {second} coincide: {distance} Å apart")
        return (
            self.listed_senders.index_select(0, kept),
            self.listed_receivers.index_select(0, kept),
            self.listed_shifts.index_select(0, kept),
        )
