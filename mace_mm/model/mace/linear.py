"""Equivariant linear maps: one matrix per l, shared by its 2 l + 1 components."""

import torch
from torch import nn


class EquivariantLinear(nn.Module):
    """Mix channels within each l, scaled by 1 / sqrt(input multiplicity into that l).

    Feature layout (n_atoms, (l_max + 1)**2, channels).
    """

    def __init__(self, l_max: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [
                nn.Parameter(torch.randn(channels_in, channels_out, dtype=torch.float64))
                for _ in range(l_max + 1)
            ]
        )
        self.scale = channels_in**-0.5

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        blocks: list[torch.Tensor] = []
        start = 0
        for degree, weight in enumerate(self.weights):
            size = 2 * degree + 1
            blocks.append(torch.matmul(features.narrow(1, start, size), weight * self.scale))
            start += size
        return torch.cat(blocks, dim=1)


class PathLinear(nn.Module):
    """Mix channels and coupling paths of each l of a convolution's output.

    Takes one block a degree, (n_atoms, 2 l + 1, n_paths_l * channels), and returns
    (n_atoms, (l_max + 1)**2, channels).
    """

    def __init__(self, n_paths: list[int], channels: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [
                nn.Parameter(torch.randn(n * channels, channels, dtype=torch.float64))
                for n in n_paths
            ]
        )

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        mixed: list[torch.Tensor] = []
        for degree, weight in enumerate(self.weights):
            mixed.append(torch.matmul(blocks[degree], weight * weight.size(0) ** -0.5))
        return torch.cat(mixed, dim=1)


class SpeciesLinear(nn.Module):
    """Mix channels within each l by a matrix that depends on the atom's element.

    B_w = sum_u W[z, u, w] A_u / sqrt(channels * n_species); (n_atoms, (l_max + 1)**2, channels)
    to (n_atoms, (l_max_out + 1)**2, channels). Degrees the input lacks come out as zero.
    """

    def __init__(self, l_in: int, l_out: int, channels: int, n_species: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [
                nn.Parameter(torch.randn(n_species, channels, channels, dtype=torch.float64))
                for _ in range(min(l_in, l_out) + 1)
            ]
        )
        self.scale = (channels * n_species) ** -0.5
        self.n_components_out = (l_out + 1) ** 2
        self.n_species = n_species

    def forward(self, features: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        n_atoms, channels = features.size(0), features.size(2)
        out = torch.zeros(
            [n_atoms, self.n_components_out, channels],
            dtype=features.dtype,
            device=features.device,
        )
        # One matrix product per element present: gathering a matrix per atom would take
        # n_atoms * channels**2 numbers.
        for z in range(self.n_species):
            atoms = torch.nonzero(species == z).squeeze(1)
            if atoms.size(0) > 0:
                chosen = features.index_select(0, atoms)
                blocks: list[torch.Tensor] = []
                start = 0
                for degree, weight in enumerate(self.weights):
                    size = 2 * degree + 1
                    block = chosen.narrow(1, start, size)
                    blocks.append(torch.matmul(block, weight[z] * self.scale))
                    start += size
                mixed = torch.cat(blocks, dim=1)
                if start < self.n_components_out:
                    mixed = torch.nn.functional.pad(mixed, [0, 0, 0, self.n_components_out - start])
                out = out.index_copy(0, atoms, mixed)
        return out
