"""One evaluation on a GPU: about 25 kernels over buffers that are allocated once."""

import importlib.util
import math
from typing import NamedTuple

import torch

from mace_mm.errors import BackendError, InputError
from mace_mm.kernels.gpu.buffers import SUMMARY, AtomBuffers, EdgeBuffers
from mace_mm.kernels.gpu.edges import reverse_edges
from mace_mm.kernels.gpu.layout import make_tables
from mace_mm.kernels.gpu.step import EDGE_BLOCK, Step
from mace_mm.kernels.reference import Evaluated

_PROGRAMS = 4096  # so many fill a GPU; fewer atoms split their edges over several programs
_MOST_SPLITS = 16


class GpuResult(NamedTuple):
    """One evaluation, and what decides whether its list of edges was good.

    Attributes:
        evaluated: as of `mace_mm.kernels.reference.evaluate`, on the positions' device.
        moved: Å, farthest that an atom is from where it was when the list was made.
        closest: Å, shortest distance in the list.
        finite: whether energies, virial and positions are numbers.
    """

    evaluated: Evaluated
    moved: float
    closest: float
    finite: bool


def gpu_problem() -> str | None:
    """Why the Triton kernels cannot run here; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


class GpuEvaluator:
    """A folded network for a fixed list of atoms.

    Neighbors are given from outside and may reach farther than the cutoff; what lies beyond is
    skipped, so a list with a skin serves many steps. Atoms may move and the cell may change between
    calls without a new list as long as it covers all pairs in the cutoff.

    Attributes:
        capacity: edges the buffers hold; they grow when a longer list comes.
    """

    def __init__(
        self,
        form: torch.Tensor,
        species: torch.Tensor,
        device: torch.device,
        *,
        products: str = "ieee",
    ) -> None:
        """
        Args:
            form: evaluation form in single precision, uint8.
            species: (n_atoms,) indices into the form's elements.
            device: a CUDA device, or the CPU under Triton's interpreter.
            products: how matrices are multiplied, "ieee" or "tf32x3" (tensor cores, three
                products of rounded parts).

        Raises:
            BackendError: no Triton, or a form in double precision.
            InputError: no atoms, or a species that the form lacks.
        """
        problem = gpu_problem()
        if problem is not None:
            raise BackendError(f"the GPU engine needs Triton, but {problem}")
        self.tables = make_tables(form, device)
        n_species = self.tables.n_species
        if not len(species) or int(species.min()) < 0 or int(species.max()) >= n_species:
            raise InputError(f"species must lie in 0 to {n_species - 1} and be at least one")
        self.device = device
        self.n_atoms = len(species)
        splits = 2  # the interpreter pays for each program
        if device.type == "cuda":
            wanted = _PROGRAMS // (self.n_atoms * self.tables.n_blocks)
            splits = min(_MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))
        self.atoms = AtomBuffers(self.tables, self.n_atoms, splits, device)
        self.capacity = EDGE_BLOCK
        self.edges = EdgeBuffers(self.tables, self.capacity, device)
        self._step = Step(self.tables, species, self.atoms, splits, products)
        self._graph: torch.cuda.CUDAGraph | None = None

    def set_edges(
        self,
        senders: torch.Tensor,
        receivers: torch.Tensor,
        cell_shifts: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """Take a full list of pairs, sorted by receiver.

        Args:
            senders, receivers: (n_edges,) int64.
            cell_shifts: (n_edges, 3) integers, in units of the lattice vectors.
            positions: (n_atoms, 3) Å, that the list was made for.

        Raises:
            InputError: the reverse of an edge is not in the list.
        """
        n_edges = len(senders)
        if n_edges > self.capacity:
            self._graph = None  # it was recorded with the old buffers
            del self.edges
            self.capacity = int(1.2 * n_edges) + EDGE_BLOCK
            self.edges = EdgeBuffers(self.tables, self.capacity, self.device)
        shifts = cell_shifts.to(torch.int64)
        reverse = reverse_edges(senders, receivers, shifts)
        counts = torch.bincount(receivers, minlength=self.n_atoms)
        self.atoms.first[1:] = counts.cumsum(0)
        self.edges.senders[:n_edges] = senders
        self.edges.shifts[:n_edges] = shifts.double()
        self.edges.reverse[:n_edges] = reverse
        self.set_anchor(positions)

    def set_anchor(self, positions: torch.Tensor) -> None:
        """Say where the atoms would be had they only followed the cell since the list was made."""
        self.atoms.anchor.copy_(positions)

    def evaluate(self, positions: torch.Tensor, cell: torch.Tensor) -> GpuResult:
        """Energy, forces and virial with the present list.

        Args:
            positions: (n_atoms, 3) Å; on the CPU the results come in one copy.
            cell: (3, 3) Å, rows, on the same device; zeros if there is none.
        """
        inputs = torch.cat([positions.detach().double(), cell.detach().double().view(3, 3)])
        self.atoms.inputs.copy_(inputs)
        self._run()
        kept = self.atoms.results
        kept = kept.clone() if kept.device == positions.device else kept.to(positions.device)
        head = kept[:SUMMARY].tolist()
        energy, interaction, xx, yy, zz, yz, xz, xy, moved, near = head[:10]
        n, double = self.n_atoms, {"dtype": torch.float64, "device": positions.device}
        evaluated = Evaluated(
            energies=torch.tensor([energy, interaction], **double),
            forces=kept[SUMMARY : SUMMARY + 3 * n].view(n, 3).to(positions.dtype),
            virial=torch.tensor([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], **double),
            node_energies=kept[SUMMARY + 3 * n :],
        )
        return GpuResult(
            evaluated=evaluated,
            moved=math.sqrt(moved) if moved >= 0 else math.nan,
            closest=math.sqrt(-near) if near <= 0 else math.nan,
            finite=all(math.isfinite(x) for x in head),
        )

    def _run(self) -> None:
        if self.device.type != "cuda":
            self._step.launch(self.edges)
            return
        with torch.cuda.device(self.device):
            if self._graph is None:
                self._graph = self._capture()
            self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record the launches once; a step is then one call, whatever the number of kernels."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            self._step.launch(self.edges)  # compiles, and settles what cannot be captured
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # OpenMM may use the device from another thread meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step.launch(self.edges)
        return graph
