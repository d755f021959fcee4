"""From node energies to what simulators and losses need: energy, forces, stress."""

from typing import NamedTuple

import torch
from torch import nn

from mace_mm.graph.graph import Graph, edge_vectors
from mace_mm.model.mace.network import MACE


class Prediction(NamedTuple):
    """Results for a batch of graphs.

    Attributes:
        node_energies: (n_atoms,) float64 eV, E0 included.
        interaction_energy: (n_graphs,) float64 eV, without E0.
        energy: (n_graphs,) float64 eV, E0 added last.
        forces: (n_atoms, 3) eV/Å.
        stress: (n_graphs, 3, 3) eV/Å³, dE/d(strain) / volume; zeros where there is no cell.
        virial: (n_graphs, 3, 3) eV, -dE/d(strain).
    """

    node_energies: torch.Tensor
    interaction_energy: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor
    virial: torch.Tensor


class Potential(nn.Module):
    """A network with its isolated-atom energies.

    Forces and virial come from one derivative with respect to the edge vectors:
    F_i = sum over edges, virial = -sum r (x) dE/dr. In training mode the graph of that
    derivative is kept, so that a loss on forces can be differentiated.
    """

    def __init__(self, network: MACE, atomic_energies: torch.Tensor | None = None) -> None:
        """Args: atomic_energies (n_heads, n_species) in eV, zeros if not given."""
        super().__init__()
        self.network = network
        shape = (len(network.config.heads), network.config.n_species)
        if atomic_energies is None:
            atomic_energies = torch.zeros(shape)
        values = torch.as_tensor(atomic_energies).detach().to(torch.float64).reshape(shape)
        # Not a buffer: `.float()` must never round E0s, a float32 total is off by 0.1 eV.
        self.atomic_energies = _Float64(values.clone())

    def forward(self, graph: Graph, head: torch.Tensor | None = None) -> Prediction:
        """Evaluate a batch.

        Args:
            graph: the batch. Positions may be finer than the weights: edge vectors are formed in
                their dtype and then rounded to that of the weights, which forces come in.
            head: (n_graphs,) which level of theory, the first if not given.
        """
        n_graphs = graph.cell.size(0)
        if head is None:
            atom_head = torch.zeros_like(graph.species)
        else:
            atom_head = head.index_select(0, graph.graph_index)
        vectors = edge_vectors(graph).to(self.network.scale.dtype)
        if not vectors.requires_grad:
            vectors = vectors.detach().requires_grad_(True)
        interaction = self.network(
            graph.species, vectors, graph.senders, graph.receivers, atom_head
        )
        gradient = _edge_gradient(interaction, vectors, self.training)
        if not self.training:
            interaction, vectors = interaction.detach(), vectors.detach()
        forces = torch.zeros_like(graph.positions, dtype=gradient.dtype)
        forces = forces.index_add(0, graph.senders, gradient)
        forces = forces.index_add(0, graph.receivers, -gradient)
        edge_graph = graph.graph_index.index_select(0, graph.senders)
        outer = (vectors.unsqueeze(2) * gradient.unsqueeze(1)).view(-1, 9)
        strain_derivative = torch.zeros(
            [n_graphs, 9], dtype=outer.dtype, device=outer.device
        ).index_add(0, edge_graph, outer)
        strain_derivative = strain_derivative.view(n_graphs, 3, 3)
        strain_derivative = 0.5 * (strain_derivative + strain_derivative.transpose(1, 2))
        volume = torch.linalg.det(graph.cell).abs().view(-1, 1, 1)
        has_cell = volume > 0
        safe_volume = torch.where(has_cell, volume, torch.ones_like(volume))
        stress = torch.where(
            has_cell, strain_derivative / safe_volume, torch.zeros_like(strain_derivative)
        )
        node_interaction = interaction.to(torch.float64)
        interaction_energy = torch.zeros(
            [n_graphs], dtype=torch.float64, device=outer.device
        ).index_add(0, graph.graph_index, node_interaction)
        e0 = self.atomic_energies(atom_head, graph.species)
        e0_sum = torch.zeros([n_graphs], dtype=torch.float64, device=outer.device).index_add(
            0, graph.graph_index, e0
        )
        return Prediction(
            node_energies=e0 + node_interaction,
            interaction_energy=interaction_energy,
            energy=interaction_energy + e0_sum,
            forces=forces,
            stress=stress,
            virial=-strain_derivative,
        )


class _Float64(nn.Module):
    """The E0 table (n_heads, n_species), kept in float64 through `.float()` and `.half()`."""

    values: torch.Tensor

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        def keep_dtype(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    def forward(self, head: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        return self.values[head, species]


def _edge_gradient(
    energies: torch.Tensor, vectors: torch.Tensor, create_graph: bool
) -> torch.Tensor:
    """dE/d(edge vectors), (n_edges, 3); zeros when there is no edge to differentiate."""
    if vectors.size(0) == 0:
        return torch.zeros_like(vectors)
    gradient = torch.autograd.grad(
        [energies.sum()], [vectors], retain_graph=create_graph, create_graph=create_graph
    )[0]
    if gradient is None:
        return torch.zeros_like(vectors)
    return gradient
