"""A batch as pairs of neighbors: distances and directions serve both directions of an edge."""

from typing import NamedTuple

import torch

from mace_mm.errors import InputError
from mace_mm.graph.graph import Graph
from mace_mm.kernels.training_ops import Edges


class PairGraph(NamedTuple):
    """A graph with its atoms sorted by element.

    Attributes:
        graph: atoms sorted by species, one edge a pair.
        edges: both directions of every pair, sorted by receiver.
        place: (n_atoms,) where each atom of the original graph stands.
        counts: number of atoms of each species.
    """

    graph: Graph
    edges: Edges
    place: torch.Tensor
    counts: list[int]


def pair_graph(graph: Graph, n_species: int) -> PairGraph:
    """Sort atoms by species and join the two directions of every edge.

    Raises:
        InputError: an edge without its reverse.
    """
    n_atoms = graph.species.size(0)
    order = torch.argsort(graph.species, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(n_atoms)
    senders, receivers = place[graph.senders], place[graph.receivers]
    order_of_edges = torch.argsort(receivers, stable=True)
    senders, receivers = senders[order_of_edges], receivers[order_of_edges]
    shifts = graph.cell_shifts[order_of_edges]
    against, keys = _pair_keys(senders, receivers, shifts, n_atoms)
    # A pair's two edges become neighbors, the one that runs along it first.
    sorted_edges = torch.argsort(2 * keys + against)
    sorted_keys = keys[sorted_edges]
    along, back = sorted_edges[::2], sorted_edges[1::2]
    n_pairs = along.size(0)
    if (
        along.size(0) != back.size(0)
        or not torch.equal(sorted_keys[::2], sorted_keys[1::2])
        or bool(against[along].any())
        or not bool(against[back].all())
    ):
        raise InputError("expected every edge of a graph in both directions")
    pairs = torch.empty_like(senders)
    pairs[along] = pairs[back] = torch.arange(n_pairs)
    return PairGraph(
        graph=Graph(
            species=graph.species[order],
            positions=graph.positions[order],
            senders=senders[along],
            receivers=receivers[along],
            cell_shifts=shifts[along],
            cell=graph.cell,
            graph_index=graph.graph_index[order],
        ),
        edges=Edges(senders, receivers, pairs, against.to(torch.uint8), n_atoms),
        place=place,
        counts=torch.bincount(graph.species, minlength=n_species).tolist(),
    )


def _pair_keys(
    senders: torch.Tensor, receivers: torch.Tensor, shifts: torch.Tensor, n_atoms: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether an edge runs against its pair, (n_edges,) bool, and a number that both share."""
    whole = shifts.round().to(torch.int64)
    reach = int(whole.abs().max()) + 1 if whole.numel() else 1
    base = 2 * reach + 1
    weights = torch.tensor([base * base, base, 1])
    shift = (whole * weights).sum(1)
    against = (senders > receivers) | ((senders == receivers) & (shift < 0))
    low, high = torch.minimum(senders, receivers), torch.maximum(senders, receivers)
    signed = torch.where(against, -shift, shift) + base**3
    return against, (low * n_atoms + high) * (2 * base**3) + signed
