"""Induced dipoles of atoms in the field of point charges. Units are eV, Å and e.

Atomic polarizabilities interact by fields with exponential Thole damping (B. T. Thole, Chem. Phys.
59, 341, 1981; P. Th. van Duijnen and M. Swart, J. Phys. Chem. A 102, 2399, 1998), and the field of
a charge is damped close to an atom (P. Ren and J. W. Ponder, J. Phys. Chem. B 107, 5933, 2003).
"""

import math
from collections.abc import Sequence

import torch

from mace_mm.elements import symbol
from mace_mm.errors import ElementError
from mace_mm.units import COULOMB_EV_ANGSTROM

# Å³: van Duijnen and Swart 1998, exponential model fitted to experiment; phosphorus: C. Zhang et
# al., J. Chem. Theory Comput. 14, 2084 (2018).
POLARIZABILITIES: dict[int, float] = {
    1: 0.4138,
    6: 1.2886,
    7: 0.9716,
    8: 0.8520,
    9: 0.4448,
    15: 1.8280,
    16: 2.4744,
    17: 2.4003,
    35: 3.4929,
    53: 5.4810,
}
# Steepness of the damping between two dipoles (van Duijnen and Swart 1998), and between a dipole
# and a charge (Ren and Ponder 2003, with the polarizability of the atom for both).
_DIPOLE_DAMPING = 2.1304
_CHARGE_DAMPING = 0.39
# Of the answer by mutual polarization; molecules reach 2.
_LARGEST_AMPLIFICATION = 10.0
# The damped kernels are finite at zero distance, their closed forms are not: Å².
_CLOSEST_SQUARED = 1e-4


def polarizabilities(atomic_numbers: Sequence[int]) -> torch.Tensor:
    """Atomic polarizabilities, (n_atoms,) Å³.

    Raises:
        ElementError: an element without a polarizability.
    """
    for number in atomic_numbers:
        if number not in POLARIZABILITIES:
            known = " ".join(symbol(z) for z in POLARIZABILITIES)
            raise ElementError(
                f"electrostatic embedding has polarizabilities for {known}, got {symbol(number)}"
            )
    return torch.tensor([POLARIZABILITIES[z] for z in atomic_numbers], dtype=torch.float64)


def induced_dipoles(
    vectors: torch.Tensor, polarizability: torch.Tensor, field: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    """Dipoles that an outer field induces in atoms that polarize each other.

    Atoms at less than about 0.6 times the length of a bond would polarize each other without limit.
    There, where minimizers may look but no molecule can be, each atom answers on its own.

    Args:
        vectors: (n_atoms, n_atoms, 3) Å between the atoms.
        polarizability: (n_atoms,) Å³.
        field: (n_atoms, 3) at the atoms, e/Å² (without the Coulomb constant).

    Returns:
        dipoles (n_atoms, 3) e Å, and whether the atoms polarize each other.
    """
    alone = polarizability[:, None] * field
    factor, info = torch.linalg.cholesky_ex(relay_matrix(vectors, polarizability))
    if int(info):
        return alone, False
    dipoles = torch.cholesky_solve(field.reshape(-1, 1), factor).reshape(-1, 3)
    limit = _LARGEST_AMPLIFICATION * (alone * field).sum()
    return (dipoles, True) if (dipoles * field).sum() <= limit else (alone, False)


def relay_matrix(vectors: torch.Tensor, polarizability: torch.Tensor) -> torch.Tensor:
    """Matrix that turns induced dipoles into the field that induces them, (3 n, 3 n), 1/Å³."""
    n_atoms = len(polarizability)
    diagonal = torch.eye(n_atoms, dtype=torch.bool)
    distance = squared_lengths(vectors).masked_fill(diagonal, 1.0).sqrt()
    isotropic, axial = _dipole_kernel(distance, polarizability)[:2]
    identity = torch.eye(3, dtype=vectors.dtype)
    tensor = (
        isotropic[..., None, None] * identity
        - axial[..., None, None] * vectors[..., :, None] * vectors[..., None, :]
    )
    own = identity / polarizability[:, None, None]
    tensor = torch.where(diagonal[..., None, None], own[:, None], tensor)
    return tensor.permute(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)


def dipole_forces(
    vectors: torch.Tensor, polarizability: torch.Tensor, dipoles: torch.Tensor
) -> torch.Tensor:
    """Forces between fixed dipoles whose energy is 1/2 mu B mu with B the relay matrix.

    Args:
        vectors: (n_atoms, n_atoms, 3) Å, [i, j] from atom i to atom j.
        polarizability: (n_atoms,) Å³.
        dipoles: (n_atoms, 3) e Å.

    Returns:
        (n_atoms, 3) e²/Å² (without the Coulomb constant).
    """
    diagonal = torch.eye(len(polarizability), dtype=torch.bool)
    distance = squared_lengths(vectors).masked_fill(diagonal, 1.0).sqrt()
    _, axial, isotropic_slope, axial_slope = _dipole_kernel(distance, polarizability)
    product = dipoles @ dipoles.T
    along = torch.einsum("ijk,ik->ij", vectors, dipoles)
    along_other = torch.einsum("ijk,jk->ij", vectors, dipoles)
    # The pair energy is f mu_i.mu_j - g (mu_i.d)(mu_j.d) with d from i to j.
    radial = (isotropic_slope * product - axial_slope * along * along_other) / distance
    radial = radial.masked_fill(diagonal, 0.0)
    sideways = axial.masked_fill(diagonal, 0.0)
    pull = torch.einsum("ij,ijk->ik", radial, vectors)
    pull -= torch.einsum("ij,ij->i", sideways, along_other)[:, None] * dipoles
    return pull - torch.einsum("ij,jk->ik", sideways * along, dipoles)


def _dipole_kernel(
    distance: torch.Tensor, polarizability: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """f and g of the damped dipole tensor f 1 - g d d, and their derivatives by the distance."""
    size = (polarizability[:, None] * polarizability[None, :]) ** (1.0 / 6.0)
    steep = _DIPOLE_DAMPING / size
    x = steep * distance
    decay = torch.exp(-x)
    damping = 1.0 - (0.5 * x**2 + x + 1.0) * decay
    damping_slope = 0.5 * x**2 * decay * steep
    damping_axial = damping - x**3 / 6.0 * decay
    damping_axial_slope = x**3 / 6.0 * decay * steep
    isotropic = damping / distance**3
    axial = 3.0 * damping_axial / distance**5
    isotropic_slope = damping_slope / distance**3 - 3.0 * isotropic / distance
    axial_slope = 3.0 * damping_axial_slope / distance**5 - 5.0 * axial / distance
    return isotropic, axial, isotropic_slope, axial_slope


def charge_kernel(
    squared: torch.Tensor, polarizability: torch.Tensor, splitting: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Strength of the field of a charge at an atom, over the distance.

    Args:
        squared: distances squared, any shape, Å².
        polarizability: of the atom, of a shape that broadcasts.
        splitting: of Ewald's sum in 1/Å: what the smeared charge does is left out then.

    Returns:
        h and h'/r in 1/Å³ and 1/Å⁵: the field of a charge q at r_s is q h (r - r_s).
    """
    squared = squared.clamp(min=_CLOSEST_SQUARED)
    r = squared.sqrt()
    steep = _CHARGE_DAMPING / polarizability
    decay = torch.exp(-steep * r * squared)
    plain = (1.0 - decay) / (r * squared)
    slope = 3.0 * (steep * decay / squared - plain / squared)
    if splitting is None:
        return plain, slope
    gauss = 2.0 * splitting / math.sqrt(math.pi) * torch.exp(-(splitting**2) * squared)
    smeared = (torch.erf(splitting * r) / r - gauss) / squared
    smeared_slope = (2.0 * splitting**2 * gauss - 3.0 * smeared) / squared
    return plain - smeared, slope - smeared_slope


def squared_lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Of vectors (..., 3); faster than a sum over an axis of three."""
    x, y, z = vectors.unbind(-1)
    return x * x + y * y + z * z


def energy_in_ev(dipoles: torch.Tensor, field: torch.Tensor) -> float:
    """Energy of dipoles induced by an outer field, -1/2 mu F: e Å and e/Å² to eV."""
    return -0.5 * COULOMB_EV_ANGSTROM * float((dipoles * field).sum())
