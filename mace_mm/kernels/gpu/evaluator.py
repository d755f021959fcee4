"""One evaluation on a GPU: about twenty kernels over buffers that are allocated once."""

from typing import Any

import torch

from mace_mm.errors import BackendError, GeometryError, InputError
from mace_mm.kernels.gpu.layout import EXTRA, LayerTables, MatrixTable, make_tables
from mace_mm.kernels.reference import Evaluated

_EDGE_BLOCK = 128
_ATOM_BLOCK = 16
_COLUMNS = 32


def gpu_problem() -> str | None:
    """Why the Triton kernels cannot run here; None if they can."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "the package triton is not installed"
    return None


class GpuEvaluator:
    """A folded network for a fixed list of atoms.

    Neighbors are given from outside and may reach farther than the cutoff; what lies beyond
    contributes exactly nothing, so a list with a skin serves many steps. Atoms may move and the
    cell may change between calls without a new list as long as it covers all pairs in the cutoff.

    Attributes:
        capacity: edges the buffers hold; they grow when a longer list comes.
    """

    def __init__(self, form: torch.Tensor, species: torch.Tensor, device: torch.device) -> None:
        """
        Args:
            form: evaluation form in single precision, uint8.
            species: (n_atoms,) indices into the form's elements.
            device: a CUDA device, or the CPU under Triton's interpreter.

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
        self.species = species.to(device, torch.int64)
        self.capacity = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tiles = self._make_tiles(species.cpu())
        self._allocate_atoms()

    def set_edges(
        self, senders: torch.Tensor, receivers: torch.Tensor, cell_shifts: torch.Tensor
    ) -> None:
        """Take a full list of pairs, sorted by receiver.

        Args:
            senders, receivers: (n_edges,) int64.
            cell_shifts: (n_edges, 3) integers, in units of the lattice vectors.

        Raises:
            InputError: the reverse of an edge is not in the list.
        """
        n_edges = len(senders)
        if n_edges > self.capacity:
            self._allocate_edges(int(1.2 * n_edges) + _EDGE_BLOCK)
        shifts = cell_shifts.to(torch.int64)
        reverse = reverse_edges(senders, receivers, shifts)
        counts = torch.bincount(receivers, minlength=self.n_atoms)
        self.first[1:] = counts.cumsum(0)
        self.n_edges.fill_(n_edges)
        self.senders[:n_edges] = senders
        self.receivers[:n_edges] = receivers
        self.shifts[:n_edges] = shifts.double()
        self.reverse[:n_edges] = reverse

    def evaluate(self, positions: torch.Tensor, cell: torch.Tensor) -> Evaluated:
        """Energy, forces and virial with the present list.

        Args:
            positions: (n_atoms, 3) Å.
            cell: (3, 3) Å, rows; zeros if there is none.

        Raises:
            GeometryError: a result that is not finite.
        """
        self.positions.copy_(positions)
        self.cell.copy_(cell.reshape(3, 3))
        if self.device.type != "cuda":
            self.launch()
        else:
            if self._graph is None:
                self._graph = self._capture()
            self._graph.replay()
        total = self.energy + self.tables.arrays["atomic_energies"][self.species]
        energies = torch.stack([total.sum(), self.energy.sum()])
        if not bool(torch.isfinite(energies).all() & torch.isfinite(self.forces).all()):
            raise GeometryError("positions are not finite, or two atoms lie on top of each other")
        xx, yy, zz, yz, xz, xy = self.virial.sum(0)
        virial = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).view(3, 3)
        return Evaluated(
            energies=energies,
            forces=self.forces.to(positions.dtype),
            virial=virial,
            node_energies=total,
        )

    def launch(self) -> None:
        """Queue all kernels on the current stream; reads and writes only own buffers."""
        self._geometry()
        layers = self.tables.layers
        for i in range(len(layers)):
            self._features(i)
            self._forward(i)
        self._readout()
        for i in reversed(range(len(layers))):
            self._backward(i)
        self._forces()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record the launches once; a step is then one call, whatever the number of kernels."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            self.launch()  # compiles, and settles what cannot be captured
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.launch()
        return graph

    def _make_tiles(self, species: torch.Tensor) -> dict[str, torch.Tensor]:
        """Up to 16 atoms of one element a tile."""
        order = torch.argsort(species, stable=True)
        start, count, kind, at = [], [], [], 0
        for z in range(self.tables.n_species):
            n = int((species == z).sum())
            for offset in range(0, n, 16):
                start.append(at + offset)
                count.append(min(16, n - offset))
                kind.append(z)
            at += n
        values = {"tile_start": start, "tile_count": count, "tile_species": kind}
        tiles = {k: torch.tensor(v, dtype=torch.int64) for k, v in values.items()}
        return {k: v.to(self.device) for k, v in {"order": order, **tiles}.items()}

    def _buffer(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _allocate_atoms(self) -> None:
        t, n, double = self.tables, self.n_atoms, torch.float64
        self.positions, self.cell = (
            self._buffer(n, 3, dtype=double),
            self._buffer(3, 3, dtype=double),
        )
        self.forces, self.virial = (
            self._buffer(n, 3, dtype=double),
            self._buffer(n, 6, dtype=double),
        )
        self.energy = self._buffer(n, dtype=double)
        self.first = self._buffer(n + 1, dtype=torch.int64)
        self.n_edges = self._buffer(1, dtype=torch.int64)
        self.hidden = self._buffer(n, t.width + EXTRA)
        n_lm = (t.l_max + 1) ** 2
        self.features = [
            self.tables.layers[0].up_bias
            if i == 0
            else self._buffer(n, layer.layout.n_inputs, t.channels)
            for i, layer in enumerate(t.layers)
        ]
        self.messages = [self._buffer(n, layer.layout.row, t.channels) for layer in t.layers]
        self.mixed = [self._buffer(n, n_lm, t.channels) for _ in t.layers]
        self.outputs = [self._buffer(n, layer.n_out, t.channels) for layer in t.layers]
        self.d_outputs = [self._buffer(n, layer.n_out, t.channels) for layer in t.layers]
        self.d_mixed = self._buffer(n, n_lm, t.channels)
        self._allocate_edges(_EDGE_BLOCK)

    def _allocate_edges(self, capacity: int) -> None:
        t, double, integer = self.tables, torch.float64, torch.int64
        n_lm = (t.l_max + 1) ** 2
        self.capacity = capacity
        self._graph = None  # it was recorded with the old buffers
        self.senders, self.receivers = (self._buffer(capacity, dtype=integer) for _ in range(2))
        self.reverse, self.knot = (self._buffer(capacity, dtype=integer) for _ in range(2))
        self.source = self._buffer(capacity, dtype=integer)
        self.shifts, self.vector = (self._buffer(capacity, 3, dtype=double) for _ in range(2))
        self.direction, self.fraction = self._buffer(capacity, 3), self._buffer(capacity)
        self.Y, self.dY = self._buffer(capacity, n_lm), self._buffer(capacity, n_lm, 3)
        self.pair_energy, self.pair_slope = (self._buffer(capacity, dtype=double) for _ in range(2))
        self.n_parts = len(t.layers) * (t.channels // t.block)
        self.gradient = self._buffer(capacity, self.n_parts, 3)
        widest = max([layer.layout.n_inputs for layer in t.layers[1:]], default=0)
        self.d_sent = self._buffer(capacity if widest else 0, widest, t.channels)

    def _geometry(self) -> None:
        from mace_mm.kernels.gpu.kernels import geometry

        t, a = self.tables, self.tables.arrays
        geometry[(-(-self.capacity // _EDGE_BLOCK),)](
            self.positions, self.cell, self.senders, self.receivers, self.shifts, self.species,
            a["pair_table"], self.n_edges, a["repulsion_pairs"], a["repulsion_shape"],
            self.vector, self.direction, self.knot, self.fraction, self.Y, self.dY,
            self.pair_energy, self.pair_slope,
            N_SPECIES=t.n_species, N_BINS=t.n_bins, R_MAX=t.r_max, L_MAX=t.l_max,
            REPULSION=t.has_repulsion, BLOCK=_EDGE_BLOCK,
        )  # fmt: skip
        # The first layer's features depend on the sender's element alone.
        torch.index_select(self.species, 0, self.senders, out=self.source)

    def _matmul(
        self, table: MatrixTable, x: torch.Tensor, out: torch.Tensor, *,
        add: bool = False, bias: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        from mace_mm.kernels.gpu.kernels import species_matmul

        tiles = self._tiles
        grid = (len(tiles["tile_start"]), len(table.meta), -(-table.width // _COLUMNS))
        species_matmul[grid](
            x, table.weights, out, tiles["order"], tiles["tile_start"], tiles["tile_count"],
            tiles["tile_species"], table.meta, x[0].numel(), out[0].numel(),
            ADD=add, BIAS=bias is not None, bias=table.weights if bias is None else bias,
            BLOCK_N=_COLUMNS, BLOCK_K=16,
        )  # fmt: skip

    def _features(self, i: int) -> None:
        layer = self.tables.layers[i]
        for j, table in enumerate(layer.up):
            bias = layer.up_bias if j == 0 else None
            self._matmul(table, self.outputs[j], self.features[i], add=j > 0, bias=bias)

    def _edge_arguments(self, i: int) -> tuple[torch.Tensor, ...]:
        source = self.source if i == 0 else self.senders
        return self.first, source, self.knot, self.fraction, self.Y

    def _forward(self, i: int) -> None:
        t, layer = self.tables, self.tables.layers[i]
        sizes = {"C": t.channels, "BLOCK": t.block}
        grid = (self.n_atoms, t.channels // t.block)
        layer.kernels.convolution_forward[grid](
            *self._edge_arguments(i), self.features[i], layer.radial, self.messages[i], **sizes
        )
        self._matmul(layer.linear, self.messages[i], self.mixed[i])
        for degree, contraction in enumerate(layer.contractions):
            contraction.contraction_forward[grid](
                self.mixed[i], self.species, layer.polynomials[degree], self.outputs[i],
                layer.n_out, degree**2, **sizes,
            )  # fmt: skip

    def _readout(self) -> None:
        from mace_mm.kernels.gpu.kernels import readout

        t, a = self.tables, self.tables.arrays
        for i, layer in enumerate(t.layers):
            bias = a["readout_bias"] if i == 0 else None
            self._matmul(layer.readout, self.outputs[i], self.hidden, add=i > 0, bias=bias)
        padded = 1 << (t.width + EXTRA - 1).bit_length()
        readout[(-(-self.n_atoms // _ATOM_BLOCK),)](
            self.hidden, a["readout_out"], a["node_constant"], self.species, self.energy,
            self.n_atoms, WIDTH=t.width, PADDED=padded, BLOCK=_ATOM_BLOCK,
        )  # fmt: skip
        for i, layer in enumerate(t.layers):
            self.d_outputs[i].zero_()
            self._matmul(layer.readout_back, self.hidden, self.d_outputs[i])

    def _backward(self, i: int) -> None:
        t, layer = self.tables, self.tables.layers[i]
        sizes = {"C": t.channels, "BLOCK": t.block}
        n_blocks = t.channels // t.block
        grid = (self.n_atoms, n_blocks)
        for degree, contraction in enumerate(layer.contractions):
            contraction.contraction_backward[grid](
                self.mixed[i], self.species, layer.polynomials[degree], self.d_outputs[i],
                layer.n_out, degree**2, self.d_mixed, FIRST=degree == 0, **sizes,
            )  # fmt: skip
        # The messages are not needed any more: their gradient takes their place.
        self._matmul(layer.linear_back, self.d_mixed, self.messages[i])
        layer.kernels.convolution_backward[grid](
            *self._edge_arguments(i), self.dY, self.direction, self.features[i], layer.radial,
            self.messages[i], self.gradient[:, i * n_blocks :], self.d_sent,
            STRIDE=self.n_parts, **sizes,
        )  # fmt: skip
        if i > 0:
            self._backward_features(i, layer)

    def _backward_features(self, i: int, layer: LayerTables) -> None:
        from mace_mm.kernels.gpu.kernels import gather_features

        row = self.features[i][0].numel()
        block = 128
        gather_features[(self.n_atoms, -(-row // block))](
            self.first, self.reverse, self.d_sent, self.features[i], ROW=row, BLOCK=block
        )
        for j, table in enumerate(layer.up_back):
            self._matmul(table, self.features[i], self.d_outputs[j], add=True)

    def _forces(self) -> None:
        from mace_mm.kernels.gpu.kernels import forces_and_virial

        arguments: list[Any] = [
            self.first, self.reverse, self.vector, self.gradient, self.pair_energy,
            self.pair_slope, self.energy, self.forces, self.virial,
        ]  # fmt: skip
        forces_and_virial[(self.n_atoms,)](
            *arguments,
            N_PARTS=self.n_parts,
            PARTS=1 << (self.n_parts - 1).bit_length(),
            REPULSION=self.tables.has_repulsion,
        )


def reverse_edges(
    senders: torch.Tensor, receivers: torch.Tensor, shifts: torch.Tensor
) -> torch.Tensor:
    """For each edge (j -> i, S) the index of (i -> j, -S).

    Raises:
        InputError: the list is not sorted by receiver, or lacks the reverse of an edge.
    """
    if not len(senders):
        return torch.zeros(0, dtype=torch.int64, device=senders.device)
    if bool((receivers[1:] < receivers[:-1]).any()):
        raise InputError("edges must be sorted by receiver")
    span = 2 * int(shifts.abs().max()) + 1
    n = int(torch.maximum(senders.max(), receivers.max())) + 1

    def key(a: torch.Tensor, b: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        code = s + span // 2
        return (((a * n + b) * span + code[:, 0]) * span + code[:, 1]) * span + code[:, 2]

    own, other = key(receivers, senders, shifts), key(senders, receivers, -shifts)
    by_own, by_other = torch.argsort(own), torch.argsort(other)
    if not torch.equal(own[by_own], other[by_other]):
        raise InputError("a full list of edges is needed: the reverse of some edge is missing")
    reverse = torch.empty_like(by_own)
    reverse[by_other] = by_own
    return reverse
