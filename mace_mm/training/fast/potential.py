"""The potential with compiled kernels in its inner loops, for training on a CPU.

It reads the weights of an ordinary `Potential` and gives the same predictions and derivatives;
`Potential` stays the definition, and the tests compare the two.
"""

import logging

import torch

from mace_mm.graph.graph import Graph, edge_vectors
from mace_mm.kernels.training_library import SUFFIXES, training_library
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential, Prediction
from mace_mm.training.fast.layer import apply_layer, direction_powers, make_plan
from mace_mm.training.fast.pairs import PairGraph, pair_graph

_LOG = logging.getLogger(__name__)
_CHANNELS = 16  # the kernels' vectors


def fast_potential(potential: Potential) -> "FastPotential | None":
    """The fast form of a potential, or None with a log line that says why there is none."""
    weight = potential.network.embedding.weight
    reason = None
    if weight.device.type != "cpu":
        reason = f"it serves CPUs, not {weight.device.type}"
    elif weight.dtype not in SUFFIXES:
        reason = f"it does not know {weight.dtype}"
    elif potential.network.config.channels % _CHANNELS:
        reason = f"channels must be a multiple of {_CHANNELS}"
    elif training_library() is None:
        reason = "the training kernels are not compiled here"
    if reason is not None:
        _LOG.info("training goes through plain torch, without compiled kernels: %s", reason)
        return None
    return FastPotential(potential)


class FastPotential:
    """Predictions of a `Potential` on the CPU.

    Atoms are sorted by element, so that each element's linear maps are one matrix product. Radial
    functions and harmonics are computed once for the two directions of an edge.
    """

    def __init__(self, potential: Potential) -> None:
        """Raises: BackendError, the kernels are not compiled here."""
        network = potential.network
        self.potential = potential
        dtype = network.embedding.weight.dtype
        self.plans = [make_plan(layer, network.l_max, dtype) for layer in network.layers]

    def __call__(self, graph: Graph, head: torch.Tensor | None = None) -> Prediction:
        """Evaluate a batch; see `Potential.forward`."""
        potential = self.potential
        network: MACE = potential.network
        batch = pair_graph(graph, network.config.n_species)
        pairs = batch.graph
        n_atoms, n_graphs = pairs.species.size(0), pairs.cell.size(0)
        atom_head = torch.zeros_like(pairs.species)
        if head is not None:
            atom_head = head.index_select(0, pairs.graph_index)
        vectors = edge_vectors(pairs).to(network.scale.dtype).detach().requires_grad_(True)
        with torch.enable_grad():
            interaction = self._interaction(batch, vectors, atom_head)
            gradient = torch.zeros_like(vectors)
            if len(vectors):
                (gradient,) = torch.autograd.grad(
                    interaction.sum(), vectors, create_graph=potential.training
                )
        if not potential.training:
            interaction, vectors = interaction.detach(), vectors.detach()
        forces = gradient.new_zeros(n_atoms, 3)
        forces = forces.index_add(0, pairs.senders, gradient)
        forces = forces.index_add(0, pairs.receivers, -gradient).index_select(0, batch.place)
        virial, stress = _stress(pairs, vectors, gradient)
        node_interaction = interaction.to(torch.float64)
        e0 = potential.atomic_energies(atom_head, pairs.species)
        zero = node_interaction.new_zeros(n_graphs)
        interaction_energy = zero.index_add(0, pairs.graph_index, node_interaction)
        return Prediction(
            node_energies=(e0 + node_interaction).index_select(0, batch.place),
            interaction_energy=interaction_energy,
            energy=interaction_energy + zero.index_add(0, pairs.graph_index, e0),
            forces=forces,
            stress=stress,
            virial=virial,
        )

    def _interaction(
        self, batch: PairGraph, vectors: torch.Tensor, atom_head: torch.Tensor
    ) -> torch.Tensor:
        """Interaction energy of every atom, sorted by element; see `MACE.forward`."""
        network: MACE = self.potential.network
        pairs = batch.graph
        distances = torch.linalg.vector_norm(vectors, dim=1)
        powers = direction_powers(vectors / distances.unsqueeze(1), network.l_max)
        senders = pairs.species.index_select(0, pairs.senders)
        receivers = pairs.species.index_select(0, pairs.receivers)
        basis = network.radial_basis(distances, senders, receivers)
        features = [network.embedding(pairs.species).unsqueeze(1)]
        energies = vectors.new_zeros(len(pairs.species), len(network.scale))
        for layer, plan, readout in zip(network.layers, self.plans, network.readouts, strict=True):
            features = apply_layer(layer, plan, features, batch, powers, basis)
            energies = energies + readout(features[0][:, 0])
        chosen = energies.gather(1, atom_head.unsqueeze(1)).squeeze(1)
        if network.config.pair_repulsion:
            # Half of a pair's repulsion to each of its atoms.
            half = network.repulsion(distances, senders, receivers)
            chosen = chosen.index_add(0, pairs.receivers, half).index_add(0, pairs.senders, half)
        return network.scale[atom_head] * chosen + network.shift[atom_head]


def _stress(
    pairs: Graph, vectors: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Virial and stress from the energy's derivative with respect to the pairs' vectors."""
    pair_graph_index = pairs.graph_index.index_select(0, pairs.senders)
    outer = vectors.unsqueeze(2) * gradient.unsqueeze(1)
    strain = outer.new_zeros(len(pairs.cell), 3, 3).index_add(0, pair_graph_index, outer)
    strain = 0.5 * (strain + strain.transpose(1, 2))
    volume = torch.linalg.det(pairs.cell).abs().view(-1, 1, 1)
    has_cell = volume > 0
    stress = torch.where(has_cell, strain / torch.where(has_cell, volume, 1.0), 0.0)
    return -strain, stress
