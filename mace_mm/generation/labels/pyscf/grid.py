"""A density functional on PySCF's grids, applied to the occupied orbitals alone.

All that SCF and forces need of the potential V is V C for the occupied orbitals C, which takes
n_occupied / nao of the work of the matrix V. Functions are kept in single precision; the density's
energy is summed in double.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

_POINTS = 2048
# Weights below this are the tails of the partition of space.
_LEAST_WEIGHT = 1e-14
# Functions smaller than this at a point are not evaluated there.
_LEAST_VALUE = 1e-10
# Where the second derivative of each pair of axes is among the ten components of PySCF.
_SECOND = {(1, 1): 4, (1, 2): 5, (1, 3): 6, (2, 2): 7, (2, 3): 8, (3, 3): 9}


class DensityGrid:
    """A functional and the points on which it is integrated.

    Args:
        molecule: PySCF molecule, real spherical functions.
        functional: name of the semilocal part, as PySCF takes it.
        level: PySCF's grid level, 0 to 9.
        most_bytes: values of the functions are kept where they take no more than this.
    """

    def __init__(self, molecule: Any, functional: str, level: int, most_bytes: float) -> None:
        from pyscf import dft

        self._molecule, self._functional = molecule, functional
        grids = dft.Grids(molecule)
        grids.level = level
        grids.build()
        kept = np.abs(grids.weights) > _LEAST_WEIGHT
        self._weights, self._points = grids.weights[kept], grids.coords[kept]
        self._integrator = dft.numint.NumInt()
        self._kind = self._integrator._xc_type(functional)
        self._kept: list[tuple[np.ndarray, np.ndarray]] | None = None
        if 16.0 * len(self._weights) * molecule.nao < most_bytes:
            self._kept = []

    @property
    def n_points(self) -> int:
        return len(self._weights)

    def forget(self) -> None:
        """Give back the memory of the kept values."""
        self._kept = None

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Values and first derivatives (4, nao, n_points) of the functions, and weights."""
        if self._kept:
            yield from self._kept
            return
        for values, weights in self._evaluated(1):
            if self._kept is not None:
                self._kept.append((values, weights))
            yield values, weights

    def _evaluated(self, order: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self._weights), _POINTS):
            points = self._points[start : start + _POINTS]
            name = f"GTOval_sph_deriv{order}"
            values = self._molecule.eval_gto(name, points, cutoff=_LEAST_VALUE)
            values = values.transpose(0, 2, 1).astype(np.float32)
            yield values, self._weights[start : start + _POINTS]

    def _potential(
        self, occupied: np.ndarray, values: np.ndarray, weights: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Of one block of points.

        Returns:
            the energy, hartree; the orbitals and their derivatives (4, n_occupied, n_points); the
            weighted derivatives of the energy density with respect to the density, its gradient
            and the kinetic energy density, (5, n_points).
        """
        orbitals = np.matmul(occupied.T.astype(np.float32), values[:4])
        density = np.empty((5, len(weights)))
        density[0] = 2.0 * np.einsum("ig,ig->g", orbitals[0], orbitals[0])
        density[1:4] = 4.0 * np.einsum("ig,xig->xg", orbitals[0], orbitals[1:4])
        density[4] = np.einsum("xig,xig->g", orbitals[1:4], orbitals[1:4])
        rows = {"LDA": 1, "GGA": 4, "MGGA": 5}[self._kind]
        argument = density[0] if rows == 1 else density[:rows]
        energies, derivatives = self._integrator.eval_xc_eff(
            self._functional, argument, deriv=1, xctype=self._kind
        )[:2]
        potential = np.zeros((5, len(weights)))
        potential[:rows] = np.reshape(derivatives, (rows, -1)) * weights
        return float((energies * density[0]) @ weights), orbitals, potential

    def apply(self, occupied: np.ndarray) -> tuple[float, np.ndarray]:
        """The energy (hartree) and V C of occupied orbitals C, (nao, n_occupied)."""
        energy, result = 0.0, np.zeros_like(occupied)
        for values, weights in self._blocks():
            part, orbitals, potential = self._potential(occupied, values, weights)
            energy += part
            for function, factor in zip(values, _factors(orbitals, potential), strict=True):
                result += function @ factor.T
        return energy, result

    def matrix(self, occupied: np.ndarray) -> np.ndarray:
        """V, (nao, nao), hartree."""
        result = np.zeros((len(occupied), len(occupied)))
        for values, weights in self._blocks():
            potential = self._potential(occupied, values, weights)[2].astype(np.float32)
            scaled = 0.5 * potential[0] * values[0]
            scaled += np.einsum("xg,xmg->mg", potential[1:4], values[1:4])
            result += scaled @ values[0].T
            for derivative in values[1:4]:
                result += (0.25 * potential[4] * derivative) @ derivative.T
        return result + result.T

    def gradient(self, occupied: np.ndarray) -> np.ndarray:
        """Derivatives of the energy when the functions move with the atoms and the points do not.

        Returns:
            (n_atoms, 3), hartree/bohr.
        """
        of_functions = np.zeros((3, len(occupied)))
        for values, weights in self._evaluated(2):
            _, orbitals, potential = self._potential(occupied, values, weights)
            factors = _factors(orbitals, potential)
            for x in (1, 2, 3):
                moved = values[x] @ factors[0].T
                for y in (1, 2, 3):
                    moved += values[_SECOND[min(x, y), max(x, y)]] @ factors[y].T
                of_functions[x - 1] -= 4.0 * np.einsum("mi,mi->m", moved, occupied)
        slices = self._molecule.aoslice_by_atom()
        return np.array([of_functions[:, first:last].sum(axis=1) for *_, first, last in slices])


def _factors(orbitals: np.ndarray, potential: np.ndarray) -> np.ndarray:
    """What values and derivatives of the functions are contracted with, (4, n_occupied, n_points).

    <mu|V|i> is the integral of mu factors[0]_i + sum_x (d mu / dx) factors[x]_i.
    """
    potential = potential.astype(orbitals.dtype)
    factors = np.empty_like(orbitals)
    factors[0] = potential[0] * orbitals[0]
    for x in (1, 2, 3):
        factors[0] += potential[x] * orbitals[x]
        factors[x] = potential[x] * orbitals[0] + (0.5 * potential[4]) * orbitals[x]
    return factors
