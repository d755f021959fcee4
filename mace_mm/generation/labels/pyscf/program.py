"""Density functional labels through PySCF (Q. Sun et al., J. Chem. Phys. 153, 024109, 2020)."""

import logging
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from mace_mm.elements import symbol
from mace_mm.errors import ConfigError, DependencyError
from mace_mm.generation.labels.base import LabelError, SinglePoint, provenance, unpaired_electrons
from mace_mm.generation.labels.pyscf.basis import BasisOfElement, basis_of_element
from mace_mm.generation.labels.pyscf.functional import functional
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

logger = logging.getLogger(__name__)

_OPTIONS = {
    "density_fit": bool,
    "fast": bool,
    "auxiliary_basis": str,
    "grid_level": int,
    "conv_tol": float,
    "max_cycle": int,
    "ecp": str,
    "functional": str,
}
FIT_BASIS = "def2-universal-jkfit"
FAST_GRID_LEVEL = 3
MAX_CYCLE = 50


class PySCFProgram:
    """Restricted Kohn-Sham (or Hartree-Fock) single points.

    ``method``: a functional as PySCF names it, such as ``wb97x`` or ``wb97m-d3bj`` (SPICE's; wants
    pyscf-dispersion), or ``hf``. Options:

    - density_fit: Coulomb and exchange by density fitting with ``auxiliary_basis`` (PySCF's own
      choice for the basis where none is named);
    - fast: density fitting and functional by `FastKohnSham`, several times faster at the same
      labels, for semilocal functionals and their hybrids; isolated atoms go through PySCF;
    - grid_level: PySCF's grids; conv_tol: hartree, not for ``fast``; max_cycle;
    - ecp: a core potential by name; without it each element gets the one that its basis has;
    - functional: what PySCF evaluates for the method, for names that are used for several.

    Raises:
        DependencyError: PySCF is not installed.
        ConfigError: an unknown functional, basis or option.
    """

    def __init__(self, settings: LabelSettings) -> None:
        try:
            from pyscf import gto
        except ImportError as error:
            raise DependencyError(
                f"labels of kind 'pyscf' want the package pyscf: {error}"
            ) from error
        unknown = sorted(set(settings.options) - set(_OPTIONS))
        if unknown:
            raise ConfigError(f"pyscf takes the options {', '.join(_OPTIONS)}; got {unknown}")
        self._options = {key: _OPTIONS[key](value) for key, value in settings.options.items()}
        self._basis = str(settings.basis)
        try:
            gto.basis.load(self._basis, "H")
        except (KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(f"PySCF does not know the basis {self._basis}: {error}") from error
        self._functional = functional(str(settings.method), self._options.get("functional"))
        logger.info("%s is evaluated as %s", settings.method, self._functional)
        versions = {"pyscf": version("pyscf")}
        if self._functional.dispersion:
            try:
                versions["pyscf-dispersion"] = version("pyscf-dispersion")
            except PackageNotFoundError as error:
                raise DependencyError(
                    f"{settings.method} wants the package pyscf-dispersion"
                ) from error
        self._fast = self._fast_method() if self._options.get("fast", False) else None
        self._provenance = provenance(settings, **versions) | {
            "functional": str(self._functional),
            **self._numerics(),
        }

    def _fast_method(self) -> Any:
        from pyscf import dft

        from mace_mm.generation.labels.pyscf.scf import FastMethod

        name = self._functional.semilocal
        if not name or self._functional.nonlocal_part or dft.libxc.needs_laplacian(name):
            raise ConfigError(
                f"fast labels are for semilocal functionals and their hybrids, got "
                f"{self._functional}"
            )
        useless = sorted({"conv_tol"} & set(self._options))
        if useless or not self._options.get("density_fit", True):
            raise ConfigError(
                "fast labels have density fitting and a tolerance of their own; "
                f"got {', '.join(useless) or 'density_fit: false'}"
            )
        omega, alpha, hyb = dft.numint.NumInt().rsh_and_hybrid_coeff(name)
        return FastMethod(
            functional=name,
            omega=omega,
            alpha=alpha,
            hyb=hyb,
            auxiliary_basis=self._options.get("auxiliary_basis", FIT_BASIS),
            grid_level=self._options.get("grid_level", FAST_GRID_LEVEL),
            max_cycle=self._options.get("max_cycle", MAX_CYCLE),
        )

    def _numerics(self) -> dict[str, str]:
        """Grid, fitting functions and convergence in words, as stored with the labels."""
        if self._fast is not None:
            from mace_mm.generation.labels.pyscf import scf

            return {
                "grid": f"PySCF level {self._fast.grid_level}",
                "fit_basis": self._fast.auxiliary_basis,
                "convergence": f"Fock matrix {scf.FINE_TOLERANCE} hartree",
            }
        fitted = self._options.get("density_fit", False)
        level = self._options.get("grid_level", "3, the default")
        tolerance = self._options.get("conv_tol", "1e-9, the default")
        return {
            "grid": f"PySCF level {level}" if self._functional.semilocal else "none",
            "fit_basis": self._options.get("auxiliary_basis", "PySCF's choice")
            if fitted
            else "none",
            "convergence": f"energy {tolerance} hartree",
        }

    def provenance_of(self, atomic_numbers: np.ndarray) -> dict[str, str]:
        """See `SinglePointProgram`; names the core potentials of these elements too."""
        cores = [
            f"{name} {element.core_electrons} electrons"
            for name in sorted({symbol(int(z)) for z in atomic_numbers})
            if (element := self._element(name)).potential is not None
        ]
        return self._provenance | {"core_potentials": ", ".join(cores) or "none"}

    def single_point(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int
    ) -> SinglePoint:
        """See `SinglePointProgram`; an SCF that does not converge is a LabelError."""
        started = time.process_time()
        molecule = self.molecule(atomic_numbers, positions, charge, 0)
        try:
            if self._fast is None:
                energy, gradient, density = self._slow_point(molecule)
            else:
                energy, gradient, density = self._fast_point(molecule, self._fast)
            dipole = self.field(molecule).dip_moment(molecule, density, unit="AU", verbose=0)
        except (RuntimeError, ValueError, KeyError, np.linalg.LinAlgError, MemoryError) as error:
            raise LabelError(f"pyscf: {type(error).__name__}: {error}") from error
        return SinglePoint(
            energy=energy * HARTREE_TO_EV,
            forces=-HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM * gradient,
            dipole=np.asarray(dipole) * BOHR_TO_ANGSTROM,
            seconds=time.process_time() - started,
        )

    def atom_energy(self, atomic_number: int) -> float:
        """Energy of the isolated atom (unrestricted), eV."""
        unpaired = unpaired_electrons(atomic_number)
        molecule = self.molecule(np.array([atomic_number]), np.zeros((1, 3)), 0, unpaired)
        return float(self._converged(molecule).e_tot) * HARTREE_TO_EV

    def _slow_point(self, molecule: Any) -> tuple[float, np.ndarray, np.ndarray]:
        field = self._converged(molecule)
        return float(field.e_tot), field.nuc_grad_method().kernel(), field.make_rdm1()

    def _fast_point(self, molecule: Any, method: Any) -> tuple[float, np.ndarray, np.ndarray]:
        from mace_mm.generation.labels.pyscf.scf import FastKohnSham

        calculation = FastKohnSham(molecule, method)
        solution = calculation.solve()
        energy, gradient = solution.energy, calculation.gradient(solution)
        if self._functional.dispersion:
            field = self.field(molecule)
            energy += float(field.get_dispersion())
            gradient = gradient + field.nuc_grad_method().get_dispersion()
        return energy, gradient, 2.0 * solution.occupied @ solution.occupied.T

    def molecule(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int, unpaired: int = 0
    ) -> Any:
        """PySCF's molecule with basis and core potentials; positions (n_atoms, 3) Å."""
        from pyscf import gto

        atoms = [
            (symbol(int(z)), tuple(x))
            for z, x in zip(atomic_numbers, positions / BOHR_TO_ANGSTROM, strict=True)
        ]
        elements = {name: self._element(name) for name, _ in atoms}
        potentials = {name: e.potential for name, e in elements.items() if e.potential is not None}
        try:
            return gto.M(
                atom=atoms,
                basis={name: e.basis for name, e in elements.items()},
                ecp=potentials,
                charge=charge,
                spin=unpaired,
                unit="Bohr",
                verbose=0,
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise LabelError(f"pyscf: {type(error).__name__}: {error}") from error

    def field(self, molecule: Any) -> Any:
        """PySCF's object for the method, not yet converged."""
        from pyscf import dft, scf

        name = self._functional.semilocal
        if not name:
            field = scf.UHF(molecule) if molecule.spin else scf.RHF(molecule)
        else:
            field = (dft.UKS if molecule.spin else dft.RKS)(molecule, xc=name)
            field.nlc = "" if self._functional.nonlocal_part else False
            if "grid_level" in self._options:
                field.grids.level = self._options["grid_level"]
        field.disp = self._functional.dispersion or None
        return field

    def _converged(self, molecule: Any) -> Any:
        field = self.field(molecule)
        if self._options.get("density_fit", False) or self._fast is not None:
            default = None if self._fast is None else self._fast.auxiliary_basis
            field = field.density_fit(self._options.get("auxiliary_basis", default))
        for key in ("conv_tol", "max_cycle"):
            if key in self._options:
                setattr(field, key, self._options[key])
        try:
            field.kernel()
        except (RuntimeError, ValueError, KeyError, np.linalg.LinAlgError) as error:
            raise LabelError(f"pyscf: {type(error).__name__}: {error}") from error
        if not field.converged:
            raise LabelError(f"pyscf: SCF not converged in {field.max_cycle} cycles")
        return field

    def _element(self, name: str) -> BasisOfElement:
        return basis_of_element(self._basis, name, self._options.get("ecp"))
