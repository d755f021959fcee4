"""The MACE network: graph to interaction energies of the atoms.

Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher order equivariant message passing neural
networks for fast and accurate force fields", NeurIPS 2022, arXiv:2206.07697.
"""

import torch
from torch import nn

from mace_mm.kernels.spherical_harmonics import spherical_harmonics
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.interaction import Interaction
from mace_mm.model.mace.pair_repulsion import ZBL, NoRepulsion
from mace_mm.model.mace.product import Product
from mace_mm.model.mace.radial import AgnesiTransform, NoTransform, RadialBasis
from mace_mm.model.mace.readout import LinearReadout, NonlinearReadout


class Embedding(nn.Module):
    """h = W[z] / sqrt(n_species): one trainable vector per element."""

    def __init__(self, n_species: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_species, channels, dtype=torch.float64))

    def forward(self, species: torch.Tensor) -> torch.Tensor:
        return self.weight.index_select(0, species) * self.weight.size(0) ** -0.5


class Layer(nn.Module):
    """Interaction and product of one message-passing layer."""

    def __init__(self, config: MACEConfig, layer: int) -> None:
        super().__init__()
        self.interaction = Interaction(config, layer)
        self.product = Product(config, layer)

    def forward(
        self,
        features: torch.Tensor,
        species: torch.Tensor,
        harmonics: torch.Tensor,
        radial_basis: torch.Tensor,
        senders: torch.Tensor,
        receivers: torch.Tensor,
    ) -> torch.Tensor:
        message, residual = self.interaction(
            features, species, harmonics, radial_basis, senders, receivers
        )
        return self.product(message, residual, species)


class MACE(nn.Module):
    """Node features and interaction energies of all atoms, without E0.

    Trainable and scriptable. Built in float64, so that constants are exact; convert the whole
    module with ``.float()``.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        self.config = config
        self.l_max = config.l_max
        self.r_max = float(config.r_max)
        n_heads = len(config.heads)
        transform = (
            AgnesiTransform(config.atomic_numbers)
            if config.distance_transform == "agnesi"
            else NoTransform()
        )
        self.embedding = Embedding(config.n_species, config.channels)
        self.radial_basis = RadialBasis(config.r_max, config.n_radial, config.cutoff_p, transform)
        self.layers = nn.ModuleList([Layer(config, i) for i in range(config.n_layers)])
        readouts: list[nn.Module] = [
            LinearReadout(config.channels, n_heads) for _ in range(config.n_layers - 1)
        ]
        if config.n_layers > 1:
            readouts.append(NonlinearReadout(config.channels, config.readout_mlp, n_heads))
        else:
            # As published: a network of one layer has a linear readout only.
            readouts.append(LinearReadout(config.channels, n_heads))
        self.readouts = nn.ModuleList(readouts)
        self.repulsion = (
            ZBL(config.atomic_numbers, config.cutoff_p) if config.pair_repulsion else NoRepulsion()
        )
        self.register_buffer("scale", torch.ones(n_heads, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(n_heads, dtype=torch.float64))

    def forward(
        self,
        species: torch.Tensor,
        edge_vectors: torch.Tensor,
        senders: torch.Tensor,
        receivers: torch.Tensor,
        head: torch.Tensor,
    ) -> torch.Tensor:
        """Interaction energy of every atom.

        Args:
            species: (n_atoms,) index into the config's elements.
            edge_vectors: (n_edges, 3) sender to receiver, Å, in the weights' dtype.
            senders, receivers: (n_edges,).
            head: (n_atoms,) index into the config's heads.

        Returns:
            (n_atoms,) eV: scale * (sum of the readouts + repulsion) + shift.
        """
        distances = torch.linalg.vector_norm(edge_vectors, dim=1)
        harmonics = spherical_harmonics(edge_vectors / distances.unsqueeze(1), self.l_max)
        sender_species = species.index_select(0, senders)
        receiver_species = species.index_select(0, receivers)
        radial_basis = self.radial_basis(distances, sender_species, receiver_species)
        features = self.embedding(species).unsqueeze(1)
        energies = torch.zeros(
            [species.size(0), self.scale.size(0)],
            dtype=edge_vectors.dtype,
            device=edge_vectors.device,
        )
        for layer, readout in zip(self.layers, self.readouts):  # noqa: B905 - TorchScript has no strict
            features = layer(features, species, harmonics, radial_basis, senders, receivers)
            energies = energies + readout(features[:, 0])
        chosen = energies.gather(1, head.unsqueeze(1)).squeeze(1)
        pair = self.repulsion(distances, sender_species, receiver_species)
        chosen = chosen.index_add(0, receivers, pair)
        return self.scale.index_select(0, head) * chosen + self.shift.index_select(0, head)
