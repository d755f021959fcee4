"""The operator ``mace_mm::energy_forces`` on a GPU: neighbors, memory, and the Triton kernels.

Importing this module registers it. TorchScript and openmm-torch call it as they call the CPU's.
"""

import threading
from collections import OrderedDict
from typing import NamedTuple

import torch

from mace_mm.errors import GeometryError
from mace_mm.graph.cell_list import full_neighbor_list
from mace_mm.kernels import ops
from mace_mm.kernels.gpu.evaluator import GpuEvaluator
from mace_mm.kernels.reference import Evaluated

_COINCIDENT = 1e-3  # Å
_FEW_ATOMS = 256  # up to here a list is faster made on the CPU than by many small launches
_MOST_CONTEXTS = 32


class GpuContext:
    """A model with its neighbor list and memory on a GPU, for one caller at a time.

    The list is wider than the cutoff by a skin, and exact whatever is asked: the kernels measure
    how far the atoms have moved from where they would be had they only followed the cell, and a
    step that went too far is repeated with a new list. The bound is that of
    `mace_mm.graph.verlet.VerletList`.

    Attributes:
        n_builds: how often the list was built.
    """

    def __init__(self, model: torch.Tensor, species: torch.Tensor, device: torch.device) -> None:
        """
        Args:
            model: evaluation form in single precision.
            species: (n_atoms,) index into the form's elements.
            device: a GPU; the CPU under Triton's interpreter.

        Raises:
            BackendError: no Triton, or a form in double precision.
            InputError: no atoms, or a species that the form lacks.
        """
        self.n_builds = 0
        self._engine = GpuEvaluator(model, species, device)
        self._device = device
        self._cutoff = self._engine.tables.r_max
        self._skin = -1.0  # no list yet
        self._limit = 0.0
        self._listed = torch.zeros(0)  # positions, the cell and the edges of the list
        self._listed_cell = self._anchored_cell = torch.zeros(3, 3, dtype=torch.float64)
        self._edges: tuple[torch.Tensor, ...] = ()

    def evaluate(self, positions: torch.Tensor, cell: torch.Tensor, skin: float) -> Evaluated:
        """Evaluate one system; arguments as `mace_mm.kernels.ops.energy_forces`.

        Raises:
            GeometryError: positions not finite, coincident atoms, a periodic cell without volume,
                an energy that is not finite.
        """
        x = positions.detach()
        box = torch.zeros(3, 3, dtype=torch.float64, device=x.device)
        if cell.numel():
            box = cell.detach().to(x.device, torch.float64).reshape(3, 3)
        host_box = box.cpu()
        limit = self._reach(host_box, skin)
        result = None if limit is None else self._engine.evaluate(x, box)
        # Written so that NaN counts as moved.
        if result is None or limit is None or not result.moved <= limit:
            self._build(x.double(), host_box, skin)
            result = self._engine.evaluate(x, box)
        if result.closest < _COINCIDENT:
            raise GeometryError(self._coincident(x.double(), box))
        if not result.finite:
            raise GeometryError("the energy of these positions is not a finite number")
        return result.evaluated

    def _reach(self, cell: torch.Tensor, skin: float) -> float | None:
        """How far atoms may have moved with the present list, Å; None if a new one is needed."""
        if skin != self._skin:
            return None
        if torch.equal(cell, self._anchored_cell):
            return self._limit
        if not bool((cell != 0).any(1).all() & (self._listed_cell != 0).any(1).all()):
            return None
        deformation = torch.linalg.solve(self._listed_cell, cell)
        stretch = 1.0 - float((deformation - torch.eye(3, dtype=cell.dtype)).norm())
        limit = 0.5 * (stretch * (self._cutoff + skin) - self._cutoff)
        if not limit > 0:
            return None
        self._engine.set_anchor(self._listed @ deformation.to(self._device))
        self._anchored_cell, self._limit = cell, limit
        return limit

    def _build(self, positions: torch.Tensor, cell: torch.Tensor, skin: float) -> None:
        self._skin = -1.0  # whatever fails below: there is no list then
        place = torch.device("cpu") if len(positions) <= _FEW_ATOMS else self._device
        periodic = (cell != 0).any(1)
        found = full_neighbor_list(
            positions.to(place), cell.to(place), periodic.to(place), self._cutoff + skin
        )
        self._edges = tuple(part.to(self._device) for part in found)
        self._listed = positions.to(self._device, copy=True)
        senders, receivers, shifts = self._edges
        self._engine.set_edges(senders, receivers, shifts, self._listed)
        self._listed_cell = self._anchored_cell = cell.clone()
        self._skin, self._limit = skin, 0.5 * skin
        self.n_builds += 1

    def _coincident(self, positions: torch.Tensor, cell: torch.Tensor) -> str:
        senders, receivers, shifts = (part.to(positions.device) for part in self._edges)
        vectors = positions[receivers] - positions[senders] + shifts.double() @ cell
        distances = torch.linalg.vector_norm(vectors, dim=1)
        pair = int(distances.argmin())
        return (
            f"atoms {int(senders[pair])} and {int(receivers[pair])} coincide: "
            f"{float(distances[pair])} Å apart"
        )


class _Kept(NamedTuple):
    """A context, the tensors whose addresses name it, so that none is used again, and how often
    each had been written to."""

    context: GpuContext
    lock: threading.Lock
    named_by: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]


_contexts: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()
_contexts_lock = threading.Lock()


def _context(model: torch.Tensor, species: torch.Tensor, state: torch.Tensor) -> _Kept:
    named_by = (state, model, species)
    key = tuple(t.data_ptr() for t in named_by)
    versions = tuple(0 if t.is_inference() else t._version for t in named_by)
    with _contexts_lock:
        kept = _contexts.pop(key, None)
        if kept is None or kept.versions != versions:
            if len(_contexts) >= _MOST_CONTEXTS:
                _contexts.popitem(last=False)
            context = GpuContext(model, species, species.device)
            kept = _Kept(context, threading.Lock(), named_by, versions)
        _contexts[key] = kept
        return kept


def forget(address: int) -> None:
    """Drop what is kept for the state at an address. Without the lock: finalizers call it."""
    for key in [key for key in list(_contexts) if key[0] == address]:
        _contexts.pop(key, None)


def _evaluate(
    positions: torch.Tensor,
    cell: torch.Tensor,
    species: torch.Tensor,
    model: torch.Tensor,
    state: torch.Tensor,
    skin: float,
) -> Evaluated:
    kept = _context(model, species, state)
    with kept.lock:
        return kept.context.evaluate(positions, cell, skin)


def energy_forces(
    positions: torch.Tensor,
    species: torch.Tensor,
    cell: torch.Tensor,
    model: torch.Tensor,
    state: torch.Tensor,
    skin: float = ops.DEFAULT_SKIN,
    threads: int = 0,
    length: float = 1.0,
    energy: float = 1.0,
) -> tuple[torch.Tensor, ...]:
    """The operator on a GPU, see `mace_mm.kernels.ops.energy_forces`.

    Positions and cell may be on the CPU: the results then are, too.

    Raises:
        RuntimeError: as the CPU engine, with the reason of a `GeometryError` or of a failure.
    """
    x, box = positions.detach().double() * length, cell.detach().double() * length
    try:
        try:
            found = _evaluate(x, box, species, model, state, skin)
        except torch.OutOfMemoryError:
            # Contexts of evaluators that are gone are still held here.
            with _contexts_lock:
                _contexts.clear()
            torch.cuda.empty_cache()
            found = _evaluate(x, box, species, model, state, skin)
    except torch.OutOfMemoryError:
        raise RuntimeError(
            f"mace_mm::energy_forces failed: not enough memory on the GPU for {len(x)} atoms"
        ) from None
    except GeometryError as problem:
        raise RuntimeError(f"mace_mm::energy_forces: {problem}") from None
    return (
        found.energies * energy,
        found.forces.to(positions.dtype) * (energy * length),
        found.virial * energy,
        found.node_energies * energy,
    )


ops.implement("CUDA", energy_forces, forget)
