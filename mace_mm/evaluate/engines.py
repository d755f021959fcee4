"""Positions in, energies and forces out: the compiled kernels, and the network in plain torch."""

import torch
from torch import nn

from mace_mm.errors import GeometryError
from mace_mm.evaluate.compile import raised_inside
from mace_mm.evaluate.form_source import FormSource
from mace_mm.graph.graph import Graph
from mace_mm.graph.verlet import VerletList
from mace_mm.kernels import ops
from mace_mm.model.potential import Potential, Prediction


class Evaluator(nn.Module):
    """A potential for a fixed list of atoms, with its own neighbor list. TorchScript compiles it.

    Attributes:
        species: (n_atoms,) int64, index into the engine's elements.
    """

    species: torch.Tensor

    def __init__(self, species: torch.Tensor) -> None:
        """Args: species (n_atoms,) int64."""
        super().__init__()
        self.register_buffer("species", species)

    def forward(self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor) -> Prediction:
        """Evaluate one structure.

        Args:
            positions: (n_atoms, 3), Å, wrapped into the cell or not.
            cell: (3, 3) lattice vectors as rows, Å, dtype of the positions; zeros if there is none.
            pbc: (3,) bool.

        Returns:
            The prediction for one graph, eV, eV/Å, eV/Å³.

        Raises:
            GeometryError: positions not finite, coincident atoms, a periodic cell without volume,
                an energy that is not finite (inside a report of torch when compiled, see
                `mace_mm.evaluate.compile.raised_inside`).
        """
        raise NotImplementedError

    def in_units(
        self, positions: torch.Tensor, box: torch.Tensor, length: float, energy: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate one structure in other units, without stress and node energies.

        Args:
            positions: (n_atoms, 3), any float dtype and device.
            box: (3, 3) lattice vectors as rows; (0,) if nothing is periodic.
            length: Å in one unit of positions and box.
            energy: units of energy in one eV.

        Returns:
            energies (2,) float64: total, and without those of isolated atoms; forces
            (n_atoms, 3), of any float dtype.
        """
        raise NotImplementedError


class ReferenceEvaluator(Evaluator):
    """The network in plain torch, on any device.

    Geometry (neighbors, edge vectors) is done in the dtype of the positions, the network in that of
    the weights.
    """

    graph_index: torch.Tensor

    def __init__(self, potential: Potential, species: torch.Tensor, skin: float) -> None:
        """
        Args:
            potential: of one head, in evaluation mode, in the dtype to compute with.
            species: (n_atoms,) int64, index into the model's elements.
            skin: of the neighbor list, Å.
        """
        super().__init__(species)
        self.potential = potential
        self.neighbors = VerletList(potential.network.config.r_max, skin)
        self.register_buffer("graph_index", torch.zeros_like(species))

    def forward(self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor) -> Prediction:
        """See :class:`Evaluator`."""
        positions = positions.detach()
        senders, receivers, shifts = self.neighbors(positions, cell, pbc)
        graph = Graph(
            species=self.species,
            positions=positions,
            senders=senders,
            receivers=receivers,
            cell_shifts=shifts,
            cell=cell.unsqueeze(0),
            graph_index=self.graph_index,
        )
        # The caller may have switched gradients off; forces are one.
        # TorchScript has no torch.enable_grad.
        was_enabled = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        prediction = self.potential(graph)
        torch.set_grad_enabled(was_enabled)
        if not bool(torch.isfinite(prediction.energy).all()):
            raise GeometryError("the energy of these positions is not a finite number")
        return prediction

    def in_units(
        self, positions: torch.Tensor, box: torch.Tensor, length: float, energy: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Evaluator`."""
        device = self.species.device
        periodic = box.numel() > 0
        # Geometry is done in float64 even where the caller computes in float32.
        here = positions.detach().to(device, torch.float64) * length
        cell = torch.zeros([3, 3], dtype=torch.float64, device=device)
        if periodic:
            cell = box.detach().to(device, torch.float64) * length
        pbc = torch.full([3], periodic, dtype=torch.bool, device=device)
        found = self.forward(here, cell, pbc)
        energies = torch.stack([found.energy[0], found.interaction_energy[0]]) * energy
        return energies, found.forces.to(torch.float64) * (energy * length)


class NativeEvaluator(Evaluator):
    """The operator of `mace_mm.kernels.ops`: compiled kernels on the CPU, Triton on a GPU."""

    form: torch.Tensor
    state: torch.Tensor

    def __init__(
        self,
        form: torch.Tensor,
        species: torch.Tensor,
        skin: float,
        source: FormSource | None = None,
    ) -> None:
        """
        Args:
            form: evaluation form of the model.
            species: (n_atoms,) int64, index into the elements of the form.
            skin: of the neighbor list, Å.
            source: of the form, if it is known.
        """
        super().__init__(species)
        self.skin = skin
        self.source = source
        self.register_buffer("form", form)
        # The engine keeps its neighbor list under the address of this tensor.
        self.register_buffer("state", torch.zeros(1, dtype=torch.int64))
        ops.forget_with(self, self.state)

    def __call__(self, *arguments: torch.Tensor) -> Prediction:
        """Evaluate; errors of the engine come as those of this package."""
        try:
            return super().__call__(*arguments)
        except RuntimeError as error:
            raise (raised_inside(error) or error) from None

    def forward(self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor) -> Prediction:
        """See :class:`Evaluator`."""
        rows = cell * pbc.unsqueeze(1).to(cell.dtype)
        energies, forces, virial, nodes = torch.ops.mace_mm.energy_forces(
            positions.detach(), self.species, rows, self.form, self.state, self.skin
        )
        virial = virial.unsqueeze(0)
        volume = torch.linalg.det(cell.to(torch.float64)).abs()
        stress = torch.zeros_like(virial)
        if bool(volume > 0):
            stress = -virial / volume
        return Prediction(
            node_energies=nodes,
            interaction_energy=energies[1:],
            energy=energies[:1],
            forces=forces,
            stress=stress,
            virial=virial,
        )

    def in_units(
        self, positions: torch.Tensor, box: torch.Tensor, length: float, energy: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Evaluator`."""
        here, cell = positions.detach(), box.detach()
        if here.is_cuda or not self.species.is_cuda:
            here = here.to(self.species.device)
        # A model on a GPU takes positions from the CPU in one copy and gives results back in one.
        energies, forces, _, _ = torch.ops.mace_mm.energy_forces(
            here,
            self.species,
            cell.to(here.device),
            self.form,
            self.state,
            self.skin,
            0,
            length,
            energy,
        )
        return energies, forces
