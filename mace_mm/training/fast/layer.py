"""One message-passing layer with compiled kernels; what it needs to know is tabulated once."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch

from mace_mm.errors import BackendError
from mace_mm.kernels.training_library import training_library
from mace_mm.kernels.training_ops import ContractionPlan, ConvolutionPlan, contract, convolve
from mace_mm.model.mace.couplings import symmetric_coupling
from mace_mm.model.mace.interaction import Convolution
from mace_mm.model.mace.linear import EquivariantLinear
from mace_mm.model.mace.network import Layer
from mace_mm.training.fast.pairs import PairGraph

Features = list[torch.Tensor]


class LayerPlan(NamedTuple):
    """Tables of one layer.

    Attributes:
        convolution, contraction: what the kernels do.
        mixing: (n_powers, n_mixing) from a direction's powers to the mixing tables.
        terms: (n_terms, n_paths) from the contraction's weights to one weight a term.
    """

    convolution: ConvolutionPlan
    contraction: ContractionPlan
    mixing: torch.Tensor
    terms: torch.Tensor


def direction_powers(unit: torch.Tensor, l_max: int) -> torch.Tensor:
    """1, n, n (x) n, ... up to the power l_max of directions (n_pairs, 3), side by side.

    Harmonics are linear in them: a few large operations instead of many small ones.
    """
    powers = [torch.ones_like(unit[:, :1])]
    for _ in range(l_max):
        powers.append((powers[-1].unsqueeze(2) * unit.unsqueeze(1)).flatten(1))
    return torch.cat(powers, dim=1)


def _harmonics_of_powers(l_max: int) -> torch.Tensor:
    """(n_powers, (l_max + 1)**2) float64 matrix from `direction_powers` to the harmonics.

    The harmonics of `spherical_harmonics` as polynomials of one degree: 1 is x^2 + y^2 + z^2.
    """
    s3, s5, s7, s15, s105 = (math.sqrt(k) for k in (3, 5, 7, 15, 105))
    a, c = math.sqrt(35 / 8), math.sqrt(21 / 8)
    rows: list[dict[str, float]] = [
        {"": 1.0},
        *({axis: s3} for axis in "xyz"),
        {"xz": s15},
        {"xy": s15},
        {"yy": s5, "xx": -0.5 * s5, "zz": -0.5 * s5},
        {"yz": s15},
        {"zz": 0.5 * s15, "xx": -0.5 * s15},
        {"xzz": 3 * a, "xxx": -a},
        {"xyz": s105},
        {"xyy": 4 * c, "xxx": -c, "xzz": -c},
        {"yyy": s7, "xxy": -1.5 * s7, "yzz": -1.5 * s7},
        {"yyz": 4 * c, "xxz": -c, "zzz": -c},
        {"yzz": 0.5 * s105, "xxy": -0.5 * s105},
        {"zzz": a, "xxz": -3 * a},
    ]
    powers = [
        "".join(t) for degree in range(l_max + 1) for t in itertools.product("xyz", repeat=degree)
    ]
    matrix = torch.zeros(len(powers), (l_max + 1) ** 2, dtype=torch.float64)
    for column, row in enumerate(rows[: (l_max + 1) ** 2]):
        for power, value in row.items():
            matrix[powers.index(power), column] = value
    return matrix


def make_plan(layer: Layer, l_max: int, dtype: torch.dtype) -> LayerPlan:
    """Tabulate a layer.

    Raises:
        BackendError: the kernels are not compiled here.
    """
    library = training_library()
    if library is None:
        raise BackendError("the training kernels are not compiled here")
    convolution = layer.interaction.convolution
    paths, mixing = _convolution_tables(convolution)
    terms, matrix = _contraction_tables(layer, l_max)
    return LayerPlan(
        convolution=ConvolutionPlan(
            library=library,
            paths=paths,
            n_mixing=mixing.size(1),
            places=tuple(convolution.n_paths_per_l),
        ),
        contraction=ContractionPlan(
            library=library, terms=terms, l_in=l_max, l_out=len(layer.product.contractions) - 1
        ),
        # Not a matrix product: its rounding may depend on where memory lies, and a continued run
        # must find the same bits.
        mixing=(_harmonics_of_powers(l_max).unsqueeze(2) * mixing).sum(1).to(dtype),
        terms=matrix.to(dtype),
    )


def _convolution_tables(convolution: Convolution) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of `TrainingPath`, and the matrix from harmonics to mixing tables, float64."""
    l_max = len(convolution.n_paths_per_l) - 1
    rows, columns = [], []
    offset = path = n_mixing = 0
    for l_out, n_places in enumerate(convolution.n_paths_per_l):
        for place in range(n_places):
            l_in, l_edge = convolution.l_in[path], convolution.l_edge[path]
            n_in, n_out, n_edge = 2 * l_in + 1, 2 * l_out + 1, 2 * l_edge + 1
            size = n_edge * n_out * n_in
            coupling = convolution.couplings[offset : offset + size].double()
            table = coupling.view(n_edge, n_out, n_in).transpose(1, 2).reshape(n_edge, -1)
            column = torch.zeros((l_max + 1) ** 2, n_in * n_out, dtype=torch.float64)
            column[l_edge**2 : (l_edge + 1) ** 2] = table
            rows.append([l_in, l_out, place, n_places, n_mixing, l_edge % 2])
            columns.append(column)
            offset += size
            n_mixing += n_in * n_out
            path += 1
    return torch.tensor(rows, dtype=torch.int32), torch.cat(columns, dim=1)


def _contraction_tables(layer: Layer, l_max: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of `TrainingTerm`, and the matrix from all weights to the terms' weights, float64."""
    one = (l_max + 1) ** 2
    found: dict[tuple[int, ...], dict[int, float]] = {}
    n_paths = 0
    for l_out, contraction in enumerate(layer.product.contractions):
        for nu in range(1, contraction.correlation + 1):
            coupling = symmetric_coupling(l_max, l_out, nu)
            for k, t, p in zip(*np.nonzero(coupling.coefficients), strict=True):
                factors = tuple(int(i) for i in coupling.monomials[t])
                term = (l_out**2 + int(k), *factors, *[one] * (3 - nu))
                found.setdefault(term, {})[n_paths + int(p)] = coupling.coefficients[k, t, p]
            n_paths += coupling.n_paths
    terms = sorted(found)
    matrix = torch.zeros(len(terms), n_paths, dtype=torch.float64)
    for row, term in enumerate(terms):
        for column, value in found[term].items():
            matrix[row, column] = float(value)
    return torch.tensor(terms, dtype=torch.int32), matrix


def apply_layer(
    layer: Layer,
    plan: LayerPlan,
    features: Features,
    batch: PairGraph,
    powers: torch.Tensor,
    basis: torch.Tensor,
) -> Features:
    """Node features after a layer, one (n_atoms, 2 l + 1, channels) for each l; see `Layer`."""
    interaction = layer.interaction
    blocks = convolve(
        plan.convolution,
        batch.edges,
        interaction.radial(basis),
        torch.mm(powers, plan.mixing),
        _linear(interaction.linear_up, features),
    )
    mixers = [
        weight * (weight.size(0) ** -0.5 * interaction.inverse_neighbors)
        for weight in interaction.linear.weights
    ]
    skip = interaction.skip
    if interaction.residual:
        message = [_matmul(x, w) for x, w in zip(blocks, mixers, strict=True)]
        residual = [
            _by_species(x, weight * skip.scale, batch.counts)
            for x, weight in zip(features, skip.weights, strict=False)
        ]
    else:
        # Two linear maps in a row are one.
        message = [
            _by_species(x, torch.matmul(w, weight * skip.scale), batch.counts)
            for x, w, weight in zip(blocks, mixers, skip.weights, strict=True)
        ]
        residual = []
    weights = torch.cat([w for c in layer.product.contractions for w in c.weights], dim=1)
    products = contract(
        plan.contraction,
        batch.graph.species,
        torch.matmul(plan.terms, weights),
        message,
        differentiate_weights_twice=False,
    )
    out = _linear(layer.product.linear, list(products))
    return [x + residual[i] if i < len(residual) else x for i, x in enumerate(out)]


def _matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(x.flatten(0, 1), weight).view(x.size(0), x.size(1), -1)


def _linear(linear: EquivariantLinear, features: Features) -> Features:
    return [
        _matmul(x, weight * linear.scale)
        for x, weight in zip(features, linear.weights, strict=True)
    ]


def _by_species(x: torch.Tensor, weight: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Rows of `x`, sorted by species, times the matrix of their species."""
    n_components = x.size(1)
    parts = x.flatten(0, 1).split([n * n_components for n in counts])
    mixed = [
        torch.mm(part, matrix)
        for part, matrix in zip(parts, weight.unbind(0), strict=True)
        if len(part)
    ]
    return torch.cat(mixed).view(x.size(0), n_components, -1)
