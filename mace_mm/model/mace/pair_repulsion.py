"""Ziegler-Biersack-Littmark screened nuclear repulsion, so that atoms never collapse."""

import torch
from torch import nn

from mace_mm.elements import covalent_radius
from mace_mm.model.mace.radial import polynomial_envelope

_DECAY = (3.2, 0.9423, 0.4028, 0.2016)


class NoRepulsion(nn.Module):
    """No pair term."""

    def forward(
        self, distances: torch.Tensor, sender: torch.Tensor, receiver: torch.Tensor
    ) -> torch.Tensor:
        return torch.zeros_like(distances)


class ZBL(nn.Module):
    """Half of E_uv = k Zu Zv / d phi(d / a) f(d / (r_u + r_v)) on each receiver.

    a = 0.4543 * 0.529 / (Zu^0.3 + Zv^0.3) Å, r the covalent radii. Ziegler, Biersack and
    Littmark, "The Stopping and Range of Ions in Solids" (1985).
    """

    def __init__(self, atomic_numbers: tuple[int, ...], cutoff_p: int) -> None:
        super().__init__()
        self.cutoff_p = float(cutoff_p)
        self.coulomb = 14.3996  # eV Å, to the digits of the published networks
        self.bohr = 0.529
        radii = [covalent_radius(z) for z in atomic_numbers]
        double = torch.float64
        self.register_buffer("charges", torch.tensor(atomic_numbers, dtype=double))
        self.register_buffer("covalent_radii", torch.tensor(radii, dtype=double))
        self.register_buffer(
            "coefficients", torch.tensor([0.1818, 0.5099, 0.2802, 0.02817], dtype=double)
        )
        self.register_buffer("a_exponent", torch.tensor(0.300, dtype=double))
        self.register_buffer("a_prefactor", torch.tensor(0.4543, dtype=double))
        self.register_buffer("decay", torch.tensor(_DECAY, dtype=double))

    def forward(
        self, distances: torch.Tensor, sender: torch.Tensor, receiver: torch.Tensor
    ) -> torch.Tensor:
        """Return (n_edges,) eV; species of sender and receiver are (n_edges,)."""
        zu, zv = self.charges[sender], self.charges[receiver]
        screening = (
            self.a_prefactor
            * self.bohr
            / (torch.pow(zu, self.a_exponent) + torch.pow(zv, self.a_exponent))
        )
        x = (distances / screening).unsqueeze(-1)
        phi = (self.coefficients * torch.exp(-x * self.decay)).sum(-1)
        reach = self.covalent_radii[sender] + self.covalent_radii[receiver]
        envelope = polynomial_envelope(distances / reach, self.cutoff_p)
        return 0.5 * self.coulomb * zu * zv / distances * phi * envelope
