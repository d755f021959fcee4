"""Radial part of the edges: Bessel functions, polynomial envelope, Agnesi transform, MLP."""

import math

import torch
from torch import nn

from mace_mm.elements import covalent_radius

AGNESI_Q, AGNESI_P, AGNESI_A = 0.9183, 4.5791, 1.0805


def normalized_silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU times the constant that gives it a second moment of one on normal input.

    The constant is what e3nn's normalize2mom finds; weight files do not hold it.
    """
    return 1.6791767923989418 * torch.nn.functional.silu(x)


def polynomial_envelope(u: torch.Tensor, p: float) -> torch.Tensor:
    """Smooth cutoff f(u) with f(0) = 1 and f, f', f'' = 0 at u = 1; zero beyond.

    Gasteiger et al., "Directional message passing" (ICLR 2020), Eq. 8.
    """
    up = torch.pow(u, p)
    f = 1.0 - 0.5 * (p + 1.0) * (p + 2.0) * up + p * (p + 2.0) * up * u
    f = f - 0.5 * p * (p + 1.0) * up * u * u
    return torch.where(u < 1.0, f, torch.zeros_like(f))


class AgnesiTransform(nn.Module):
    """Element-dependent map of distances, 1 / (1 + a s^q / (1 + s^(q - p))), s = d / r0.

    r0 is the mean covalent radius of the pair. Witt et al., J. Chem. Phys. 159, 164101 (2023).
    """

    def __init__(self, atomic_numbers: tuple[int, ...]) -> None:
        super().__init__()
        radii = [covalent_radius(z) for z in atomic_numbers]
        self.register_buffer("covalent_radii", torch.tensor(radii, dtype=torch.float64))
        self.register_buffer("q", torch.tensor(AGNESI_Q, dtype=torch.float64))
        self.register_buffer("p", torch.tensor(AGNESI_P, dtype=torch.float64))
        self.register_buffer("a", torch.tensor(AGNESI_A, dtype=torch.float64))

    def forward(
        self, distances: torch.Tensor, sender: torch.Tensor, receiver: torch.Tensor
    ) -> torch.Tensor:
        """Args: distances (n_edges,) Å; species of sender and receiver (n_edges,)."""
        r0 = 0.5 * (self.covalent_radii[sender] + self.covalent_radii[receiver])
        s = distances / r0
        return 1.0 / (1.0 + self.a * torch.pow(s, self.q) / (1.0 + torch.pow(s, self.q - self.p)))


class NoTransform(nn.Module):
    """Distances as they are."""

    def forward(
        self, distances: torch.Tensor, sender: torch.Tensor, receiver: torch.Tensor
    ) -> torch.Tensor:
        return distances


class RadialBasis(nn.Module):
    """e_n(d) = sqrt(2 / r_max) sin(n pi d / r_max) / d, times the envelope of the distance.

    With a distance transform the Bessel functions take the transformed distance, the envelope
    the real one. Gasteiger et al. 2020, Eq. 7.
    """

    frequencies: torch.Tensor

    def __init__(
        self,
        r_max: float,
        n_radial: int,
        cutoff_p: int,
        transform: AgnesiTransform | NoTransform,
    ) -> None:
        super().__init__()
        self.r_max = float(r_max)
        self.cutoff_p = float(cutoff_p)
        self.prefactor = math.sqrt(2.0 / r_max)
        frequencies = torch.arange(1, n_radial + 1, dtype=torch.float64) * (math.pi / r_max)
        self.register_buffer("frequencies", frequencies)
        self.transform = transform

    def forward(
        self, distances: torch.Tensor, sender: torch.Tensor, receiver: torch.Tensor
    ) -> torch.Tensor:
        """Return (n_edges, n_radial) from distances (n_edges,) in Å and the edges' species."""
        x = self.transform(distances, sender, receiver).unsqueeze(-1)
        bessel = self.prefactor * torch.sin(x * self.frequencies) / x
        envelope = polynomial_envelope(distances / self.r_max, self.cutoff_p)
        return bessel * envelope.unsqueeze(-1)


class RadialMLP(nn.Module):
    """Multilayer perceptron without biases: x <- g SiLU(x W / sqrt(fan_in)), last layer linear.

    Weights are standard normal at the start (e3nn's convention).
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [
                nn.Parameter(torch.randn(a, b, dtype=torch.float64))
                for a, b in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.n_hidden = len(widths) - 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n_edges, widths[0]) to (n_edges, widths[-1])."""
        for i, weight in enumerate(self.weights):
            x = torch.mm(x, weight * weight.size(0) ** -0.5)
            if i < self.n_hidden:
                x = normalized_silu(x)
        return x
