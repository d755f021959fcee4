"""From the evaluation form to the arrays and tables that the GPU kernels read."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from mace_mm.errors import BackendError
from mace_mm.kernels.evaluation_form import unpack
from mace_mm.kernels.gpu.contraction_source import contraction_backward, contraction_forward
from mace_mm.kernels.gpu.source import (
    HEADER,
    ConvolutionLayout,
    compiled,
    convolution_backward,
    convolution_forward,
)

EXTRA = 16  # columns after the readout's hidden layer: the linear readouts, padded


@dataclass(kw_only=True)
class MatrixTable:
    """Matrices of one product, end to end, and where each component finds its own.

    Attributes:
        weights: flat float32.
        meta: (n_components, 6) int64, see `kernels.species_matmul`.
        width: largest number of columns.
        step: numbers of the inner sum that are taken at once.
    """

    weights: torch.Tensor
    meta: torch.Tensor
    width: int
    step: int


@dataclass(kw_only=True)
class LayerTables:
    """What one layer needs; see `Tables`."""

    layout: ConvolutionLayout
    kernels: SimpleNamespace
    contractions: list[SimpleNamespace]
    polynomials: list[torch.Tensor]
    radial: torch.Tensor
    linear: MatrixTable
    linear_back: MatrixTable
    up: list[MatrixTable]
    up_back: list[MatrixTable]
    up_bias: torch.Tensor
    readout: MatrixTable
    readout_back: MatrixTable
    n_out: int


@dataclass(kw_only=True)
class Tables:
    """All constants of a network on one device.

    Attributes:
        channels, l_max, n_bins, r_max, width: sizes of the network; width of the readout.
        block: channels a program works on.
        layers: one entry a layer.
    """

    channels: int
    l_max: int
    n_bins: int
    r_max: float
    width: int
    block: int
    has_repulsion: bool
    n_species: int
    layers: list[LayerTables]
    arrays: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        """Blocks of channels, a program each."""
        return self.channels // self.block


def make_tables(form: torch.Tensor, device: torch.device) -> Tables:
    """Unpack an evaluation form for the GPU.

    Raises:
        BackendError: the form is in double precision.
    """
    host = unpack(form.cpu())
    if host["readout_out"].dtype != torch.float32:
        raise BackendError("the GPU kernels compute in single precision, the model is in double")
    n_species, channels, l_max, n_layers, n_bins, _, width, repulsion = host["config"].tolist()
    layers = [_layer(host, i, n_layers, channels, l_max) for i in range(n_layers)]
    arrays = {
        "pair_table": host["pair_table"].to(torch.int64).contiguous(),
        "readout_bias": torch.nn.functional.pad(host["readout_bias"], [0, EXTRA]),
        "readout_out": host["readout_out"],
        "node_constant": host["node_constant"].double(),
        "atomic_energies": host["atomic_energies"].double(),
        "repulsion_pairs": host.get("repulsion_pairs", torch.zeros(1, dtype=torch.float64)),
        "repulsion_shape": host.get("repulsion_shape", torch.zeros(9, dtype=torch.float64)),
    }
    tables = Tables(
        channels=channels,
        l_max=l_max,
        n_bins=n_bins,
        r_max=float(host["r_max"][0]),
        width=width,
        block=32 if channels % 32 == 0 else 16,
        has_repulsion=bool(repulsion),
        n_species=n_species,
        layers=layers,
        arrays=arrays,
    )
    _move(tables, device)
    return tables


def _move(tables: Tables, device: torch.device) -> None:
    for key, value in tables.arrays.items():
        tables.arrays[key] = value.to(device).contiguous()
    for layer in tables.layers:
        layer.radial, layer.up_bias = layer.radial.to(device), layer.up_bias.to(device)
        layer.polynomials = [p.to(device) for p in layer.polynomials]
        products = [layer.linear, layer.linear_back, layer.readout, layer.readout_back]
        for product in [*products, *layer.up, *layer.up_back]:
            product.weights, product.meta = product.weights.to(device), product.meta.to(device)


def _layer(
    host: dict[str, torch.Tensor], i: int, n_layers: int, channels: int, l_max: int
) -> LayerTables:
    hidden_in, hidden_out, correlation, _ = host[f"layer.{i}"].tolist()
    index, value = host[f"coupling_index.{i}"].tolist(), host[f"coupling_value.{i}"].tolist()
    layout = ConvolutionLayout(
        paths=tuple(tuple(p) for p in host[f"paths.{i}"].tolist()),
        couplings=tuple((*row, v) for row, v in zip(index, value, strict=True)),
        l_max=l_max,
    )
    text = convolution_forward(layout) + convolution_backward(layout, with_features=i > 0)
    contractions, polynomials = [], []
    for degree in range(hidden_out + 1):
        key = (l_max, degree, correlation)
        contractions.append(
            compiled(HEADER + contraction_forward(*key) + contraction_backward(*key))
        )
        p = host[f"polynomial.{i}.{degree}"].transpose(1, 2)
        polynomials.append(p.reshape(*p.shape[:2], channels).contiguous())
    rows = [
        (degree, m, layout.offset(_first_path(layout, degree), m) * channels)
        for degree in range(l_max + 1)
        for m in range(2 * degree + 1)
    ]
    linear = {d: host[f"linear.{i}.{d}"] for d in range(l_max + 1)}
    linear_t = {d: host[f"linear_t.{i}.{d}"] for d in range(l_max + 1)}
    places = [(d, place, k * channels) for k, (d, _, place) in enumerate(rows)]
    up, up_back = [], []
    for j in range(i):
        degrees = [d for d in range(hidden_in + 1) for _ in range(2 * d + 1)]
        same = [(d, k * channels, k * channels) for k, d in enumerate(degrees)]
        forward = {d: host[f"up.{i}.{j}.{d}"] for d in set(degrees)}
        backward = {d: host[f"up_t.{i}.{j}.{d}"] for d in set(degrees)}
        up.append(matrix_table(same, forward))
        up_back.append(matrix_table(same, backward))
    readout = _readout_matrix(host, i, n_layers)
    return LayerTables(
        layout=layout,
        kernels=compiled(HEADER + text),
        contractions=contractions,
        polynomials=polynomials,
        radial=radial_polynomials(host[f"radial.{i}"]),
        linear=matrix_table(places, linear),
        linear_back=matrix_table([(d, b, a) for d, a, b in places], linear_t),
        up=up,
        up_back=up_back,
        up_bias=host[f"up_bias.{i}"].contiguous(),
        readout=matrix_table([(0, 0, 0)], {0: readout}),
        readout_back=matrix_table([(0, 0, 0)], {0: readout.transpose(1, 2).contiguous()}),
        n_out=(hidden_out + 1) ** 2,
    )


def radial_polynomials(splines: torch.Tensor) -> torch.Tensor:
    """Coefficients of 1, t, ... t**5 in each bin, t from 0 to 1; float32.

    Rounded after the differences of the knots were taken, they keep the slopes exact.

    Args:
        splines: (n_tables, n_bins + 1, blocks, n_paths, 3, 16) float64, value, slope, curvature.

    Returns:
        (n_tables * n_bins, n_paths, 6, channels).
    """
    n_paths, n_channels = splines.size(3), splines.size(2) * splines.size(5)
    knots = splines.permute(4, 0, 1, 3, 2, 5).flatten(4)
    (value, slope, curvature), far = knots[:, :, :-1].unbind(0), knots[:, :, 1:]
    step, slope_1, curvature_1 = far[0] - value, far[1], far[2]
    terms = (
        value,
        slope,
        0.5 * curvature,
        10 * step - 6 * slope - 4 * slope_1 - 1.5 * curvature + 0.5 * curvature_1,
        -15 * step + 8 * slope + 7 * slope_1 + 1.5 * curvature - curvature_1,
        6 * step - 3 * slope - 3 * slope_1 - 0.5 * curvature + 0.5 * curvature_1,
    )
    stacked = torch.stack(terms, dim=3).float()
    return stacked.reshape(-1, n_paths, 6, n_channels).contiguous()


def _first_path(layout: ConvolutionLayout, degree: int) -> int:
    return next(p for p, path in enumerate(layout.paths) if path[2] == degree)


def _readout_matrix(host: dict[str, torch.Tensor], i: int, n_layers: int) -> torch.Tensor:
    """Readout of layer i with its linear readout as one more column, for each element."""
    matrix = host[f"readout.{i}"]
    if i == n_layers - 1:
        return torch.nn.functional.pad(matrix, [0, EXTRA]).contiguous()
    column = host[f"linear_readout.{i}"].unsqueeze(2)
    matrix = matrix.expand(len(column), -1, -1)
    return torch.cat([matrix, torch.nn.functional.pad(column, [0, EXTRA - 1])], dim=2).contiguous()


def matrix_table(
    components: list[tuple[int, int, int]], matrices: dict[int, torch.Tensor]
) -> MatrixTable:
    """Lay out matrices (1 or n_species, inner, width) for `kernels.species_matmul`.

    Args:
        components: (degree, offset in the input's row, offset in the result's row).
        matrices: of each degree.
    """
    starts, flat, total = {}, [], 0
    for degree, matrix in sorted(matrices.items()):
        starts[degree] = total
        flat.append(matrix.flatten())
        total += matrix.numel()
    meta = []
    for degree, source, target in components:
        n, inner, width = matrices[degree].shape
        stride = inner * width if n > 1 else 0
        meta.append([source, inner, starts[degree], stride, target, width])
    return MatrixTable(
        weights=torch.cat(flat).contiguous(),
        meta=torch.tensor(meta, dtype=torch.int64),
        width=max(row[5] for row in meta),
        step=32 if all(row[1] % 32 == 0 for row in meta) else 16,
    )
