"""Graphs from molecules, and several graphs side by side in one."""

from collections.abc import Sequence

import numpy as np
import torch

from mace_mm.elements import species_index
from mace_mm.errors import InputError
from mace_mm.graph.graph import Graph
from mace_mm.graph.molecule import Molecule
from mace_mm.graph.neighbors import neighbor_list


def collate(graphs: Sequence[Graph]) -> Graph:
    """Join graphs into one batch; atoms and edges keep their order, graph after graph.

    Args:
        graphs: graphs of one dtype and device, each with one or more structures.

    Raises:
        InputError: no graphs, or graphs of different dtypes.
    """
    if not graphs:
        raise InputError("a batch needs at least one graph, got none")
    dtypes = {graph.positions.dtype for graph in graphs}
    if len(dtypes) > 1:
        raise InputError(f"graphs of a batch must have one dtype, got {sorted(map(str, dtypes))}")
    senders, receivers, graph_index = [], [], []
    n_atoms = n_graphs = 0
    for graph in graphs:
        senders.append(graph.senders + n_atoms)
        receivers.append(graph.receivers + n_atoms)
        graph_index.append(graph.graph_index + n_graphs)
        n_atoms += graph.positions.shape[0]
        n_graphs += graph.cell.shape[0]
    return Graph(
        species=torch.cat([graph.species for graph in graphs]),
        positions=torch.cat([graph.positions for graph in graphs]),
        senders=torch.cat(senders),
        receivers=torch.cat(receivers),
        cell_shifts=torch.cat([graph.cell_shifts for graph in graphs]),
        cell=torch.cat([graph.cell for graph in graphs]),
        graph_index=torch.cat(graph_index),
    )


def build_graph(
    molecule: Molecule,
    elements: Sequence[int],
    cutoff: float,
    dtype: torch.dtype = torch.float64,
    pbc: Sequence[bool] | np.ndarray = (True, True, True),
) -> Graph:
    """Build the graph of one molecule on the host.

    Args:
        molecule: the structure, Å.
        elements: the model's atomic numbers, in its order.
        cutoff: Å.
        dtype: of positions, shifts and cell.
        pbc: (3,) the periodic directions of a molecule with a cell.

    Raises:
        ElementError: an element the model does not know.
    """
    species = species_index(molecule.atomic_numbers.tolist(), elements)
    pairs = neighbor_list(molecule.positions, cutoff, molecule.cell, pbc)
    cell = np.zeros((3, 3)) if molecule.cell is None else molecule.cell
    return Graph(
        species=torch.tensor(species, dtype=torch.int64),
        positions=torch.as_tensor(molecule.positions).to(dtype),
        senders=torch.from_numpy(pairs.senders),
        receivers=torch.from_numpy(pairs.receivers),
        cell_shifts=torch.from_numpy(pairs.cell_shifts).to(dtype),
        cell=torch.as_tensor(cell).to(dtype).unsqueeze(0),
        graph_index=torch.zeros(molecule.n_atoms, dtype=torch.int64),
    )
