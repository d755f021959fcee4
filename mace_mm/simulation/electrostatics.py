"""Electrostatics of an ML region in the field of point charges: charges that follow the geometry,
and induced dipoles. Units are eV, Å and e.

Charges: electronegativity equilibration of Gaussian charges (A. K. Rappe and W. A. Goddard,
J. Phys. Chem. 95, 3358, 1991) with electronegativities that depend on the coordination number
(E. Caldeweyher et al., J. Chem. Phys. 150, 154122, 2019). Dipoles: atomic
polarizabilities with exponential Thole damping (P. Th. van Duijnen and M. Swart, J. Phys. Chem. A
102, 2399, 1998).
"""

import math
from collections.abc import Sequence

import torch

from mace_mm.elements import covalent_radius, symbol
from mace_mm.errors import ElementError
from mace_mm.simulation.charge_parameters import CHARGE_PARAMETERS, POLARIZABILITIES
from mace_mm.units import COULOMB_EV_ANGSTROM

# Steepness of the count of neighbors, and the scale of the covalent radii in it (Caldeweyher 2019).
_COUNT_STEEPNESS = 7.5
_COUNT_RADIUS = 4.0 / 3.0
# Thole damping between two induced dipoles (van Duijnen 1998, exponential model), and between a
# dipole and a charge (P. Ren and J. W. Ponder, J. Phys. Chem. B 107, 5933, 2003).
_DIPOLE_DAMPING = 2.1304
_CHARGE_DAMPING = 0.39
# The kernel is switched off over this last part of the cutoff.
_SWITCH_START = 0.9


def charge_parameters(atomic_numbers: Sequence[int]) -> torch.Tensor:
    """Parameters of the charge model, (n_atoms, 5).

    Columns: electronegativity (eV/e), its change with the root of the coordination number (eV/e),
    hardness (eV/e²), radius of the Gaussian (Å), covalent radius (Å).

    Raises:
        ElementError: an element without parameters.
    """
    rows = []
    for number in atomic_numbers:
        if number not in CHARGE_PARAMETERS:
            known = " ".join(symbol(z) for z in CHARGE_PARAMETERS)
            raise ElementError(
                f"electrostatic embedding has charges for {known}, got {symbol(number)}"
            )
        rows.append([*CHARGE_PARAMETERS[number], covalent_radius(number)])
    return torch.tensor(rows, dtype=torch.float64)


def polarizabilities(atomic_numbers: Sequence[int]) -> torch.Tensor:
    """Atomic polarizabilities, (n_atoms,) Å³, of elements that :func:`charge_parameters` knows."""
    return torch.tensor([POLARIZABILITIES[z] for z in atomic_numbers], dtype=torch.float64)


def equilibrated_charges(
    vectors: torch.Tensor, parameters: torch.Tensor, total_charge: float | torch.Tensor
) -> torch.Tensor:
    """Charges that minimize the energy of the isolated region, (n_atoms,).

    Args:
        vectors: (n_atoms, n_atoms, 3) between the atoms.
        parameters: (n_atoms, 5), see :func:`charge_parameters`.
        total_charge: their sum.
    """
    electronegativity, change, hardness, radius, covalent = parameters.unbind(1)
    n_atoms = len(parameters)
    diagonal = torch.eye(n_atoms, dtype=torch.bool)
    distance = squared_lengths(vectors).masked_fill(diagonal, 1.0).sqrt()
    bonded = _COUNT_RADIUS * (covalent[:, None] + covalent[None, :])
    count = 0.5 * (1.0 + torch.erf(-_COUNT_STEEPNESS * (distance / bonded - 1.0)))
    # The small constant keeps the root differentiable for an atom without neighbors.
    coordination = count.masked_fill(diagonal, 0.0).sum(1)
    chi = electronegativity - change * torch.sqrt(coordination + 1e-6)
    width = torch.sqrt(radius[:, None] ** 2 + radius[None, :] ** 2)
    coulomb = COULOMB_EV_ANGSTROM * torch.erf(distance / width) / distance
    on_site = hardness + COULOMB_EV_ANGSTROM * math.sqrt(2.0 / math.pi) / radius
    matrix = torch.where(diagonal, torch.diag(on_site), coulomb)
    ones = torch.ones((n_atoms, 1), dtype=matrix.dtype)
    bordered = torch.cat(
        [torch.cat([matrix, ones], 1), torch.cat([ones.T, torch.zeros_like(ones[:1])], 1)]
    )
    total = torch.as_tensor(total_charge, dtype=matrix.dtype).reshape(1)
    return torch.linalg.solve(bordered, torch.cat([-chi, total]))[:n_atoms]


def induced_energy(
    vectors: torch.Tensor, polarizability: torch.Tensor, field: torch.Tensor
) -> torch.Tensor:
    """Energy of the induced dipoles in an outer field, -1/2 F A F, () eV.

    Args:
        vectors: (n_atoms, n_atoms, 3) between the atoms.
        polarizability: (n_atoms,) Å³.
        field: (n_atoms, 3) at the atoms, of unit e/Å² (without the Coulomb constant).
    """
    response = relay_matrix(vectors, polarizability)
    dipoles = torch.linalg.solve(response, field.reshape(-1))
    return -0.5 * COULOMB_EV_ANGSTROM * torch.dot(field.reshape(-1), dipoles)


def relay_matrix(vectors: torch.Tensor, polarizability: torch.Tensor) -> torch.Tensor:
    """Matrix that turns induced dipoles into the field that induces them, (3 n, 3 n), 1/Å³."""
    n_atoms = len(polarizability)
    diagonal = torch.eye(n_atoms, dtype=torch.bool)
    distance = squared_lengths(vectors).masked_fill(diagonal, 1.0).sqrt()
    size = (polarizability[:, None] * polarizability[None, :]) ** (1.0 / 6.0)
    au = _DIPOLE_DAMPING * distance / size
    decay = torch.exp(-au)
    damped = 1.0 - (0.5 * au**2 + au + 1.0) * decay
    damped_tensor = damped - au**3 / 6.0 * decay
    unit = vectors / distance[..., None]
    identity = torch.eye(3, dtype=vectors.dtype)
    tensor = (
        damped[..., None, None] * identity
        - 3.0 * damped_tensor[..., None, None] * unit[..., :, None] * unit[..., None, :]
    ) / distance[..., None, None] ** 3
    own = identity / polarizability[:, None, None]
    tensor = torch.where(diagonal[..., None, None], own[:, None], tensor)
    return tensor.permute(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)


def potential_and_field(
    vectors: torch.Tensor,
    atoms: torch.Tensor,
    charges: torch.Tensor,
    radius: torch.Tensor,
    polarizability: torch.Tensor,
    cutoff: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What point charges do at the atoms of the region.

    Without a cutoff the kernel is that of Coulomb; with one it is 1/r - 1/rc + (r - rc)/rc², whose
    force vanishes at the cutoff (C. J. Fennell and J. D. Gezelter, J. Chem. Phys. 124, 234104,
    2006), times a switching function that makes it smooth.

    Args:
        vectors: (n_pairs, 3) from an atom to a charge.
        atoms: (n_pairs,) int64, of each pair.
        charges: (n_pairs,).
        radius: (n_atoms,) of the Gaussian charges that feel the potential.
        polarizability: (n_atoms,).
        cutoff: Å.

    Returns:
        potential (n_atoms,) e/Å and field (n_atoms, 3) e/Å².
    """
    r = squared_lengths(vectors).sqrt()
    kernel, slope = _kernel(r, cutoff)
    smeared = torch.erf(r / radius[atoms])
    potential = torch.zeros_like(radius).index_add(0, atoms, charges * smeared * kernel)
    damping = 1.0 - torch.exp(-_CHARGE_DAMPING * r**3 / polarizability[atoms])
    # A positive charge pushes a positive dipole away from itself; the slope is negative.
    strength = charges * damping * slope / r
    field = torch.zeros_like(radius)[:, None].expand(-1, 3)
    return potential, field.index_add(0, atoms, strength[:, None] * vectors)


def squared_lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Of vectors (..., 3); faster than a sum over an axis of three."""
    x, y, z = vectors.unbind(-1)
    return x * x + y * y + z * z


def _kernel(r: torch.Tensor, cutoff: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel and its derivative."""
    if cutoff is None:
        return 1.0 / r, -1.0 / r**2
    plain = 1.0 / r - 1.0 / cutoff + (r - cutoff) / cutoff**2
    slope = -1.0 / r**2 + 1.0 / cutoff**2
    start = _SWITCH_START * cutoff
    x = ((r - start) / (cutoff - start)).clamp(0.0, 1.0)
    switch = 1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x))
    switch_slope = -30.0 * x**2 * (1.0 - x) ** 2 / (cutoff - start)
    return plain * switch, slope * switch + plain * switch_slope
