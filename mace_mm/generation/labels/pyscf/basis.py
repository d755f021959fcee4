"""Basis sets of PySCF with the core potentials that belong to them."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mace_mm.generation.labels.base import LabelError

# The share of a one-electron ion's energy that a basis must hold to be one for all electrons: 0.93
# and more in sets from STO-3G to def2-QZVPP, 0.75 and less in sets made for a core potential.
_ALL_ELECTRON = 0.85


@dataclass(frozen=True, kw_only=True)
class BasisOfElement:
    """What PySCF is given for one element.

    Attributes:
        basis: contracted functions in PySCF's internal format.
        potential: the core potential in PySCF's internal format, None where all electrons are in.
        core_electrons: how many electrons the potential replaces.
    """

    basis: list[Any]
    potential: list[Any] | None
    core_electrons: int


@lru_cache(maxsize=256)
def basis_of_element(basis: str, element: str, potential: str | None = None) -> BasisOfElement:
    """The functions of a basis for an element, with its core potential wherever there is one.

    PySCF itself adds no potential to a basis, and says nothing when one is missing: the core's
    electrons then fall into functions made for the valence, with energies and forces of no meaning.

    Args:
        potential: name of the potential, where it is not that of the basis.

    Raises:
        LabelError: the basis has nothing for this element, or wants a potential and has none.
    """
    try:
        functions = _loaded(basis, element)
        core = _potential(potential or basis, element)
    except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
        raise LabelError(f"PySCF has no basis {basis} for {element}: {error}") from error
    share = _one_electron_share(functions, element)
    if core is None and share < _ALL_ELECTRON:
        raise LabelError(
            f"the basis {basis} of {element} is made for a core potential and PySCF has none of "
            "that name: name it with the option ecp, or take another basis"
        )
    if core is not None and share >= _ALL_ELECTRON:
        raise LabelError(
            f"the basis {basis} of {element} is one for all electrons: the core potential "
            f"{potential or basis} does not belong to it"
        )
    return BasisOfElement(
        basis=functions, potential=core, core_electrons=0 if core is None else int(core[0])
    )


def _loaded(basis: str, element: str) -> list[Any]:
    from pyscf import gto

    return list(gto.basis.load(basis, element))


def _potential(name: str, element: str) -> list[Any] | None:
    """None where PySCF has no potential of that name for the element."""
    from pyscf import gto

    try:
        potential = gto.basis.load_ecp(name, element)
    except (RuntimeError, KeyError, ValueError, TypeError, OSError):
        # What PySCF raises for a name without any potential depends on where it looks for it.
        return None
    return list(potential) if potential else None


def _one_electron_share(functions: list[Any], element: str) -> float:
    """Energy of the ion with one electron in this basis, over the exact -Z²/2 hartree."""
    from pyscf import gto
    from scipy.linalg import eigh

    z = int(gto.charge(element))
    ion = gto.M(
        atom=[(element, (0.0, 0.0, 0.0))],
        basis={element: functions},
        charge=z - 1,
        spin=1,
        verbose=0,
    )
    hamiltonian = ion.intor("int1e_kin") + ion.intor("int1e_nuc")
    energies = eigh(hamiltonian, ion.intor("int1e_ovlp"), eigvals_only=True)
    return float(np.min(energies)) / (-0.5 * z * z)
