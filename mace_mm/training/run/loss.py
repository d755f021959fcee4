"""Losses on energies, forces and stress, as sums that processes can share out among themselves."""

import torch
from torch.nn.functional import huber_loss

from mace_mm.model.potential import Prediction
from mace_mm.training.config import LossConfig
from mace_mm.training.frames import TrainBatch

# Conditional Huber of the "universal" loss: thresholds of |F|, eV/Å, and factors on delta.
# Batatia et al., arXiv:2401.00096, Methods.
_FORCE_THRESHOLDS = (100.0, 200.0, 300.0)
_DELTA_FACTORS = (1.0, 0.7, 0.4, 0.1)


def count_labels(item: TrainBatch) -> torch.Tensor:
    """Number of energies, force components and stress components of a batch, (3,) float64."""
    batch = item.batch
    with_forces = batch.forces_mask.index_select(0, batch.graph.graph_index)
    counts = [batch.energy_mask.sum(), 3 * with_forces.sum(), 9 * batch.stress_mask.sum()]
    return torch.stack(counts).to(torch.float64)


def atoms_per_graph(item: TrainBatch) -> torch.Tensor:
    """(n_graphs,) float64 number of atoms."""
    index = item.batch.graph.graph_index
    n_graphs = item.batch.energy.size(0)
    return torch.bincount(index, minlength=n_graphs).to(torch.float64)


class Loss:
    """Terms of `LossConfig` as sums over labels, and their weighted mean.

    Sums add up over batches and processes; `total` divides by the number of labels once, so that
    a step has the same loss however its frames are shared out.
    """

    N_TERMS = 4
    N_COUNTS = 3

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def terms(self, prediction: Prediction, item: TrainBatch) -> torch.Tensor:
        """Sums of the losses of energy, relative energy, forces and stress, (4,) float64."""
        c = self.config
        zero = torch.zeros((), dtype=torch.float64, device=item.weight.device)
        return torch.stack(
            [
                self._energy(prediction, item) if c.energy > 0 else zero,
                self._relative(prediction, item) if c.relative_energy > 0 else zero,
                self._forces(prediction, item) if c.forces > 0 else zero,
                self._stress(prediction, item) if c.stress > 0 else zero,
            ]
        )

    def total(self, terms: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Weighted mean of the terms, () float64; see `count_labels` for the counts."""
        c = self.config
        frames, components, stresses = counts.clamp(min=1.0).unbind()
        weights = torch.stack(
            [
                c.energy / frames,
                c.relative_energy / frames,
                c.forces / components,
                c.stress / stresses,
            ]
        )
        return (weights * terms).sum()

    def _energy(self, prediction: Prediction, item: TrainBatch) -> torch.Tensor:
        batch = item.batch
        error = (prediction.energy - batch.energy) / atoms_per_graph(item)
        # A missing label is NaN: it must not reach the backward pass.
        error = torch.where(batch.energy_mask, error, torch.zeros_like(error))
        return (item.weight * self._scalar(error)).sum()

    def _relative(self, prediction: Prediction, item: TrainBatch) -> torch.Tensor:
        batch = item.batch
        mask = batch.energy_mask
        error = prediction.energy - batch.energy
        error = torch.where(mask, error, torch.zeros_like(error))
        _, molecule = torch.unique(batch.molecule_index, return_inverse=True)
        n = torch.zeros_like(error).index_add(0, molecule, mask.to(error.dtype))
        mean = torch.zeros_like(error).index_add(0, molecule, error) / n.clamp(min=1.0)
        difference = (error - mean.index_select(0, molecule)) / atoms_per_graph(item)
        difference = torch.where(mask, difference, torch.zeros_like(difference))
        return (item.weight * self._scalar(difference)).sum()

    def _forces(self, prediction: Prediction, item: TrainBatch) -> torch.Tensor:
        batch = item.batch
        index = batch.graph.graph_index
        mask = batch.forces_mask.index_select(0, index).unsqueeze(1)
        error = torch.where(mask, prediction.forces - batch.forces, 0.0)
        weight = item.weight.index_select(0, index).unsqueeze(1)
        kind, delta = self.config.kind, self.config.huber_delta
        if kind == "mae":
            # The norm of the vector keeps the loss invariant under rotation; 3 components a norm.
            terms = 3.0 * torch.sqrt(error.square().sum(1, keepdim=True) + 1e-12)
        elif kind == "universal":
            size = torch.linalg.vector_norm(torch.where(mask, batch.forces, 0.0), dim=1)
            bin_index = torch.bucketize(size, size.new_tensor(_FORCE_THRESHOLDS), right=True)
            deltas = (size.new_tensor(_DELTA_FACTORS) * delta)[bin_index].unsqueeze(1)
            small = error.abs() < deltas
            terms = torch.where(small, 0.5 * error.square(), deltas * (error.abs() - 0.5 * deltas))
        else:
            terms = self._scalar(error)
        return (weight * terms).to(torch.float64).sum()

    def _stress(self, prediction: Prediction, item: TrainBatch) -> torch.Tensor:
        batch = item.batch
        error = prediction.stress - batch.stress
        error = torch.where(batch.stress_mask.view(-1, 1, 1), error, torch.zeros_like(error))
        return (item.weight.view(-1, 1, 1) * self._scalar(error)).to(torch.float64).sum()

    def _scalar(self, error: torch.Tensor) -> torch.Tensor:
        kind, delta = self.config.kind, self.config.huber_delta
        if kind == "mse":
            return error.square()
        if kind == "mae":
            return error.abs()
        return huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
