"""The module inside an archive: positions in, energy and forces out, with plain torch alone."""

import torch
from torch import nn

from mace_mm.graph.cell_list import full_neighbor_list
from mace_mm.graph.graph import Graph
from mace_mm.model.potential import Potential


class PortableModel(nn.Module):
    """A potential that finds its own neighbors; what `torch.jit.load` of an archive returns.

    Attributes:
        r_max: cutoff, Å.
    """

    species_of_element: torch.Tensor

    def __init__(self, potential: Potential, atomic_numbers: tuple[int, ...]) -> None:
        super().__init__()
        self.potential: Potential = potential
        self.r_max = float(potential.network.r_max)
        table = torch.full([120], -1, dtype=torch.int64)
        table[list(atomic_numbers)] = torch.arange(len(atomic_numbers))
        self.register_buffer("species_of_element", table, persistent=False)

    def forward(
        self,
        positions: torch.Tensor,
        atomic_numbers: torch.Tensor,
        cell: torch.Tensor | None = None,
        pbc: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Evaluate one structure.

        Args:
            positions: (n_atoms, 3) Å; converted to the dtype of the weights.
            atomic_numbers: (n_atoms,) integers.
            cell: (3, 3) lattice vectors as rows, Å; none for a molecule.
            pbc: (3,) bool, all periodic if there is a cell and nothing is said.

        Returns:
            energy, interaction_energy () float64 eV; node_energies (n_atoms,) float64 eV;
            forces (n_atoms, 3) eV/Å; stress (3, 3) eV/Å³.

        Raises:
            ValueError: an element the model does not know (`torch.jit.Error` when compiled).
        """
        species = self.species_of_element.index_select(0, atomic_numbers.to(torch.int64))
        if bool((species < 0).any()):
            raise ValueError("an atom is of an element that the model was not trained for")
        dtype = self.potential.network.embedding.weight.dtype
        if cell is None:
            box = torch.zeros([3, 3], dtype=dtype, device=positions.device)
            periodic = torch.zeros([3], dtype=torch.bool, device=positions.device)
        else:
            box = cell.to(dtype)
            periodic = torch.ones([3], dtype=torch.bool, device=positions.device)
        if pbc is not None:
            periodic = pbc
        positions = positions.to(dtype)
        senders, receivers, shifts = full_neighbor_list(positions, box, periodic, self.r_max)
        graph = Graph(
            species=species,
            positions=positions,
            senders=senders,
            receivers=receivers,
            cell_shifts=shifts,
            cell=box.unsqueeze(0),
            graph_index=torch.zeros_like(species),
        )
        result = self.potential(graph)
        return {
            "energy": result.energy[0],
            "interaction_energy": result.interaction_energy[0],
            "node_energies": result.node_energies,
            "forces": result.forces,
            "stress": result.stress[0],
        }
