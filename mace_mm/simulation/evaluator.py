"""The one evaluator that OpenMM and ASE call: positions in, energies and forces out."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from mace_mm.deploy.archive import Archive
from mace_mm.elements import species_index
from mace_mm.errors import BackendError, GeometryError, InputError
from mace_mm.graph.graph import Graph
from mace_mm.graph.verlet import VerletList
from mace_mm.model.potential import Potential, Prediction

ENGINES = ("auto", "reference")
PRECISIONS = {"single": torch.float32, "double": torch.float64}
DEFAULT_SKIN = 1.0


class Evaluator(nn.Module):
    """A potential for a fixed list of atoms, with its own neighbor list. TorchScript compiles it.

    Geometry (neighbors, edge vectors) is done in the dtype of the positions, the network in that of
    the weights.
    """

    species: torch.Tensor
    graph_index: torch.Tensor

    def __init__(self, potential: Potential, species: torch.Tensor, skin: float) -> None:
        """
        Args:
            potential: of one head, in evaluation mode, in the dtype to compute with.
            species: (n_atoms,) int64, index into the model's elements.
            skin: of the neighbor list, Å.
        """
        super().__init__()
        self.potential = potential
        self.neighbors = VerletList(potential.network.config.r_max, skin)
        self.register_buffer("species", species)
        self.register_buffer("graph_index", torch.zeros_like(species))

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
                an energy that is not finite (inside ``torch.jit.Error`` when compiled).
        """
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
        with_gradients = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        prediction = self.potential(graph)
        torch.set_grad_enabled(with_gradients)
        if not bool(torch.isfinite(prediction.energy).all()):
            raise GeometryError("the energy of these positions is not a finite number")
        return prediction


def build_evaluator(
    archive: Archive,
    atomic_numbers: Sequence[int],
    *,
    precision: str = "single",
    engine: str = "auto",
    skin: float = DEFAULT_SKIN,
    device: str | torch.device = "cpu",
) -> Evaluator:
    """Build the evaluator of some atoms.

    Args:
        archive: the model; left as it is.
        atomic_numbers: (n_atoms,) in the order of the positions to come.
        precision: "single" or "double", of the network.
        engine: "reference" (plain torch) or "auto" (the fastest one present).
        skin: extra radius of the neighbor list, Å.
        device: where to compute.

    Raises:
        InputError: no atoms.
        ElementError: an element the model does not know.
        BackendError: unknown precision or engine, a device that is not there.
    """
    if not len(atomic_numbers):
        raise InputError("at least one atom is needed, got an empty list")
    if precision not in PRECISIONS:
        raise BackendError(f"precision must be 'single' or 'double', got {precision!r}")
    if engine not in ENGINES:
        raise BackendError(f"engine must be one of {ENGINES}, got {engine!r}")
    target = checked_device(device)
    species = torch.tensor(species_index(atomic_numbers, archive.config.atomic_numbers))
    potential = copy.deepcopy(archive.potential).to(PRECISIONS[precision])
    return Evaluator(potential, species, skin).to(target).eval()


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device to compute on; None means the GPU where there is one.

    Raises:
        BackendError: not a device, or not present.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BackendError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise BackendError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if chosen.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= n_devices:
            raise BackendError(f"device {device!r} was asked for, torch sees {n_devices} GPUs")
    return chosen
