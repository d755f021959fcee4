"""Memory of the GPU engine: allocated once, so that a recorded graph of launches stays valid."""

import torch

from mace_mm.kernels.gpu.layout import EXTRA, Tables

SUMMARY = 16  # numbers in front of the results; see `AtomBuffers`


class AtomBuffers:
    """What has one row an atom, and the results.

    Attributes:
        inputs: (n_atoms + 3, 3) float64 Å, positions and then the cell; `positions`, `cell` look
            into it, so that one copy brings both.
        anchor: (n_atoms, 3) float64 Å, positions that the list of edges was made for.
        results: float64: energy, interaction energy, virial (xx, yy, zz, yz, xz, xy), largest
            squared distance from the anchor, minus the smallest squared distance of two atoms,
            zeros; then forces and node energies, which `forces`, `nodes` look into.
        partial: messages, (splits, ...), one part for each program that shares an atom.
        sums, extremes: of each atom, what the first ten results are sums and maxima of.
    """

    def __init__(self, tables: Tables, n_atoms: int, splits: int, device: torch.device) -> None:
        n, channels, double, integer = n_atoms, tables.channels, torch.float64, torch.int64
        n_lm = (tables.l_max + 1) ** 2

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.inputs = empty(n + 3, 3, dtype=double)
        self.positions, self.cell = self.inputs[:n], self.inputs[n:]
        self.anchor = empty(n, 3, dtype=double)
        self.results = empty(SUMMARY + 4 * n, dtype=double)
        self.forces = self.results[SUMMARY : SUMMARY + 3 * n].view(n, 3)
        self.nodes = self.results[SUMMARY + 3 * n :]
        self.energy = empty(n, dtype=double)
        self.sums, self.extremes = empty(n, 8, dtype=double), empty(n, 2, dtype=double)
        self.first, self.last = empty(n + 1, dtype=integer), empty(n, dtype=integer)
        self.hidden = empty(n, tables.width + EXTRA)
        # The first layer's features depend on the element alone.
        self.features = [tables.layers[0].up_bias]
        for layer in tables.layers[1:]:
            self.features.append(empty(n, layer.layout.n_inputs, channels))
        self.messages = [empty(n, layer.layout.row, channels) for layer in tables.layers]
        self.partial = self.messages
        if splits > 1:
            self.partial = [empty(splits, n, layer.layout.row, channels) for layer in tables.layers]
        self.mixed = [empty(n, n_lm, channels) for _ in tables.layers]
        self.outputs = [empty(n, layer.n_out, channels) for layer in tables.layers]
        self.d_outputs = [empty(n, layer.n_out, channels) for layer in tables.layers]
        self.d_mixed = empty(n, n_lm, channels)


class EdgeBuffers:
    """What has one row an edge.

    Attributes:
        senders, shifts, reverse: the list as it was given.
        place: where an edge of the list went among those within the cutoff.
        near_sender, near_species, near_reverse: sender, its element, and the place in the given
            list of the reverse, of the edges within the cutoff; so are all that follow.
        gradient: (capacity, n_parts, 3), a part for each layer and block of channels.
        d_sent: gradient of the sender's features, of one layer at a time.
    """

    def __init__(self, tables: Tables, capacity: int, device: torch.device) -> None:
        double, integer = torch.float64, torch.int64
        n_lm = (tables.l_max + 1) ** 2

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(capacity, *shape, dtype=dtype, device=device)

        self.senders, self.reverse, self.place = (empty(dtype=integer) for _ in range(3))
        self.shifts, self.vector = empty(3, dtype=double), empty(3, dtype=double)
        self.near_sender, self.near_species = empty(dtype=integer), empty(dtype=integer)
        self.near_reverse, self.knot = empty(dtype=integer), empty(dtype=integer)
        self.direction, self.fraction = empty(3), empty()
        self.Y, self.dY = empty(n_lm), empty(n_lm, 3)
        self.pair_energy, self.pair_slope = empty(dtype=double), empty(dtype=double)
        self.n_parts = len(tables.layers) * tables.n_blocks
        self.gradient = empty(self.n_parts, 3)
        self.d_sent = self.vector
        widest = max([layer.layout.n_inputs for layer in tables.layers[1:]], default=0)
        if widest:
            self.d_sent = empty(widest, tables.channels)
