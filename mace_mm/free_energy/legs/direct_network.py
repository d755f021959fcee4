"""A MACE network whose messages between a solute and its surroundings can be switched off."""

import torch
from torch import nn

from mace_mm.graph.graph import Graph, edge_vectors
from mace_mm.graph.verlet import VerletList
from mace_mm.kernels.spherical_harmonics import spherical_harmonics
from mace_mm.model.potential import Potential
from mace_mm.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM


class DecoupledModule(nn.Module):
    """Energy and forces at a coupling λ, as OpenMM's PythonForce calls it. TorchScript compiles it.

    Messages of every layer, and the pair repulsion, carry the factor λ on edges between solute and
    surroundings, and these edges are lengthened to d' = (d⁶ + (1 - λ) s⁶)^(1/6), so that atoms may
    pass through each other (after Moore, Cole and Csányi, arXiv:2405.18171). At λ = 1 this is the
    network itself, at λ = 0 solute and surroundings do not see each other. In between the energy
    is smooth in λ and means nothing by itself.
    """

    species: torch.Tensor
    solute: torch.Tensor
    pbc: torch.Tensor
    degrees: torch.Tensor

    def __init__(
        self,
        potential: Potential,
        species: torch.Tensor,
        solute: torch.Tensor,
        periodic: bool,
        softness: float,
        skin: float,
    ) -> None:
        """
        Args:
            potential: in evaluation mode, in the dtype to compute with; its first head is used.
            species: (n_atoms,) int64, index into the model's elements.
            solute: (n_atoms,) bool.
            periodic: whether a box comes with the positions.
            softness: s, Å.
            skin: of the neighbor list, Å.
        """
        super().__init__()
        self.network = potential.network
        self.neighbors = VerletList(potential.network.config.r_max, skin)
        self.softness = softness
        self.nm_to_angstrom = NM_TO_ANGSTROM
        self.ev_to_kj_mol = EV_TO_KJ_MOL
        self.ev_per_angstrom_to_kj_mol_nm = EV_PER_ANGSTROM_TO_KJ_MOL_NM
        degrees = [
            degree for degree in range(self.network.l_max + 1) for _ in range(2 * degree + 1)
        ]
        self.register_buffer("degrees", torch.tensor(degrees))
        self.register_buffer("species", species)
        self.register_buffer("solute", solute)
        self.register_buffer("pbc", torch.tensor([periodic] * 3))

    def forward(
        self, positions: torch.Tensor, box: torch.Tensor | None, coupling: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate.

        Args:
            positions: (n_atoms, 3), nm.
            box: (3, 3) box vectors as rows, nm, where there is one.
            coupling: λ, 0 to 1.

        Returns:
            interaction energy () float64 kJ/mol, forces (n_atoms, 3) float64 kJ/mol/nm.
        """
        here = positions.detach().to(torch.float64) * self.nm_to_angstrom
        cell = torch.zeros([3, 3], dtype=torch.float64)
        if box is not None:
            cell = box.detach().to(torch.float64) * self.nm_to_angstrom
        senders, receivers, shifts = self.neighbors(here, cell, self.pbc)
        with_gradients = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        here.requires_grad_(True)
        graph = Graph(
            species=self.species,
            positions=here,
            senders=senders,
            receivers=receivers,
            cell_shifts=shifts,
            cell=cell.unsqueeze(0),
            graph_index=torch.zeros_like(self.species),
        )
        vectors = edge_vectors(graph).to(self.network.scale.dtype)
        crossing = self.solute.index_select(0, senders) != self.solute.index_select(0, receivers)
        energy = self.node_energies(vectors, senders, receivers, crossing, coupling)
        total = energy.to(torch.float64).sum()
        gradient = torch.autograd.grad([total], [here], allow_unused=True)[0]
        torch.set_grad_enabled(with_gradients)
        if gradient is None:
            gradient = torch.zeros_like(here)
        forces = -gradient * self.ev_per_angstrom_to_kj_mol_nm
        return total.detach() * self.ev_to_kj_mol, forces.detach().contiguous()

    def node_energies(
        self,
        vectors: torch.Tensor,
        senders: torch.Tensor,
        receivers: torch.Tensor,
        crossing: torch.Tensor,
        coupling: float,
    ) -> torch.Tensor:
        """(n_atoms,) eV of edges (n_edges, 3), of which ``crossing`` ones are coupled by λ."""
        network = self.network
        distances = torch.linalg.vector_norm(vectors, dim=1)
        softened = torch.pow(distances.pow(6) + (1.0 - coupling) * self.softness**6, 1.0 / 6.0)
        lengths = torch.where(crossing, softened, distances)
        # Harmonics of degree l shrink with (d / d')^l: they stay smooth where atoms meet.
        shrunk = (distances / lengths).unsqueeze(1).pow(self.degrees)
        factors = torch.where(crossing, coupling, 1.0).to(vectors.dtype)
        harmonics = spherical_harmonics(vectors / distances.unsqueeze(1), network.l_max)
        harmonics = harmonics * shrunk * factors.unsqueeze(1)
        sender_species = self.species.index_select(0, senders)
        receiver_species = self.species.index_select(0, receivers)
        radial_basis = network.radial_basis(lengths, sender_species, receiver_species)
        features = network.embedding(self.species).unsqueeze(1)
        energies = torch.zeros([self.species.size(0), network.scale.size(0)], dtype=vectors.dtype)
        for layer, readout in zip(network.layers, network.readouts):  # noqa: B905 - TorchScript
            features = layer(features, self.species, harmonics, radial_basis, senders, receivers)
            energies = energies + readout(features[:, 0])
        pair = network.repulsion(lengths, sender_species, receiver_species) * factors
        return network.scale[0] * energies[:, 0].index_add(0, receivers, pair) + network.shift[0]
