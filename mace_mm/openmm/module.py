"""The evaluator in OpenMM's units, as TorchForce and PythonForce call it."""

import torch
from torch import nn

from mace_mm.evaluate.engines import Evaluator
from mace_mm.units import EV_TO_KJ_MOL, NM_TO_ANGSTROM


class OpenMMModule(nn.Module):
    """Positions in nm to energy in kJ/mol and forces in kJ/mol/nm. TorchScript compiles it."""

    atoms: torch.Tensor
    no_box: torch.Tensor

    def __init__(
        self,
        evaluator: Evaluator,
        atoms: torch.Tensor | None,
        periodic: bool,
        interaction_energy: bool,
    ) -> None:
        """
        Args:
            evaluator: of the atoms, in their order.
            atoms: (n_atoms,) int64 particles to take, in any order; None if the positions that
                come are those of the atoms already.
            periodic: whether a box comes with the positions.
            interaction_energy: without the energies of isolated atoms, or with them.
        """
        super().__init__()
        self.evaluator = evaluator
        self.selects = atoms is not None
        self.periodic = periodic
        self.entry = 1 if interaction_energy else 0
        self.nm_to_angstrom = NM_TO_ANGSTROM
        self.ev_to_kj_mol = EV_TO_KJ_MOL
        taken = torch.zeros(0, dtype=torch.int64) if atoms is None else atoms
        self.register_buffer("atoms", taken)
        self.register_buffer("no_box", torch.zeros(0, dtype=torch.float64))

    def forward(
        self, positions: torch.Tensor, box: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate.

        Args:
            positions: (n_particles, 3), nm, any float dtype and device.
            box: (3, 3) box vectors as rows, nm, where the force is periodic.

        Returns:
            energy () float64 kJ/mol, forces (n_particles, 3) kJ/mol/nm in the dtype and on the
            device of the positions, zero on particles that were not taken.
        """
        here = positions.detach()
        if self.selects:
            here = here.index_select(0, self.atoms)
        cell = self.no_box
        if box is not None and self.periodic:
            cell = box.detach()
        energies, forces = self.evaluator.in_units(
            here, cell, self.nm_to_angstrom, self.ev_to_kj_mol
        )
        if self.selects:
            everywhere = torch.zeros(
                [positions.shape[0], 3], dtype=forces.dtype, device=forces.device
            )
            forces = everywhere.index_copy(0, self.atoms, forces)
        # OpenMM reads the memory of the forces directly: dtype and layout must be as expected.
        forces = forces.to(positions.device, positions.dtype).contiguous()
        return energies[self.entry], forces


class InterpolatedModule(nn.Module):
    """The module as a TorchForce calls it, times a parameter; not evaluated while that is zero.

    The energy is a function of the parameter, so that TorchForce can differentiate it.
    """

    def __init__(self, module: nn.Module) -> None:
        """Args: module: an :class:`OpenMMModule`."""
        super().__init__()
        self.module = module

    def forward(
        self,
        positions: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        third: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate, or return zeros.

        Args:
            positions: (n_particles, 3), nm.
            first, second, third: the box (3, 3) if the force is periodic, then the factor, then
                whether to evaluate although the factor is zero (0 or 1).
        """
        box: torch.Tensor | None = None
        factor, always = first, second
        if third is not None:
            box, factor, always = first, second, third
        if bool((factor == 0) & (always == 0)):
            # Zero, with an infinite derivative: it is not known, and must not pass for zero.
            return torch.sqrt(factor), torch.zeros_like(positions)
        energy, forces = self.module(positions, box)
        # A sum without saved tensors: nothing but the factor is left to differentiate.
        factor = factor.to(torch.float64)
        scaled = torch.add(torch.zeros_like(factor), factor, alpha=float(energy))
        return scaled, forces * float(factor)
