"""Kohn-Sham energies and gradients of closed shells, several times faster than PySCF's own.

Where the time goes in PySCF for SPICE's level is the functional's matrix on the fine grid in every
cycle, and its gradient. Here the SCF runs on a coarse grid and is finished on the fine one, and all
operators act on the occupied orbitals alone: the occupied columns of the Fock matrix are exact, its
block of empty orbitals, which decides the way and not the end, is that of an early cycle. Whether
the lowest orbitals are the occupied ones is seen from the whole matrix at the coarse end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mace_mm.generation.labels.pyscf.fitting import FittedCoulomb
from mace_mm.generation.labels.pyscf.grid import DensityGrid

COARSE_LEVEL = 1
# Largest element of the Fock matrix between occupied and empty orbitals at the end, hartree.
COARSE_TOLERANCE = 1e-4
FINE_TOLERANCE = 3e-5
# Above this the whole Fock matrix is made anew: with an old block the wrong orbitals are filled.
WHOLE_ABOVE = 0.05
# Combinations of functions whose overlap is smaller are left out.
LEAST_OVERLAP = 1e-7
_HISTORY = 8
_MOST_BYTES = 1.5e9


class NotConvergedError(RuntimeError):
    """The SCF did not converge."""


@dataclass(frozen=True, kw_only=True)
class FastMethod:
    """A closed-shell Kohn-Sham method.

    Attributes:
        functional: the semilocal part, as PySCF names it.
        omega, alpha, hyb: of its exact exchange, see `FittedCoulomb`.
        auxiliary_basis: the fitting functions.
        grid_level: PySCF's level of the grid of energy and gradient.
        max_cycle: the most cycles on either grid.
    """

    functional: str
    omega: float
    alpha: float
    hyb: float
    auxiliary_basis: str
    grid_level: int
    max_cycle: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A converged density.

    Attributes:
        energy: hartree, without dispersion.
        occupied: (nao, n_occupied) orbitals.
        gap: between the highest occupied and the lowest empty orbital, hartree.
        cycles: on the coarse and on the fine grid.
    """

    energy: float
    occupied: np.ndarray
    gap: float
    cycles: tuple[int, int]


class FastKohnSham:
    """One structure.

    Args:
        molecule: PySCF molecule, a closed shell.

    Raises:
        numpy.linalg.LinAlgError: the fitting functions are linearly dependent.
    """

    def __init__(self, molecule: Any, method: FastMethod) -> None:
        from pyscf import df, scf

        self._molecule, self._method = molecule, method
        self._field = scf.RHF(molecule)
        self._core = self._field.get_hcore()
        self._overlap = self._field.get_ovlp()
        values, vectors = np.linalg.eigh(self._overlap)
        kept = values > LEAST_OVERLAP
        self._orthogonal = vectors[:, kept] / np.sqrt(values[kept])
        auxiliary = df.addons.make_auxmol(molecule, method.auxiliary_basis)
        self._fitted = FittedCoulomb(molecule, auxiliary, method.omega, method.alpha, method.hyb)
        self._n_occupied = molecule.nelectron // 2
        self._fine = self._grid(method.grid_level)

    def _grid(self, level: int) -> DensityGrid:
        return DensityGrid(self._molecule, self._method.functional, level, _MOST_BYTES)

    def solve(self) -> Solution:
        """Converge the density.

        Raises:
            NotConvergedError: in `FastMethod.max_cycle` cycles.
        """
        _, orbitals = self._eigen(self._guess())
        coarse = self._grid(min(COARSE_LEVEL, self._method.grid_level))
        orbitals, fock, first = self._converged(orbitals, coarse, COARSE_TOLERANCE)[:3]
        gap = self._gap(fock)
        coarse.forget()
        orbitals, fock, second, energy, self._fock_of_occupied = self._converged(
            orbitals, self._fine, FINE_TOLERANCE, fock
        )
        self._fine.forget()
        return Solution(
            energy=energy,
            occupied=orbitals[:, : self._n_occupied],
            gap=gap,
            cycles=(first, second),
        )

    def _guess(self) -> np.ndarray:
        """The Fock matrix of a local functional at the atoms' density."""
        from pyscf import dft

        density = self._field.get_init_guess(self._molecule, key="minao")
        grids = dft.Grids(self._molecule)
        grids.level = 0
        potential = dft.numint.NumInt().nr_rks(self._molecule, grids.build(), "lda,vwn", density)[2]
        return self._core + self._fitted.coulomb(np.asarray(density)) + np.asarray(potential)

    def _eigen(self, fock: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energies, vectors = np.linalg.eigh(self._orthogonal.T @ fock @ self._orthogonal)
        return energies, self._orthogonal @ vectors

    def _energy_and_fock(self, occupied: np.ndarray, grid: DensityGrid) -> tuple[float, np.ndarray]:
        """The energy, hartree, and the Fock matrix times the occupied orbitals."""
        coulomb = self._fitted.coulomb(2.0 * occupied @ occupied.T) @ occupied
        core = self._core @ occupied
        energy, fock = grid.apply(occupied)
        energy += float(2.0 * np.sum(occupied * core) + np.sum(occupied * coulomb))
        fock += core + coulomb
        if self._fitted.has_exchange:
            exchange = self._fitted.exchange_of_occupied(occupied)
            energy -= float(np.sum(occupied * exchange))
            fock -= exchange
        return energy + float(self._molecule.energy_nuc()), fock

    def _whole_fock(self, occupied: np.ndarray, grid: DensityGrid) -> np.ndarray:
        fock = self._core + self._fitted.coulomb(2.0 * occupied @ occupied.T)
        fock += grid.matrix(occupied)
        return fock - self._fitted.exchange(occupied) if self._fitted.has_exchange else fock

    def _gap(self, fock: np.ndarray) -> float:
        energies = self._eigen(fock)[0]
        if self._n_occupied == len(energies):
            return float("inf")
        return float(energies[self._n_occupied] - energies[self._n_occupied - 1])

    def _converged(
        self,
        orbitals: np.ndarray,
        grid: DensityGrid,
        tolerance: float,
        fock: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, int, float, np.ndarray]:
        """DIIS (P. Pulay, J. Comput. Chem. 3, 556, 1982) until occupied and empty orbitals part.

        Args:
            fock: with the right block of empty orbitals; made here where there is none.

        Returns:
            orbitals, Fock matrix, number of cycles, energy, Fock matrix times occupied orbitals.
        """
        history: list[tuple[np.ndarray, np.ndarray]] = []
        known = fock is not None
        for cycle in range(1, self._method.max_cycle + 1):
            occupied, empty = np.split(orbitals, [self._n_occupied], axis=1)
            energy, columns = self._energy_and_fock(occupied, grid)
            largest = np.abs(empty.T @ columns).max(initial=0.0)
            done = largest < tolerance
            if fock is None or (not known and (largest > WHOLE_ABOVE or done)):
                fock = self._whole_fock(occupied, grid)
            else:
                fock = self._with_columns(fock, columns, occupied)
            if done:
                lowest = self._eigen(fock)[1]
                if known or self._same_space(occupied, lowest[:, : self._n_occupied]):
                    return orbitals, fock, cycle, energy, columns
                # Another state: on from the lowest orbitals.
                orbitals, history = lowest, []
                continue
            covariant = self._overlap @ occupied
            error = columns @ covariant.T
            error = self._orthogonal.T @ (error - error.T) @ self._orthogonal
            history = [*history[1 - _HISTORY :], (fock, error)]
            _, orbitals = self._eigen(_extrapolated(history))
        raise NotConvergedError(f"SCF not converged in {self._method.max_cycle} cycles")

    def _with_columns(
        self, fock: np.ndarray, columns: np.ndarray, occupied: np.ndarray
    ) -> np.ndarray:
        """The symmetric matrix that gives ``columns`` for ``occupied``, otherwise ``fock``."""
        covariant = self._overlap @ occupied
        change = columns - fock @ occupied
        mixed = change @ covariant.T
        return fock + mixed + mixed.T - covariant @ (occupied.T @ change) @ covariant.T

    def _same_space(self, first: np.ndarray, second: np.ndarray) -> bool:
        values = np.linalg.svd(first.T @ self._overlap @ second, compute_uv=False)
        return bool(values.min() > 0.9)

    def gradient(self, solution: Solution) -> np.ndarray:
        """Derivatives of the energy without dispersion, (n_atoms, 3) hartree/bohr."""
        occupied = solution.occupied
        density = 2.0 * occupied @ occupied.T
        weighted = 2.0 * occupied @ (occupied.T @ self._fock_of_occupied) @ occupied.T
        derivatives = self._field.nuc_grad_method()
        core: Callable[[int], np.ndarray] = derivatives.hcore_generator(self._molecule)
        overlap = derivatives.get_ovlp(self._molecule)
        result = derivatives.grad_nuc() + self._fitted.gradient(occupied)
        result += self._fine.gradient(occupied)
        for atom, (*_, first, last) in enumerate(self._molecule.aoslice_by_atom()):
            result[atom] += np.einsum("xmn,mn->x", core(atom), density)
            result[atom] -= 2.0 * np.einsum(
                "xmn,mn->x", overlap[:, first:last], weighted[first:last]
            )
        return np.asarray(result)


def _extrapolated(history: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    n = len(history)
    matrix = np.zeros((n + 1, n + 1))
    matrix[:n, :n] = [[np.vdot(a, b) for _, b in history] for _, a in history]
    matrix[:n, :n] /= max(matrix[n - 1, n - 1], 1e-30)
    matrix[n, :n] = matrix[:n, n] = 1.0
    right = np.zeros(n + 1)
    right[n] = 1.0
    shares = np.linalg.lstsq(matrix, right, rcond=1e-14)[0][:n]
    return np.sum([share * fock for share, (fock, _) in zip(shares, history, strict=True)], axis=0)
