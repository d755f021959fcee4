"""Networks and structures that the engine's tests share."""

import dataclasses

import torch

from mace_mm.graph.cell_list import full_neighbor_list
from mace_mm.graph.graph import Graph
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential, Prediction

BASE = MACEConfig(atomic_numbers=(1, 6, 8), r_max=3.5, channels=16, avg_num_neighbors=5.0)
LAYOUTS = {
    "scalars": dataclasses.replace(BASE, channels=48),
    "scalars, 6 channels": dataclasses.replace(BASE, channels=6),
    "vectors": dataclasses.replace(BASE, hidden_l_max=1, channels=32),
    "tensors": dataclasses.replace(BASE, hidden_l_max=2),
    "residual": dataclasses.replace(BASE, hidden_l_max=1, residual_first=True),
    "orders 1, 2, 3": dataclasses.replace(BASE, hidden_l_max=2, correlation=(1, 2, 3)),
    "four layers": dataclasses.replace(BASE, hidden_l_max=1, correlation=(3, 2, 2, 2)),
    "one layer": dataclasses.replace(BASE, hidden_l_max=1, correlation=(3,)),
    "one layer, residual": dataclasses.replace(BASE, correlation=(2,), residual_first=True),
    "l_max 1": dataclasses.replace(BASE, hidden_l_max=1, l_max=1, correlation=(2, 3)),
    "l_max 2": dataclasses.replace(BASE, hidden_l_max=2, l_max=2),
    "repulsion": dataclasses.replace(BASE, pair_repulsion=True, distance_transform="agnesi"),
    "wide readout": dataclasses.replace(BASE, readout_mlp=24, heads=("a", "b")),
}
TRICLINIC = torch.tensor([[8.0, 0.0, 0.0], [1.5, 7.5, 0.0], [-0.7, 0.9, 7.1]], dtype=torch.float64)
SMALL = torch.tensor([[4.2, 0.0, 0.0], [1.1, 3.9, 0.0], [-0.7, 0.9, 2.6]], dtype=torch.float64)
NO_CELL = torch.zeros(0, dtype=torch.float64)


def make_potential(config: MACEConfig, seed: int = 11) -> Potential:
    """A network with random weights whose scale, shift and E0s are not trivial."""
    torch.manual_seed(seed)
    n_heads = len(config.heads)
    e0 = torch.linspace(-2043.9, -13.6, n_heads * config.n_species, dtype=torch.float64)
    network = MACE(config)
    with torch.no_grad():
        network.scale.copy_(torch.linspace(0.8, 1.3, n_heads))
        network.shift.copy_(torch.linspace(-0.2, 0.4, n_heads))
    return Potential(network, e0.view(n_heads, -1)).eval().requires_grad_(False)


def structure(
    n_atoms: int, cell: torch.Tensor | None, seed: int = 3, n_species: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Atoms on a jittered grid, no two of them on top of each other, and their species."""
    generator = torch.Generator().manual_seed(seed)
    side = 1
    while side**3 < n_atoms:
        side += 1
    box = torch.eye(3, dtype=torch.float64) * 1.9 * side if cell is None else cell
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 3)
    chosen = grid[torch.randperm(len(grid), generator=generator)[:n_atoms]]
    jitter = torch.rand(n_atoms, 3, generator=generator, dtype=torch.float64)
    species = torch.randint(n_species, (n_atoms,), generator=generator)
    return (chosen + 0.45 * jitter) / side @ box, species


def network_prediction(
    potential: Potential,
    positions: torch.Tensor,
    species: torch.Tensor,
    cell: torch.Tensor,
    head: int = 0,
) -> Prediction:
    """What the network itself computes, without any folding."""
    periodic = cell.numel() > 0
    box = cell if periodic else torch.zeros(3, 3, dtype=torch.float64)
    pbc = torch.full((3,), periodic)
    cutoff = potential.network.config.r_max
    senders, receivers, shifts = full_neighbor_list(positions, box, pbc, cutoff)
    graph = Graph(
        species=species,
        positions=positions,
        senders=senders,
        receivers=receivers,
        cell_shifts=shifts,
        cell=box.unsqueeze(0),
        graph_index=torch.zeros_like(species),
    )
    return potential(graph, torch.tensor([head]))
