"""Mean errors of energies and forces, gathered over batches and processes."""

from dataclasses import dataclass

import torch

from mace_mm.model.potential import Prediction
from mace_mm.training.frames import TrainBatch
from mace_mm.training.run.loss import Loss, atoms_per_graph, count_labels


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean errors; NaN where there is no label.

    Attributes:
        loss: weighted mean, see `Loss`.
        energy_mae, energy_rmse: per atom, eV.
        forces_mae, forces_rmse: per component, eV/Å.
    """

    loss: float
    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float


class ErrorSums:
    """Sums behind `Errors`, in one float64 tensor that processes can add up.

    Order: 4 loss terms, 3 label counts, |dE| and dE^2 per atom, |dF| and dF^2 per component.
    """

    SIZE = Loss.N_TERMS + Loss.N_COUNTS + 4

    def __init__(self, values: torch.Tensor | None = None) -> None:
        self.values = torch.zeros(self.SIZE, dtype=torch.float64) if values is None else values

    @staticmethod
    @torch.no_grad()
    def of(prediction: Prediction, item: TrainBatch, terms: torch.Tensor) -> torch.Tensor:
        """Sums of one batch, (SIZE,) float64; unlabelled frames do not count."""
        batch = item.batch
        de = ((prediction.energy - batch.energy) / atoms_per_graph(item))[batch.energy_mask]
        with_forces = batch.forces_mask.index_select(0, batch.graph.graph_index)
        df = (prediction.forces - batch.forces)[with_forces].to(torch.float64)
        errors = [de.abs().sum(), de.square().sum(), df.abs().sum(), df.square().sum()]
        return torch.cat([terms.detach(), count_labels(item), torch.stack(errors)]).cpu()

    def add(self, sums: torch.Tensor) -> None:
        """Add the sums of a batch."""
        self.values += sums

    def errors(self, loss: Loss) -> Errors:
        """Return the means."""
        terms, counts = self.values[: Loss.N_TERMS], self.values[Loss.N_TERMS :][: Loss.N_COUNTS]
        n_energies, n_forces, _ = counts.tolist()
        de, de2, df, df2 = self.values[-4:].tolist()
        nan = float("nan")
        return Errors(
            loss=float(loss.total(terms, counts)),
            energy_mae=de / n_energies if n_energies else nan,
            energy_rmse=(de2 / n_energies) ** 0.5 if n_energies else nan,
            forces_mae=df / n_forces if n_forces else nan,
            forces_rmse=(df2 / n_forces) ** 0.5 if n_forces else nan,
        )
