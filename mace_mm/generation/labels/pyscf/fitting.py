"""Coulomb and exchange by density fitting, for closed shells, as cheap as a label needs them.

A range-separated hybrid's exchange is one operator g(r) = [hyb + (alpha - hyb) erf(omega r)] / r.
Fitting it in its own metric (O. Vahtras et al., Chem. Phys. Lett. 213, 514, 1993) takes one
three-index tensor and one build, where PySCF takes one for each of 1/r and erf(omega r)/r. The
tensor is kept in single precision: it is orthonormal in the metric, so that its rounding (some
1e-6 hartree) is not amplified.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dtrsm

# Rows of the tensor that are unpacked at once, and bytes of derivative integrals held at once.
_ROWS = 16
_BLOCK_BYTES = 4e8


class FittedCoulomb:
    """The fitted integrals of one structure.

    Args:
        molecule: PySCF molecule, real spherical functions.
        auxiliary: the molecule of the fitting functions.
        omega, alpha, hyb: range separation (1/bohr), and the shares of exact exchange at long and
            short range; alpha is not used where omega is 0.

    Raises:
        numpy.linalg.LinAlgError: the fitting functions are linearly dependent.
    """

    def __init__(
        self, molecule: Any, auxiliary: Any, omega: float, alpha: float, hyb: float
    ) -> None:
        self._molecule, self._auxiliary = molecule, auxiliary
        self._omega = float(omega)
        # (share, omega) of each operator of which the exchange consists.
        long_range = alpha - hyb if omega else 0.0
        self._operators = [(s, o) for s, o in ((hyb, 0.0), (long_range, omega)) if s]
        n = molecule.nao
        rows, columns = np.tril_indices(n)
        self._packed = np.empty((n, n), dtype=np.int64)
        self._packed[rows, columns] = self._packed[columns, rows] = np.arange(len(rows))
        self._twice = np.where(rows == columns, 1.0, 2.0)
        self._coulomb = self._integrals("int3c2e", "s2ij").T
        metric = auxiliary.intor("int2c2e")
        self._metric = cho_factor(metric, lower=True)
        if self.has_exchange:
            self._fit_exchange(metric)

    @property
    def has_exchange(self) -> bool:
        """Whether there is any exact exchange."""
        return bool(self._operators)

    def _fit_exchange(self, metric: np.ndarray) -> None:
        tensor, exchange_metric = np.zeros_like(self._coulomb), np.zeros_like(metric)
        for share, omega in self._operators:
            if omega == 0.0:
                tensor += share * self._coulomb
                exchange_metric += share * metric
            else:
                with self._range(omega):
                    tensor += share * self._integrals("int3c2e", "s2ij").T
                    exchange_metric += share * self._auxiliary.intor("int2c2e")
        self._exchange_factor = np.tril(cho_factor(exchange_metric, lower=True)[0])
        # X L^T = T, with the pairs of functions along the rows of X.
        fitted = dtrsm(1.0, self._exchange_factor, tensor.T, side=1, lower=1, trans_a=1)
        self._exchange = np.ascontiguousarray(fitted.T, dtype=np.float32)

    @contextlib.contextmanager
    def _range(self, omega: float) -> Iterator[None]:
        with (
            self._molecule.with_range_coulomb(omega),
            self._auxiliary.with_range_coulomb(omega),
        ):
            yield

    def _integrals(self, name: str, symmetry: str, shells: tuple[int, int] | None = None) -> Any:
        from pyscf.df.incore import aux_e2

        molecule, auxiliary = self._molecule, self._auxiliary
        first, last = shells or (0, auxiliary.nbas)
        slices = (0, molecule.nbas, 0, molecule.nbas, first, last)
        components = 3 if name.endswith("ip1") else 1
        return aux_e2(molecule, auxiliary, name, aosym=symmetry, comp=components, shls_slice=slices)

    def coulomb(self, density: np.ndarray) -> np.ndarray:
        """The Coulomb matrix (nao, nao) of a density matrix (nao, nao), hartree."""
        rows, columns = np.tril_indices(len(density))
        packed = density[rows, columns] * self._twice
        self._charges = cho_solve(self._metric, self._coulomb @ packed)
        return (self._charges @ self._coulomb)[self._packed]

    def exchange_of_occupied(self, occupied: np.ndarray) -> np.ndarray:
        """The exchange operator applied to the occupied orbitals.

        Args:
            occupied: C, (nao, n_occupied).

        Returns:
            sum_j (mu j|g|i j) for all mu and i, (nao, n_occupied), hartree.
        """
        result = np.zeros_like(occupied)
        self._pairs = np.empty((len(self._exchange), occupied.shape[1], occupied.shape[1]))
        for start, half in self._half_transformed(occupied):
            pairs = np.matmul(occupied.T.astype(half.dtype), half)
            result += np.tensordot(half, pairs, axes=((0, 2), (0, 2)))
            self._pairs[start : start + len(half)] = pairs
        return result

    def exchange(self, occupied: np.ndarray) -> np.ndarray:
        """The whole exchange matrix sum_j (mu j|g|nu j), (nao, nao), hartree."""
        result = np.zeros((len(occupied), len(occupied)))
        for _, half in self._half_transformed(occupied):
            flat = half.transpose(1, 0, 2).reshape(len(occupied), -1)
            result += flat @ flat.T
        return result

    def _half_transformed(self, occupied: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks (rows, nao, n_occupied) of the tensor, with the first row of each."""
        orbitals, index = occupied.astype(np.float32), self._packed.ravel()
        for start in range(0, len(self._exchange), _ROWS):
            unpacked = self._exchange[start : start + _ROWS].take(index, axis=1)
            half = unpacked.reshape(-1, len(occupied)) @ orbitals
            yield start, half.reshape(-1, *occupied.shape)

    def gradient(self, occupied: np.ndarray) -> np.ndarray:
        """Derivatives of the Coulomb and exchange energies for the orbitals of the last calls.

        Derivatives on fitting functions follow from those on the orbitals' functions, since moving
        all three changes nothing.

        Returns:
            (n_atoms, 3), hartree/bohr.
        """
        density = 2.0 * occupied @ occupied.T
        fitted = np.zeros((self._auxiliary.nao, 0, 0))
        if self.has_exchange:
            shape = self._pairs.shape
            flat = solve_triangular(
                self._exchange_factor,
                self._pairs.reshape(len(self._pairs), -1),
                lower=True,
                trans=1,
            )
            fitted = flat.reshape(shape)
        of_functions = np.zeros((3, self._molecule.nao))
        of_fitting = self._metric_gradient(fitted)
        for shells, rows in self._derivative_blocks():
            moved, left = self._block_gradient(shells, rows, occupied, density, fitted[rows])
            of_functions += moved
            of_fitting[:, rows] += left
        result = np.zeros((self._molecule.natm, 3))
        own, fitting = self._molecule.aoslice_by_atom(), self._auxiliary.aoslice_by_atom()
        for atom in range(len(result)):
            result[atom] += of_functions[:, own[atom, 2] : own[atom, 3]].sum(axis=1)
            result[atom] += of_fitting[:, fitting[atom, 2] : fitting[atom, 3]].sum(axis=1)
        return result

    def _derivative_blocks(self) -> Iterator[tuple[tuple[int, int], slice]]:
        from pyscf.ao2mo.outcore import balance_partition

        offsets = self._auxiliary.ao_loc
        most = max(24, int(_BLOCK_BYTES / (24 * self._molecule.nao**2)))
        for first, last, _ in balance_partition(offsets, most):
            yield (first, last), slice(offsets[first], offsets[last])

    def _block_gradient(
        self,
        shells: tuple[int, int],
        rows: slice,
        occupied: np.ndarray,
        density: np.ndarray,
        fitted: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of one block of fitting functions: on the orbitals' functions, and on those (3, rows)."""
        charges = self._charges[rows]
        exchange = -2.0 * np.matmul(occupied, np.matmul(fitted, occupied.T)) if fitted.size else 0.0
        terms = [(1.0, 0.0)] if not self._operators else self._operators
        if all(omega for _, omega in terms):
            terms = [(0.0, 0.0), *terms]
        moved = np.zeros((3, self._molecule.nao))
        left = np.zeros((3, len(charges)))
        for share, omega in terms:
            weights = share * exchange
            if omega == 0.0:
                weights = weights + charges[:, None, None] * density
            with self._range(omega) if omega else contextlib.nullcontext():
                integrals = self._integrals("int3c2e_ip1", "s1", shells).transpose(0, 3, 2, 1)
            for axis in range(3):
                contracted = np.einsum("pnm,pnm->pm", integrals[axis], weights)
                moved[axis] -= 2.0 * contracted.sum(axis=0)
                left[axis] += 2.0 * contracted.sum(axis=1)
        return moved, left

    def _metric_gradient(self, fitted: np.ndarray) -> np.ndarray:
        """The part of the metrics' derivatives, (3, n_fitting)."""
        weights = -0.5 * np.outer(self._charges, self._charges)
        result = -2.0 * np.einsum("xpq,pq->xp", self._auxiliary.intor("int2c2e_ip1"), weights)
        flat = fitted.reshape(len(fitted), -1)
        for share, omega in self._operators:
            with self._auxiliary.with_range_coulomb(omega):
                integrals = self._auxiliary.intor("int2c2e_ip1")
            result -= 2.0 * share * np.einsum("xpq,pq->xp", integrals, flat @ flat.T)
        return result
