"""The launches of one evaluation, in order."""

import torch

from mace_mm.kernels.gpu.buffers import AtomBuffers, EdgeBuffers
from mace_mm.kernels.gpu.layout import MatrixTable, Tables

EDGE_BLOCK = 32
_ATOM_BLOCK = 16
_COLUMNS = 32
_MANY_ATOMS = 4000  # from here on, larger tiles of matrices


class Step:
    """Launches the kernels for a fixed list of atoms; allocates nothing."""

    def __init__(
        self, tables: Tables, species: torch.Tensor, atoms: AtomBuffers, splits: int, products: str
    ) -> None:
        """
        Args:
            tables: constants of the network.
            species: (n_atoms,) indices into its elements.
            atoms: memory.
            splits: so many programs share the edges of an atom.
            products: how matrices are multiplied, see `GpuEvaluator`.
        """
        device = atoms.inputs.device
        self.tables = tables
        self.atoms = atoms
        self.splits = splits
        self.products = products
        self.n_atoms = len(species)
        self.species = species.to(device, torch.int64)
        self.isolated = tables.arrays["atomic_energies"][self.species]
        self.rows = 64 if self.n_atoms >= _MANY_ATOMS else 16
        self._tiles = self._make_tiles(species.cpu())

    def launch(self, edges: EdgeBuffers) -> None:
        """Queue all kernels on the current stream; reads and writes only the buffers."""
        layers = range(len(self.tables.layers))
        self._geometry(edges)
        for i in layers:
            self._features(i)
            self._forward(i, edges)
        self._readout()
        for i in reversed(layers):
            self._backward(i, edges)
        self._collect(edges)

    def _geometry(self, edges: EdgeBuffers) -> None:
        from mace_mm.kernels.gpu.geometry import geometry

        t, a, atoms = self.tables, self.tables.arrays, self.atoms
        geometry[(self.n_atoms,)](
            atoms.positions, atoms.cell, atoms.anchor, atoms.first, atoms.last,
            edges.senders, edges.shifts, edges.reverse, self.species, a["pair_table"],
            a["repulsion_pairs"], a["repulsion_shape"],
            edges.place, edges.near_sender, edges.near_species, edges.near_reverse, edges.vector,
            edges.direction, edges.knot, edges.fraction, edges.Y, edges.dY,
            edges.pair_energy, edges.pair_slope, atoms.extremes,
            N_SPECIES=t.n_species, N_BINS=t.n_bins, R_MAX=t.r_max, L_MAX=t.l_max,
            REPULSION=t.has_repulsion, BLOCK=EDGE_BLOCK, num_warps=1,
        )  # fmt: skip

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
            ROWS=self.rows, BLOCK_N=_COLUMNS, BLOCK_K=table.step, PRECISION=self.products,
            num_warps=4,
        )  # fmt: skip

    def _features(self, i: int) -> None:
        layer = self.tables.layers[i]
        for j, table in enumerate(layer.up):
            bias = layer.up_bias if j == 0 else None
            self._matmul(table, self.atoms.outputs[j], self.atoms.features[i], add=j > 0, bias=bias)

    def _edge_arguments(self, i: int, edges: EdgeBuffers) -> tuple[torch.Tensor, ...]:
        source = edges.near_species if i == 0 else edges.near_sender
        return self.atoms.first, self.atoms.last, source, edges.knot, edges.fraction, edges.Y

    def _forward(self, i: int, edges: EdgeBuffers) -> None:
        t, layer, atoms = self.tables, self.tables.layers[i], self.atoms
        sizes = {"C": t.channels, "BLOCK": t.block, "num_warps": 1}
        parts = atoms.partial[i]
        layer.kernels.convolution_forward[(self.n_atoms, self.tables.n_blocks, self.splits)](
            *self._edge_arguments(i, edges), atoms.features[i], layer.radial, parts,
            **sizes,
        )  # fmt: skip
        if self.splits > 1:
            torch.sum(parts, 0, out=atoms.messages[i])
        self._matmul(layer.linear, atoms.messages[i], atoms.mixed[i])
        for degree, contraction in enumerate(layer.contractions):
            contraction.contraction_forward[(self.n_atoms, self.tables.n_blocks)](
                atoms.mixed[i], self.species, layer.polynomials[degree], atoms.outputs[i],
                layer.n_out, degree**2, **sizes,
            )  # fmt: skip

    def _readout(self) -> None:
        from mace_mm.kernels.gpu.kernels import readout

        t, a, atoms = self.tables, self.tables.arrays, self.atoms
        for i, layer in enumerate(t.layers):
            bias = a["readout_bias"] if i == 0 else None
            self._matmul(layer.readout, atoms.outputs[i], atoms.hidden, add=i > 0, bias=bias)
        padded = 1 << (atoms.hidden.size(1) - 1).bit_length()
        readout[(-(-self.n_atoms // _ATOM_BLOCK),)](
            atoms.hidden, a["readout_out"], a["node_constant"], self.species, atoms.energy,
            self.n_atoms, WIDTH=t.width, PADDED=padded, BLOCK=_ATOM_BLOCK,
        )  # fmt: skip
        for i, layer in enumerate(t.layers):
            if layer.n_out > 1:
                atoms.d_outputs[i].zero_()
            self._matmul(layer.readout_back, atoms.hidden, atoms.d_outputs[i])

    def _backward(self, i: int, edges: EdgeBuffers) -> None:
        t, layer, atoms = self.tables, self.tables.layers[i], self.atoms
        sizes = {"C": t.channels, "BLOCK": t.block, "num_warps": 1}
        for degree, contraction in enumerate(layer.contractions):
            contraction.contraction_backward[(self.n_atoms, self.tables.n_blocks)](
                atoms.mixed[i], self.species, layer.polynomials[degree], atoms.d_outputs[i],
                layer.n_out, degree**2, atoms.d_mixed, FIRST=degree == 0, **sizes,
            )  # fmt: skip
        # The messages are not needed any more: their gradient takes their place.
        self._matmul(layer.linear_back, atoms.d_mixed, atoms.messages[i])
        layer.kernels.convolution_backward[(self.n_atoms, self.tables.n_blocks, self.splits)](
            *self._edge_arguments(i, edges), edges.dY, edges.direction, atoms.features[i],
            layer.radial, atoms.messages[i], edges.gradient[:, i * self.tables.n_blocks :],
            edges.d_sent, STRIDE=edges.n_parts, **sizes,
        )  # fmt: skip
        if i > 0:
            self._backward_features(i, edges)

    def _backward_features(self, i: int, edges: EdgeBuffers) -> None:
        from mace_mm.kernels.gpu.kernels import gather_features

        atoms = self.atoms
        row = atoms.features[i][0].numel()
        block = 128
        gather_features[(self.n_atoms, -(-row // block))](
            atoms.first, atoms.last, edges.near_reverse, edges.place, edges.d_sent,
            atoms.features[i], ROW=row, BLOCK=block, num_warps=1,
        )  # fmt: skip
        for j, table in enumerate(self.tables.layers[i].up_back):
            self._matmul(table, atoms.features[i], atoms.d_outputs[j], add=True)

    def _collect(self, edges: EdgeBuffers) -> None:
        from mace_mm.kernels.gpu.kernels import forces_and_virial

        atoms = self.atoms
        forces_and_virial[(self.n_atoms,)](
            atoms.first, atoms.last, edges.near_reverse, edges.place, edges.vector,
            edges.gradient, edges.pair_energy, edges.pair_slope, atoms.energy, self.isolated,
            atoms.forces, atoms.nodes, atoms.sums,
            N_PARTS=edges.n_parts, REPULSION=self.tables.has_repulsion, BLOCK=EDGE_BLOCK,
            num_warps=1,
        )  # fmt: skip
        torch.sum(atoms.sums, 0, out=atoms.results[:8])
        torch.amax(atoms.extremes, 0, out=atoms.results[8:10])

    def _make_tiles(self, species: torch.Tensor) -> dict[str, torch.Tensor]:
        """Up to `rows` atoms of one element a tile."""
        order = torch.argsort(species, stable=True)
        start, count, kind, at = [], [], [], 0
        for z in range(self.tables.n_species):
            n = int((species == z).sum())
            for offset in range(0, n, self.rows):
                start.append(at + offset)
                count.append(min(self.rows, n - offset))
                kind.append(z)
            at += n
        values = {"tile_start": start, "tile_count": count, "tile_species": kind}
        tiles = {k: torch.tensor(v, dtype=torch.int64) for k, v in values.items()}
        device = self.species.device
        return {k: v.to(device) for k, v in {"order": order, **tiles}.items()}
