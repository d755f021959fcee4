"""Symmetric contraction: many-body features as polynomials of the messages."""

import torch
from torch import nn

from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.couplings import symmetric_coupling
from mace_mm.model.mace.linear import EquivariantLinear


class SymmetricContraction(nn.Module):
    """o_M = sum_nu sum_path W_nu[z, path] sum U_nu[M, i.., path] A_i .. for one output irrep.

    Batatia et al. 2022, Eq. 10 and 11, over a basis of the index-symmetric couplings, written
    in monomials of the (l_max + 1)**2 components.
    """

    def __init__(
        self, l_max: int, l_out: int, correlation: int, channels: int, n_species: int
    ) -> None:
        super().__init__()
        self.correlation = correlation
        self.n_out = 2 * l_out + 1
        self.weights = nn.ParameterList()
        n_components = (l_max + 1) ** 2
        self.has_order: list[bool] = []
        pairs: dict[tuple[int, int], int] = {}
        for nu in range(1, 4):
            # Orders that do not occur keep empty tables, so that TorchScript sees one code.
            coupling = symmetric_coupling(l_max, l_out, nu) if nu <= correlation else None
            present = coupling is not None and coupling.n_paths > 0
            self.has_order.append(present)
            if coupling is not None and present:
                monomials = torch.from_numpy(coupling.monomials)
                table = torch.from_numpy(coupling.coefficients)
                n_paths = coupling.n_paths
            else:
                monomials = torch.zeros((0, nu), dtype=torch.int64)
                table = torch.zeros((self.n_out, 0, 0), dtype=torch.float64)
                n_paths = 0
            # (n_out * n_paths, n_monomials): one matrix product makes all path features.
            matrix = table.permute(0, 2, 1).reshape(self.n_out * n_paths, monomials.size(0))
            self.register_buffer(f"coefficients_{nu}", matrix.contiguous(), persistent=False)
            index = _index_through_pairs(monomials.tolist(), nu, pairs)
            self.register_buffer(f"index_{nu}", index, persistent=False)
            if nu <= correlation:
                weight = torch.randn(n_species, n_paths, channels, dtype=torch.float64) / max(
                    n_paths, 1
                )
                self.weights.append(nn.Parameter(weight))
        table_of_pairs = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2).t()
        self.register_buffer("pairs", table_of_pairs.contiguous(), persistent=False)
        self.n_components = n_components

    def _order(
        self,
        monomials: torch.Tensor,
        coefficients: torch.Tensor,
        weight: torch.Tensor,
        species: torch.Tensor,
    ) -> torch.Tensor:
        n_atoms, channels = monomials.size(0), monomials.size(2)
        paths = torch.matmul(coefficients, monomials)
        paths = paths.view(n_atoms, self.n_out, weight.size(1), channels)
        return (paths * weight.index_select(0, species).unsqueeze(1)).sum(2)

    def forward(self, features: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """Contract (n_atoms, (l_max + 1)**2, channels) to (n_atoms, 2 l_out + 1, channels)."""
        out = torch.zeros(
            [features.size(0), self.n_out, features.size(2)],
            dtype=features.dtype,
            device=features.device,
        )
        pairs = features
        if self.pairs.size(1) > 0:
            pairs = features.index_select(1, self.pairs[0]) * features.index_select(
                1, self.pairs[1]
            )
        for order, weight in enumerate(self.weights):
            if self.has_order[order]:
                if order == 0:
                    monomials = features.index_select(1, self.index_1[0])
                    out = out + self._order(monomials, self.coefficients_1, weight, species)
                elif order == 1:
                    monomials = pairs.index_select(1, self.index_2[0])
                    out = out + self._order(monomials, self.coefficients_2, weight, species)
                else:
                    monomials = pairs.index_select(1, self.index_3[0]) * features.index_select(
                        1, self.index_3[1]
                    )
                    out = out + self._order(monomials, self.coefficients_3, weight, species)
        return out


def _index_through_pairs(
    monomials: list[list[int]], nu: int, pairs: dict[tuple[int, int], int]
) -> torch.Tensor:
    """Rows that address monomials: components for nu = 1, pairs and components above.

    New pairs are added to ``pairs``, which all orders share.
    """
    rows: list[list[int]] = [[] for _ in range(1 if nu < 3 else 2)]
    for monomial in monomials:
        if nu == 1:
            rows[0].append(monomial[0])
            continue
        rows[0].append(pairs.setdefault((monomial[0], monomial[1]), len(pairs)))
        if nu == 3:
            rows[1].append(monomial[2])
    return torch.tensor(rows, dtype=torch.int64)


class Product(nn.Module):
    """Contractions to every hidden irrep, a linear map, and the residual term if there is one."""

    def __init__(self, config: MACEConfig, layer: int) -> None:
        super().__init__()
        hidden_out = config.hidden_l(layer + 1)
        self.contractions = nn.ModuleList(
            [
                SymmetricContraction(
                    config.l_max,
                    l_out,
                    config.correlation[layer],
                    config.channels,
                    config.n_species,
                )
                for l_out in range(hidden_out + 1)
            ]
        )
        self.linear = EquivariantLinear(hidden_out, config.channels, config.channels)

    def forward(
        self, message: torch.Tensor, residual: torch.Tensor, species: torch.Tensor
    ) -> torch.Tensor:
        """Return node features (n_atoms, (hidden_l + 1)**2, channels)."""
        blocks: list[torch.Tensor] = []
        for contraction in self.contractions:
            blocks.append(contraction(message, species))
        features = self.linear(torch.cat(blocks, dim=1))
        if residual.numel() > 0:
            features = features + residual
        return features
