"""The graph that the network reads: tensors only, so that TorchScript can pass it."""

from typing import NamedTuple

import torch


class Graph(NamedTuple):
    """One structure or a batch of structures as a graph of neighbors.

    Messages flow sender -> receiver. The list is full: (i, j, S) and (j, i, -S) both occur.

    Attributes:
        species: (n_atoms,) int64, index into the model's elements.
        positions: (n_atoms, 3), Å.
        senders: (n_edges,) int64.
        receivers: (n_edges,) int64.
        cell_shifts: (n_edges, 3), integer multiples of the lattice vectors, in positions' dtype.
        cell: (n_graphs, 3, 3), lattice vectors as rows, Å; zeros where a graph has none.
        graph_index: (n_atoms,) int64, the graph each atom belongs to, ascending.
    """

    species: torch.Tensor
    positions: torch.Tensor
    senders: torch.Tensor
    receivers: torch.Tensor
    cell_shifts: torch.Tensor
    cell: torch.Tensor
    graph_index: torch.Tensor


def edge_vectors(graph: Graph) -> torch.Tensor:
    """Vectors from sender to receiver, (n_edges, 3) in Å.

    ``positions[receivers] - positions[senders] + cell_shifts @ cell``.
    """
    offsets = graph.positions.index_select(0, graph.receivers) - graph.positions.index_select(
        0, graph.senders
    )
    cells = graph.cell.index_select(0, graph.graph_index.index_select(0, graph.senders))
    return offsets + torch.bmm(graph.cell_shifts.unsqueeze(1), cells).squeeze(1)
