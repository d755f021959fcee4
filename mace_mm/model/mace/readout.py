"""Readouts: scalar features to one interaction energy per head."""

import torch
from torch import nn

from mace_mm.model.mace.radial import normalized_silu


class LinearReadout(nn.Module):
    """Linear map of the scalar channels, (n_atoms, channels) to (n_atoms, n_heads)."""

    def __init__(self, channels: int, n_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, n_heads, dtype=torch.float64))

    def forward(self, scalars: torch.Tensor) -> torch.Tensor:
        return torch.mm(scalars, self.weight * self.weight.size(0) ** -0.5)


class NonlinearReadout(nn.Module):
    """W2 g SiLU(W1 h / sqrt(channels)) / sqrt(width), a hidden layer of its own for each head."""

    def __init__(self, channels: int, width: int, n_heads: int) -> None:
        super().__init__()
        self.linear_1 = nn.Parameter(torch.randn(channels, n_heads * width, dtype=torch.float64))
        self.linear_2 = nn.Parameter(torch.randn(n_heads, width, dtype=torch.float64))

    def forward(self, scalars: torch.Tensor) -> torch.Tensor:
        n_heads, width = self.linear_2.size(0), self.linear_2.size(1)
        x = torch.mm(scalars, self.linear_1 * self.linear_1.size(0) ** -0.5)
        x = normalized_silu(x)
        return (x.view(-1, n_heads, width) * (self.linear_2 * width**-0.5)).sum(-1)
