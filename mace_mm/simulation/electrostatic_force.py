"""The force of electrostatic embedding: what polarization adds to mechanical embedding.

The force field keeps the interaction of its own charges q0 with the region, with all images and the
long-range part of its method. This force adds, for the charges q(R) that the isolated region has at
its geometry and the potential phi and field F of the MM charges at its atoms,

    E = sum_i (q_i(R) - q0_i) phi_i - 1/2 F A(R) F,

the difference of the charges to those of the force field, and the dipoles that the MM charges
induce. The sum of the charges is that of the force field, so that the correction has no monopole
and decays fast; it ends smoothly at the cutoff. Nothing is counted twice: without MM charges this
energy is zero, and that of the region is the model's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openmm
import torch

from mace_mm.simulation.electrostatics import (
    equilibrated_charges,
    induced_energy,
    potential_and_field,
    squared_lengths,
)
from mace_mm.simulation.interpolation import AT_ZERO, PARAMETER, fade_in
from mace_mm.units import (
    COULOMB_EV_ANGSTROM,
    EV_PER_ANGSTROM_TO_KJ_MOL_NM,
    EV_TO_KJ_MOL,
    NM_TO_ANGSTROM,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedRegion:
    """What the force knows about a System.

    Attributes:
        atoms: particle indices of the region, link atoms included.
        parameters: (n_atoms, 5), see :func:`mace_mm.simulation.electrostatics.charge_parameters`.
        polarizability: (n_atoms,) Å³.
        force_field_charges: (n_atoms,) e, zero on link atoms; their sum is the region's charge.
        sources: particle indices of the MM charges.
        source_charges: (n_sources,) e.
        cutoff: Å, or None without one.
        periodic: whether the region meets the nearest images of the charges.
    """

    atoms: tuple[int, ...]
    parameters: torch.Tensor
    polarizability: torch.Tensor
    force_field_charges: torch.Tensor
    sources: tuple[int, ...]
    source_charges: torch.Tensor
    cutoff: float | None
    periodic: bool


def embedding_energy(
    region: EmbeddedRegion,
    atoms: torch.Tensor,
    sources: torch.Tensor,
    charges: torch.Tensor,
    cell: torch.Tensor | None,
) -> torch.Tensor:
    """Energy of the correction, () eV.

    Args:
        region: what is constant.
        atoms: (n_atoms, 3) Å.
        sources: (n_near, 3) Å, some of the MM charges.
        charges: (n_near,) e, theirs.
        cell: (3, 3) Å box vectors in OpenMM's reduced form, or None.
    """
    inside = _nearest(atoms[None] - atoms[:, None], cell)
    # Most pairs lie beyond the cutoff.
    with torch.no_grad():
        apart = squared_lengths(_nearest(sources[None] - atoms[:, None], cell))
        reach = math.inf if region.cutoff is None else region.cutoff**2
        first, second = torch.nonzero(apart < reach, as_tuple=True)
    outside = _nearest(sources.index_select(0, second) - atoms.index_select(0, first), cell)
    potential, field = potential_and_field(
        outside,
        first,
        charges[second],
        region.parameters[:, 3],
        region.polarizability,
        region.cutoff,
    )
    total = region.force_field_charges.sum()
    shift = equilibrated_charges(inside, region.parameters, total) - region.force_field_charges
    static = COULOMB_EV_ANGSTROM * torch.dot(shift, potential)
    return static + induced_energy(inside, region.polarizability, field)


class ElectrostaticComputation:
    """What a PythonForce calls: the particles are the atoms of the region, then the sources."""

    def __init__(self, region: EmbeddedRegion, skipped: bool) -> None:
        """
        Args:
            region: what is constant.
            skipped: do not evaluate while the interpolation is at zero.
        """
        self._region = region
        self._skipped = skipped

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces in kJ/mol/nm."""
        positions = state.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM
        forces = np.zeros_like(positions)
        if self._skipped:
            parameters = state.getParameters()
            if parameters[PARAMETER] == 0.0 and parameters[AT_ZERO] == 0.0:
                return 0.0, forces
        region = self._region
        cell = None
        if region.periodic:
            cell = torch.from_numpy(
                state.getPeriodicBoxVectors(asNumpy=True)._value * NM_TO_ANGSTROM
            )
        n_atoms = len(region.atoms)
        everything = torch.from_numpy(positions)
        atoms = everything[:n_atoms].clone().requires_grad_(True)
        near = _within_reach(region, everything[:n_atoms], everything[n_atoms:], cell)
        sources = everything[n_atoms:][near].clone().requires_grad_(True)
        with torch.enable_grad():
            energy = embedding_energy(region, atoms, sources, region.source_charges[near], cell)
            slopes = torch.autograd.grad(energy, [atoms, sources])
        forces[:n_atoms] = -slopes[0].numpy()
        forces[n_atoms:][near.numpy()] = -slopes[1].numpy()
        return energy.item() * EV_TO_KJ_MOL, forces * EV_PER_ANGSTROM_TO_KJ_MOL_NM


def make_electrostatic_force(
    region: EmbeddedRegion, force_group: int, *, interpolated: bool
) -> openmm.Force:
    """The OpenMM Force of the correction."""
    parameters = {PARAMETER: 1.0, AT_ZERO: 0.0} if interpolated else {}
    computation = ElectrostaticComputation(region, interpolated)
    force = openmm.PythonForce(computation, parameters)
    force.setParticles([*region.atoms, *region.sources])
    force.setUsesPeriodicBoundaryConditions(region.periodic)
    force.setForceGroup(force_group)
    force.setName("electrostatic embedding")
    return fade_in(force, skipped=True) if interpolated else force


def _within_reach(
    region: EmbeddedRegion,
    atoms: torch.Tensor,
    sources: torch.Tensor,
    cell: torch.Tensor | None,
) -> torch.Tensor:
    """Which sources may lie within the cutoff of an atom, (n_sources,) bool."""
    if region.cutoff is None:
        return torch.ones(len(sources), dtype=torch.bool)
    arms = _nearest(atoms - atoms[0], cell)
    center = atoms[0] + arms.mean(0)
    reach = region.cutoff + squared_lengths(arms - arms.mean(0)).max().sqrt()
    return squared_lengths(_nearest(sources - center, cell)) < reach**2


def _nearest(vectors: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
    """Vectors to the nearest images, in a reduced cell and up to half its width."""
    if cell is None:
        return vectors
    for i in (2, 1, 0):
        n_cells = torch.round(vectors[..., i].detach() / cell[i, i])
        vectors = vectors - n_cells[..., None] * cell[i]
    return vectors


def spread_charges(
    charges: Sequence[float], omitted: Sequence[int], groups: Sequence[Sequence[int]]
) -> list[float]:
    """Move the charges of omitted particles onto the others of their groups, in equal parts.

    Charges next to a link atom would polarize it as no atom of a molecule is; leaving them out
    would change the total charge (R. C. Walker, M. F. Crowley, D. A. Case, J. Comput. Chem. 29,
    1019, 2008).

    Args:
        charges: of all particles, e.
        omitted: particles without a field of their own.
        groups: particles by residue.

    Returns:
        charges with zeros for the omitted ones; a group that is omitted whole keeps nothing.
    """
    gone = set(omitted)
    changed = list(charges)
    for group in groups:
        moved = sum(charges[i] for i in group if i in gone)
        rest = [i for i in group if i not in gone]
        for i in rest:
            changed[i] += moved / len(rest)
    for i in gone:
        changed[i] = 0.0
    return changed
