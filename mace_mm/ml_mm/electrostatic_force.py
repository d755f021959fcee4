"""The force of electrostatic embedding: the answer of an ML region to the charges around it.

The charges of the force field stay what they are, inside the region and out, with all images and
the long-range part of its method. This force adds the energy of the dipoles that the field F of the
MM charges induces in the atoms of the region,

    E = -1/2 sum_i mu_i F_i,   F = B mu,

with B the inverse polarizabilities and the damped interaction of the dipoles. Nothing is counted
twice: fields of atoms of the region are in the model and in the charges of the force field, and
without MM charges this energy is zero. The field has no cutoff: in a periodic box it is that of
all images (Ewald's sum), otherwise that of all charges.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import openmm
import torch

from mace_mm.electrostatics.charge_model import (
    charge_kernel,
    dipole_forces,
    energy_in_ev,
    induced_dipoles,
    squared_lengths,
)
from mace_mm.electrostatics.ewald import Mesh, Stencil, ewald_splitting, make_mesh
from mace_mm.errors import ArchiveError
from mace_mm.openmm.interpolation import AT_ZERO, PARAMETER, fade_in
from mace_mm.units import (
    COULOMB_EV_ANGSTROM,
    EV_PER_ANGSTROM_TO_KJ_MOL_NM,
    EV_TO_KJ_MOL,
    NM_TO_ANGSTROM,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedRegion:
    """What the force knows about a System.

    Attributes:
        atoms: particle indices of the region, link atoms included.
        polarizability: (n_atoms,) Å³.
        sources: particle indices of the MM charges.
        source_charges: (n_sources,) e.
        cutoff: Å, where a periodic sum passes from space to waves; None without a box.
    """

    atoms: tuple[int, ...]
    polarizability: torch.Tensor
    sources: tuple[int, ...]
    source_charges: torch.Tensor
    cutoff: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Polarization:
    """The answer of a region.

    Attributes:
        energy: eV.
        dipoles: (n_atoms, 3) e Å.
        coupled: whether the atoms polarize each other, see
            :func:`mace_mm.electrostatics.charge_model.induced_dipoles`.
        atom_forces: (n_atoms, 3) eV/Å.
        source_forces: (n_sources, 3) eV/Å.
    """

    energy: float
    dipoles: torch.Tensor
    coupled: bool
    atom_forces: torch.Tensor
    source_forces: torch.Tensor


def polarization(
    region: EmbeddedRegion, atoms: torch.Tensor, sources: torch.Tensor, mesh: Mesh | None
) -> Polarization:
    """Induced dipoles, energy and forces.

    At the dipoles that the field induces the energy 1/2 mu B mu - mu F is stationary: forces are
    those at fixed dipoles.

    Args:
        region: what is constant.
        atoms: (n_atoms, 3) Å.
        sources: (n_sources, 3) Å.
        mesh: in the present box; None without one.
    """
    cell = None if mesh is None else mesh.cell
    near = _Near(region, atoms, sources, cell)
    field = near.field()
    if mesh is not None:
        around, points = Stencil(mesh, sources), Stencil(mesh, atoms)
        potential = mesh.potential(around.spread(region.source_charges))
        field = field - points.gradient(potential)
    inside = nearest_images(atoms[None] - atoms[:, None], cell)
    dipoles, coupled = induced_dipoles(inside, region.polarizability, field)
    atom_forces, source_forces = near.forces(dipoles)
    if coupled:
        atom_forces += dipole_forces(inside, region.polarizability, dipoles)
    if mesh is not None:
        curvature = points.curvature(potential)
        atom_forces -= torch.einsum("nij,nj->ni", curvature, dipoles)
        answer = mesh.potential(points.spread_dipoles(dipoles))
        source_forces -= region.source_charges[:, None] * around.gradient(answer)
    return Polarization(
        energy=energy_in_ev(dipoles, field),
        dipoles=dipoles,
        coupled=coupled,
        atom_forces=COULOMB_EV_ANGSTROM * atom_forces,
        source_forces=COULOMB_EV_ANGSTROM * source_forces,
    )


class _Near:
    """Pairs of an atom of the region and a charge: all of them, or those within the cutoff."""

    def __init__(
        self,
        region: EmbeddedRegion,
        atoms: torch.Tensor,
        sources: torch.Tensor,
        cell: torch.Tensor | None,
    ) -> None:
        close = _within_reach(region, atoms, sources, cell)
        vectors = nearest_images(atoms[:, None] - sources[close], cell)
        squared = squared_lengths(vectors)
        limit = math.inf if region.cutoff is None else region.cutoff**2
        self._atoms, chosen = torch.nonzero(squared < limit, as_tuple=True)
        self._sources = close[chosen]
        self._vectors = vectors[self._atoms, chosen]
        self._sizes = len(atoms), len(sources)
        splitting = None if region.cutoff is None else ewald_splitting(region.cutoff)
        strength, slope = charge_kernel(
            squared[self._atoms, chosen], region.polarizability[self._atoms], splitting
        )
        charges = region.source_charges[self._sources]
        self._strength, self._slope = charges * strength, charges * slope

    def field(self) -> torch.Tensor:
        """At the atoms, (n_atoms, 3) e/Å²."""
        field = torch.zeros((self._sizes[0], 3), dtype=self._vectors.dtype)
        return field.index_add_(0, self._atoms, self._strength[:, None] * self._vectors)

    def forces(self, dipoles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """On atoms and sources, at fixed dipoles (n_atoms, 3) e Å; e²/Å²."""
        mine = dipoles[self._atoms]
        along = self._slope * (mine * self._vectors).sum(1)
        pair = self._strength[:, None] * mine + along[:, None] * self._vectors
        on_atoms = torch.zeros_like(dipoles).index_add_(0, self._atoms, pair)
        on_sources = torch.zeros((self._sizes[1], 3), dtype=dipoles.dtype)
        return on_atoms, on_sources.index_add_(0, self._sources, pair, alpha=-1.0)


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
        self._mesh: Mesh | None = None
        self._warned = False

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces in kJ/mol/nm.

        Raises:
            ArchiveError: the force was saved with another form of the embedding. Raised here, as
                OpenMM ends the process at an error while it reads a force.
        """
        if set(vars(self._region)) != {field.name for field in fields(EmbeddedRegion)}:
            raise ArchiveError(
                "this System was saved with another form of electrostatic embedding (in the first "
                "one charges flowed within the region): make it again with createMixedSystem"
            )
        positions = state.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM
        if self._skipped:
            parameters = state.getParameters()
            if parameters[PARAMETER] == 0.0 and parameters[AT_ZERO] == 0.0:
                return 0.0, np.zeros_like(positions)
        everything = torch.from_numpy(positions)
        n_atoms = len(self._region.atoms)
        found = polarization(
            self._region, everything[:n_atoms], everything[n_atoms:], self._mesh_of(state)
        )
        if not found.coupled and not self._warned:
            self._warned = True
            _log.warning(
                "atoms of the ML region are so close that they would polarize each other without "
                "limit: each is polarized alone there (said once)"
            )
        forces = torch.cat([found.atom_forces, found.source_forces]).numpy()
        return found.energy * EV_TO_KJ_MOL, forces * EV_PER_ANGSTROM_TO_KJ_MOL_NM

    def _mesh_of(self, state: openmm.State) -> Mesh | None:
        """The mesh in the box of the state; it is made anew when the box has changed."""
        if self._region.cutoff is None:
            return None
        cell = torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True)._value * NM_TO_ANGSTROM)
        # Contexts of several threads may share this object: each reads the attribute once.
        mesh = self._mesh
        if mesh is None or not torch.equal(mesh.cell, cell):
            mesh = make_mesh(cell, ewald_splitting(self._region.cutoff))
            self._mesh = mesh
        return mesh

    def __getstate__(self) -> dict[str, Any]:
        return {"_region": self._region, "_skipped": self._skipped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_region"], state["_skipped"])  # type: ignore[misc]


def make_electrostatic_force(
    region: EmbeddedRegion, force_group: int, *, interpolated: bool
) -> openmm.Force:
    """The OpenMM Force of the correction."""
    parameters = {PARAMETER: 1.0, AT_ZERO: 0.0} if interpolated else {}
    computation = ElectrostaticComputation(region, interpolated)
    force = openmm.PythonForce(computation, parameters)
    force.setParticles([*region.atoms, *region.sources])
    force.setUsesPeriodicBoundaryConditions(region.cutoff is not None)
    force.setForceGroup(force_group)
    force.setName("electrostatic embedding")
    return fade_in(force, skipped=True) if interpolated else force


def _within_reach(
    region: EmbeddedRegion,
    atoms: torch.Tensor,
    sources: torch.Tensor,
    cell: torch.Tensor | None,
) -> torch.Tensor:
    """Indices of the sources that may lie within the cutoff of an atom, (n_close,)."""
    if region.cutoff is None:
        return torch.arange(len(sources))
    arms = nearest_images(atoms - atoms[0], cell)
    center = atoms[0] + arms.mean(0)
    reach = region.cutoff + float(squared_lengths(arms - arms.mean(0)).max().sqrt())
    apart = squared_lengths(nearest_images(sources - center, cell))
    return torch.nonzero(apart < reach**2)[:, 0]


def nearest_images(vectors: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
    """Vectors to the nearest images, in a reduced cell and up to half its width."""
    if cell is None:
        return vectors
    for i in (2, 1, 0):
        n_cells = torch.round(vectors[..., i] / cell[i, i])
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
