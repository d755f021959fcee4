"""Coupling coefficients on e3nn's real irreps: paths of the convolution, symmetric contraction.

A product of ``nu`` equal features only sees the index-symmetric part of a coupling tensor
(Batatia et al. 2022, Eq. 10; Drautz, Phys. Rev. B 99, 014104, 2019), so a basis of that part
is all that is needed: 8 tensors instead of 23 for nu = 3 into a scalar with l_max = 3.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mace_mm.model.mace.wigner import wigner_3j

# Symmetrised couplings that are linearly dependent have a residual of rounding size, 1e-15;
# independent ones stay above 1e-2.
_RANK_TOLERANCE = 1e-8


@dataclass(frozen=True, kw_only=True)
class ConvolutionPath:
    """One way to couple a sender's feature l_in with an edge's harmonic l_edge to l_out."""

    l_in: int
    l_edge: int
    l_out: int


@dataclass(frozen=True, kw_only=True, eq=False)
class SymmetricCoupling:
    """Basis of symmetric equivariant maps from ``nu`` factors to one irrep ``l_out``.

    Attributes:
        monomials: (n_monomials, nu) ascending indices into the (l_max + 1)**2 components.
        coefficients: (2 l_out + 1, n_monomials, n_paths) float64.
    """

    monomials: np.ndarray
    coefficients: np.ndarray

    @property
    def n_paths(self) -> int:
        return int(self.coefficients.shape[2])


def lm_slice(degree: int) -> slice:
    """Where the 2 l + 1 components of ``degree`` stand among all components up to l_max."""
    return slice(degree**2, (degree + 1) ** 2)


def convolution_paths(hidden_l_max: int, l_max: int) -> list[ConvolutionPath]:
    """Parity-allowed paths with l_out <= l_max, in the order of published weights."""
    paths = [
        ConvolutionPath(l_in=l_in, l_edge=l_edge, l_out=l_out)
        for l_in in range(hidden_l_max + 1)
        for l_edge in range(l_max + 1)
        for l_out in range(abs(l_in - l_edge), min(l_in + l_edge, l_max) + 1)
        if (l_in + l_edge + l_out) % 2 == 0
    ]
    return sorted(paths, key=lambda path: path.l_out)


def _nested_couplings(degrees: tuple[int, ...], l_out: int) -> Iterator[np.ndarray]:
    """Couplings of ``degrees`` to ``l_out``, from the left: ((l1 l2) l12 l3) l_out."""
    if len(degrees) == 1:
        if degrees[0] == l_out:
            yield np.eye(2 * l_out + 1)
        return
    last = degrees[-1]
    for l_mid in range(sum(degrees[:-1]) + 1):
        if not abs(l_mid - last) <= l_out <= l_mid + last:
            continue
        outer = wigner_3j(l_mid, last, l_out) * math.sqrt(2 * l_out + 1)
        for inner in _nested_couplings(degrees[:-1], l_mid):
            yield np.tensordot(inner, outer, axes=([-1], [0]))


def _symmetrised(tensor: np.ndarray, degrees: tuple[int, ...], n_components: int) -> np.ndarray:
    """Average over permutations of the ``nu`` input indices, as (n_components**nu..., out)."""
    nu = len(degrees)
    full = np.zeros((n_components,) * nu + (tensor.shape[-1],))
    full[tuple(lm_slice(degree) for degree in degrees)] = tensor
    orders = list(itertools.permutations(range(nu)))
    return np.mean([np.transpose(full, (*order, nu)) for order in orders], axis=0)


def sorted_monomials(n_components: int, nu: int) -> np.ndarray:
    """All ascending index tuples, (n, nu)."""
    return np.array(list(itertools.combinations_with_replacement(range(n_components), nu)))


def monomial_coefficients(tensor: np.ndarray, monomials: np.ndarray) -> np.ndarray:
    """Coefficients of the polynomial ``T[i, j, ..., k] x_i x_j ...`` in sorted monomials.

    Args:
        tensor: (n_components,) * nu + (n_out,), not necessarily symmetric.
        monomials: (n_monomials, nu).

    Returns:
        (n_monomials, n_out): the sum over the distinct orders of each monomial's indices.
    """
    nu = monomials.shape[1]
    # Summing over all nu! orders counts an order once for every way to permute equal indices:
    # n! for n equal ones, the product of each one's place in its run.
    repeats = np.ones(len(monomials))
    for place in range(nu):
        repeats *= (monomials[:, : place + 1] == monomials[:, place : place + 1]).sum(axis=1)
    total = sum(
        tensor[tuple(monomials[:, axis] for axis in order)]
        for order in itertools.permutations(range(nu))
    )
    return np.asarray(total) / repeats[:, None]


@lru_cache(maxsize=32)
def symmetric_coupling(l_max: int, l_out: int, nu: int) -> SymmetricCoupling:
    """Orthogonal basis of symmetric equivariant maps, each with squared norm 2 l_out + 1.

    Built by Gram-Schmidt over couplings in a fixed order, so that it is the same on every
    machine up to rounding. Natural parity: inputs (-1)**l, output (-1)**l_out.
    """
    n_components = (l_max + 1) ** 2
    basis: list[np.ndarray] = []
    for degrees in itertools.combinations_with_replacement(range(l_max + 1), nu):
        if (sum(degrees) + l_out) % 2:
            continue
        for coupling in _nested_couplings(degrees, l_out):
            vector = _symmetrised(coupling, degrees, n_components)
            size = np.linalg.norm(vector)
            if size < _RANK_TOLERANCE:
                continue
            vector = vector / size
            # Twice: one pass of Gram-Schmidt loses orthogonality to rounding.
            for _ in range(2):
                for other in basis:
                    vector = vector - np.vdot(other, vector) * other
            size = np.linalg.norm(vector)
            if size > _RANK_TOLERANCE:
                basis.append(vector / size)
    monomials = sorted_monomials(n_components, nu)
    scale = math.sqrt(2 * l_out + 1)
    columns = [monomial_coefficients(vector, monomials) * scale for vector in basis]
    coefficients = np.stack(columns, axis=-1)  # (n_monomials, 2 l_out + 1, n_paths)
    coefficients[np.abs(coefficients) < 1e-12] = 0.0
    used = np.any(coefficients != 0.0, axis=(1, 2))
    return SymmetricCoupling(
        monomials=monomials[used], coefficients=coefficients[used].transpose(1, 0, 2)
    )
