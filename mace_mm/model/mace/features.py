"""What the network knows about an atom: its scalar features after every layer."""

import torch

from mace_mm.graph.graph import Graph, edge_vectors
from mace_mm.kernels.spherical_harmonics import spherical_harmonics
from mace_mm.model.mace.network import MACE


def scalar_features(network: MACE, graph: Graph) -> torch.Tensor:
    """Return the rotation-invariant features of all layers, (n_atoms, n_layers * channels).

    Args:
        network: trained.
        graph: positions in the dtype of the weights.
    """
    vectors = edge_vectors(graph)
    distances = torch.linalg.vector_norm(vectors, dim=1)
    harmonics = spherical_harmonics(vectors / distances.unsqueeze(1), network.l_max)
    radial_basis = network.radial_basis(
        distances,
        graph.species.index_select(0, graph.senders),
        graph.species.index_select(0, graph.receivers),
    )
    features = network.embedding(graph.species).unsqueeze(1)
    scalars = []
    for layer in network.layers:
        features = layer(
            features, graph.species, harmonics, radial_basis, graph.senders, graph.receivers
        )
        scalars.append(features[:, 0])
    return torch.cat(scalars, dim=1)
