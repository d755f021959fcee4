"""One message-passing step: convolution over neighbors, path mixing and the skip connection."""

import math

import torch
from torch import nn

from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.couplings import convolution_paths
from mace_mm.model.mace.linear import EquivariantLinear, PathLinear, SpeciesLinear
from mace_mm.model.mace.radial import RadialMLP
from mace_mm.model.mace.wigner import wigner_3j


class Convolution(nn.Module):
    """m_{u,k} = sqrt(2 l_out + 1) sum_neighbors R_{path,u} sum_ij w3j_ijk h_{u,i} Y_j.

    Batatia et al. 2022, Eq. 8. Returns one block for each l_out,
    (n_atoms, 2 l_out + 1, n_paths * channels).
    """

    def __init__(self, hidden_l: int, l_max: int, channels: int) -> None:
        super().__init__()
        paths = convolution_paths(hidden_l, l_max)
        self.channels = channels
        self.l_in: list[int] = [path.l_in for path in paths]
        self.l_edge: list[int] = [path.l_edge for path in paths]
        self.n_paths_per_l: list[int] = [
            sum(path.l_out == degree for path in paths) for degree in range(l_max + 1)
        ]
        # All paths' couplings end to end, each (2 l_edge + 1) x (2 l_out + 1)(2 l_in + 1).
        tables = []
        for path in paths:
            table = wigner_3j(path.l_in, path.l_edge, path.l_out) * math.sqrt(2 * path.l_out + 1)
            tables.append(torch.from_numpy(table.transpose(1, 2, 0).copy()).flatten())
        self.register_buffer("couplings", torch.cat(tables), persistent=False)

    def forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        radial: torch.Tensor,
        senders: torch.Tensor,
        receivers: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Sum messages onto receivers.

        Args:
            features: (n_atoms, (hidden_l + 1)**2, channels).
            harmonics: (n_edges, (l_max + 1)**2).
            radial: (n_edges, n_paths * channels).
            senders, receivers: (n_edges,).
        """
        n_atoms, n_edges, channels = features.size(0), senders.size(0), self.channels
        blocks: list[torch.Tensor] = []
        offset, path = 0, 0
        for l_out, n_paths in enumerate(self.n_paths_per_l):
            n_out = 2 * l_out + 1
            totals: list[torch.Tensor] = []
            for _ in range(n_paths):
                l_in, l_edge = self.l_in[path], self.l_edge[path]
                n_in, n_edge = 2 * l_in + 1, 2 * l_edge + 1
                size = n_edge * n_out * n_in
                coupling = self.couplings.narrow(0, offset, size).view(n_edge, n_out * n_in)
                y = harmonics.narrow(1, l_edge * l_edge, n_edge)
                mixing = torch.mm(y, coupling).view(n_edges, n_out, n_in)
                h = features.narrow(1, l_in * l_in, n_in).index_select(0, senders)
                weighted = h * radial.narrow(1, path * channels, channels).unsqueeze(1)
                message = torch.bmm(mixing, weighted)
                empty = torch.zeros(
                    [n_atoms, n_out, channels], dtype=message.dtype, device=message.device
                )
                totals.append(empty.index_add(0, receivers, message))
                offset += size
                path += 1
            blocks.append(torch.cat(totals, dim=2))
        return blocks


class Interaction(nn.Module):
    """Messages of one layer, and the residual term that the product adds later.

    A non-residual block (first layer of the MACE-OFF models) applies its element-dependent
    linear map to the message; a residual one applies it to the node features that came in.
    """

    def __init__(self, config: MACEConfig, layer: int) -> None:
        super().__init__()
        hidden_in, hidden_out = config.hidden_l(layer), config.hidden_l(layer + 1)
        channels, l_max = config.channels, config.l_max
        self.residual = layer > 0 or config.residual_first
        self.inverse_neighbors = 1.0 / config.avg_num_neighbors
        self.linear_up = EquivariantLinear(hidden_in, channels, channels)
        self.convolution = Convolution(hidden_in, l_max, channels)
        n_paths = self.convolution.n_paths_per_l
        widths = [config.n_radial, *config.radial_mlp, sum(n_paths) * channels]
        self.radial = RadialMLP(widths)
        self.linear = PathLinear(n_paths, channels)
        if self.residual:
            self.skip = SpeciesLinear(hidden_in, hidden_out, channels, config.n_species)
        else:
            self.skip = SpeciesLinear(l_max, l_max, channels, config.n_species)

    def forward(
        self,
        features: torch.Tensor,
        species: torch.Tensor,
        harmonics: torch.Tensor,
        radial_basis: torch.Tensor,
        senders: torch.Tensor,
        receivers: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return messages (n_atoms, (l_max + 1)**2, channels) and the residual term.

        The residual term is empty, (0,), for a non-residual block.
        """
        blocks = self.convolution(
            self.linear_up(features), harmonics, self.radial(radial_basis), senders, receivers
        )
        message = self.linear(blocks) * self.inverse_neighbors
        if self.residual:
            return message, self.skip(features, species)
        return self.skip(message, species), torch.empty([0], dtype=message.dtype)
