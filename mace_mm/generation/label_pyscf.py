"""Density functional labels through PySCF (Q. Sun et al., J. Chem. Phys. 153, 024109, 2020)."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from mace_mm.elements import symbol
from mace_mm.errors import ConfigError, DependencyError
from mace_mm.generation.label_settings import LabelSettings
from mace_mm.generation.labelling import LabelError, SinglePoint, provenance, unpaired_electrons
from mace_mm.generation.pyscf_basis import BasisOfElement, basis_of_element
from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

_OPTIONS = {
    "density_fit": bool,
    "grid_level": int,
    "conv_tol": float,
    "max_cycle": int,
    "ecp": str,
}


class PySCFProgram:
    """Restricted Kohn-Sham (or Hartree-Fock) single points.

    ``method``: a functional as PySCF names it, such as ``wb97x`` or ``wb97m-d3bj`` (SPICE's; wants
    pyscf-dispersion), or ``hf``. Options: density_fit, grid_level, conv_tol, max_cycle, ecp (a
    core potential by name; without it, each element gets the one that its basis has).

    Raises:
        DependencyError: PySCF is not installed.
        ConfigError: an unknown functional, basis or option.
    """

    def __init__(self, settings: LabelSettings) -> None:
        try:
            from pyscf import dft, gto
            from pyscf.scf import dispersion
        except ImportError as error:
            raise DependencyError(
                f"labels of kind 'pyscf' want the package pyscf: {error}"
            ) from error
        unknown = sorted(set(settings.options) - set(_OPTIONS))
        if unknown:
            raise ConfigError(f"pyscf takes the options {', '.join(_OPTIONS)}; got {unknown}")
        self._method = str(settings.method).lower()
        self._basis = str(settings.basis)
        self._options = {key: _OPTIONS[key](value) for key, value in settings.options.items()}
        try:
            gto.basis.load(self._basis, "H")
            if self._method != "hf":
                dft.libxc.parse_xc(dispersion.parse_dft(self._method)[0])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"PySCF does not know {settings.method}/{settings.basis}: {error}"
            ) from error
        versions = {"pyscf": version("pyscf")}
        if "-d3" in self._method or "-d4" in self._method:
            try:
                versions["pyscf-dispersion"] = version("pyscf-dispersion")
            except PackageNotFoundError as error:
                raise DependencyError(
                    f"{settings.method} wants the package pyscf-dispersion"
                ) from error
        self.provenance = provenance(settings, **versions)

    def single_point(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int
    ) -> SinglePoint:
        """See `SinglePointProgram`; an SCF that does not converge is a LabelError."""
        field = self._converged(atomic_numbers, positions, charge, 0)
        gradient = field.nuc_grad_method().kernel()
        return SinglePoint(
            energy=float(field.e_tot) * HARTREE_TO_EV,
            forces=-HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM * gradient,
        )

    def atom_energy(self, atomic_number: int) -> float:
        """Energy of the isolated atom (unrestricted), eV."""
        unpaired = unpaired_electrons(atomic_number)
        field = self._converged(np.array([atomic_number]), np.zeros((1, 3)), 0, unpaired)
        return float(field.e_tot) * HARTREE_TO_EV

    def _converged(
        self, atomic_numbers: np.ndarray, positions: np.ndarray, charge: int, unpaired: int
    ) -> Any:
        from pyscf import dft, gto, scf

        atoms = [
            (symbol(int(z)), tuple(x))
            for z, x in zip(atomic_numbers, positions / BOHR_TO_ANGSTROM, strict=True)
        ]
        elements = {name: self._element(name) for name, _ in atoms}
        potentials = {name: e.potential for name, e in elements.items() if e.potential is not None}
        try:
            molecule = gto.M(
                atom=atoms,
                basis={name: e.basis for name, e in elements.items()},
                ecp=potentials,
                charge=charge,
                spin=unpaired,
                unit="Bohr",
                verbose=0,
            )
            if self._method == "hf":
                field = scf.UHF(molecule) if unpaired else scf.RHF(molecule)
            else:
                kohn_sham = dft.UKS if unpaired else dft.RKS
                field = kohn_sham(molecule, xc=self._method)
                if "grid_level" in self._options:
                    field.grids.level = self._options["grid_level"]
            if self._options.get("density_fit", False):
                field = field.density_fit()
            for key in ("conv_tol", "max_cycle"):
                if key in self._options:
                    setattr(field, key, self._options[key])
            field.kernel()
        except (RuntimeError, ValueError, KeyError, np.linalg.LinAlgError) as error:
            raise LabelError(f"pyscf: {type(error).__name__}: {error}") from error
        if not field.converged:
            raise LabelError(f"pyscf: SCF not converged in {field.max_cycle} cycles")
        return field

    def _element(self, name: str) -> BasisOfElement:
        return basis_of_element(self._basis, name, self._options.get("ecp"))
