"""Fold a trained network into the evaluation form: what is constant is multiplied out once.

Outputs M_i of the symmetric contractions are the only node quantities that remain. The features
that layer i sends, and the input of the last readout, are linear in all earlier M_j, with matrices
that depend at most on the atom's element; the last node update is never formed. Energies E0 stay
float64 beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mace_mm.errors import BackendError, ConfigError, ElementError
from mace_mm.evaluate.padding import pad_channels
from mace_mm.evaluate.splines import SILU_NORMALIZATION, SplineError, radial_splines
from mace_mm.kernels.contraction_code import terms
from mace_mm.kernels.evaluation_form import BLOCK, pack
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.couplings import convolution_paths, symmetric_coupling, wigner_3j
from mace_mm.model.mace.pair_repulsion import ZBL
from mace_mm.model.mace.product import SymmetricContraction
from mace_mm.model.mace.readout import LinearReadout, NonlinearReadout
from mace_mm.model.potential import Potential

PRECISIONS = {"single": torch.float32, "double": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A network in evaluation form.

    Attributes:
        form: (n_bytes,) uint8, see `mace_mm.kernels.evaluation_form`.
        atomic_numbers: elements in it; their order is the species index.
        precision: "single" or "double".
        spline_errors: largest errors of each layer's splines, measured between the knots.
    """

    form: torch.Tensor
    atomic_numbers: tuple[int, ...]
    precision: str
    spline_errors: tuple[SplineError, ...]


def fold(
    potential: Potential,
    *,
    precision: str = "single",
    elements: Sequence[int] | None = None,
    head: str | None = None,
) -> Folded:
    """Fold a potential for evaluation.

    Args:
        potential: any network; it is read in float64 and not changed.
        precision: "single" or "double", of the tables and the arithmetic.
        elements: atomic numbers to keep, all if not given. With a distance transform there is one
            spline table for each pair of elements.
        head: level of theory, the first if not given.

    Raises:
        BackendError: an unknown precision, l_max 0, or radial functions that splines cannot follow.
        ElementError: an element that the model lacks.
        ConfigError: a head that the model lacks.
    """
    config = potential.network.config
    if precision not in PRECISIONS:
        raise BackendError(f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}")
    if config.l_max < 1:
        raise BackendError(f"the evaluation form needs l_max 1 to 3, got {config.l_max}")
    kept = config.atomic_numbers if elements is None else tuple(sorted(set(elements)))
    missing = sorted(set(kept) - set(config.atomic_numbers))
    if missing or not kept:
        raise ElementError(f"the model knows {config.atomic_numbers}, asked to keep {kept}")
    heads = config.heads
    if head is not None and head not in heads:
        raise ConfigError(f"head must be one of {heads}, got {head!r}")
    index = 0 if head is None else heads.index(head)
    species = torch.tensor([config.atomic_numbers.index(z) for z in kept])
    with torch.no_grad():
        arrays, errors = _Folder(potential, species, index, precision).run()
    return Folded(form=pack(arrays), atomic_numbers=kept, precision=precision, spline_errors=errors)


class _Folder:
    """Collects the arrays of the form. Channels are padded to full blocks; all in float64."""

    def __init__(
        self, potential: Potential, species: torch.Tensor, head: int, precision: str
    ) -> None:
        # Any: torch declares every submodule of a Module as `Tensor | Module`.
        self.network: Any = pad_channels(potential.network, BLOCK)
        self.config: MACEConfig = self.network.config
        self.potential = potential
        self.species = species
        self.head = head
        self.precision = precision
        self.scale = self.network.scale.double()[head]
        self.arrays: dict[str, torch.Tensor] = {}

    def run(self) -> tuple[dict[str, torch.Tensor], tuple[SplineError, ...]]:
        config = self.config
        errors, n_bins = self.splines()
        width = -(-config.readout_mlp // BLOCK) * BLOCK
        sizes = [len(self.species), config.channels, config.l_max, config.n_layers, n_bins]
        sizes += [3, width, int(config.pair_repulsion)]
        self.put("config", torch.tensor(sizes))
        self.put("real_type", torch.tensor([0 if self.precision == "single" else 1]))
        self.put("r_max", torch.tensor([config.r_max], dtype=torch.float64))
        self.put("atomic_numbers", torch.tensor(config.atomic_numbers)[self.species])
        for i in range(config.n_layers):
            self.layer(i)
        self.features_and_readouts(width)
        self.repulsion()
        energies = self.potential.atomic_energies.values[self.head, self.species]
        self.put("atomic_energies", energies.double())
        worst = torch.tensor([[e.value, e.derivative] for e in errors], dtype=torch.float64)
        self.put("spline_errors", worst)
        return self.arrays, errors

    def put(self, name: str, tensor: torch.Tensor) -> None:
        self.arrays[name] = tensor.detach().cpu().contiguous()

    def put_real(self, name: str, tensor: torch.Tensor) -> None:
        self.put(name, tensor.to(PRECISIONS[self.precision]))

    def splines(self) -> tuple[tuple[SplineError, ...], int]:
        tables, pairs, errors = radial_splines(self.network, self.species, self.precision)
        self.put("pair_table", pairs)
        for i, table in enumerate(tables):
            # Rounded values would leave the slopes less exact than the arithmetic is.
            self.put(f"radial.{i}", table)
        return errors, tables[0].size(1) - 1

    def layer(self, i: int) -> None:
        config, layer = self.config, self.network.layers[i]
        interaction = layer.interaction
        by_species = not interaction.residual
        sizes = [config.hidden_l(i), config.hidden_l(i + 1), config.correlation[i], int(by_species)]
        self.put(f"layer.{i}", torch.tensor(sizes))
        paths = convolution_paths(config.hidden_l(i), config.l_max)
        self.put(f"paths.{i}", torch.tensor([[p.l_in, p.l_edge, p.l_out] for p in paths]))
        index, value = [], []
        for number, path in enumerate(paths):
            if path.l_in == 0 or path.l_edge == 0:
                continue  # Y itself, and the identity: their factors are in the splines
            table = wigner_3j(path.l_in, path.l_edge, path.l_out) * (2 * path.l_out + 1) ** 0.5
            for m_in, m_edge, m_out in zip(*abs(table).round(14).nonzero(), strict=True):
                index.append([number, m_in, m_out, path.l_edge**2 + m_edge])
                value.append(table[m_in, m_edge, m_out])
        self.put(f"coupling_index.{i}", torch.tensor(index, dtype=torch.int64).reshape(-1, 4))
        self.put(f"coupling_value.{i}", torch.tensor(value, dtype=torch.float64))
        for degree, weight in enumerate(interaction.linear.weights):
            matrix = weight.double() * weight.size(0) ** -0.5 * interaction.inverse_neighbors
            if by_species:
                skip = interaction.skip.weights[degree].double()[self.species]
                matrix = matrix @ (skip * interaction.skip.scale)
            self.matrices("linear", f"{i}.{degree}", matrix)
        for degree, contraction in enumerate(layer.product.contractions):
            polynomial = _polynomial(contraction, config.l_max, degree)[self.species]
            blocks = polynomial.reshape(len(self.species), -1, config.channels // BLOCK, BLOCK)
            self.put_real(f"polynomial.{i}.{degree}", blocks.transpose(1, 2))

    def matrices(self, name: str, tag: str, matrix: torch.Tensor) -> None:
        """A matrix, one or one for each element, and its transpose."""
        matrix = matrix if matrix.dim() == 3 else matrix.unsqueeze(0)
        self.put_real(f"{name}.{tag}", matrix)
        self.put_real(f"{name}_t.{tag}", matrix.transpose(1, 2))

    def features_and_readouts(self, width: int) -> None:
        """Node features as linear functions of the outputs M_j of the contractions.

        features_i = sum_j M_j X[j] + bias, X[j] one matrix for each l; only scalars have a bias.
        """
        network, config, species = self.network, self.config, self.species
        n = config.n_layers
        bias = network.embedding(species).double()
        x: list[list[torch.Tensor]] = []
        constant = self.scale.new_zeros(len(species)) + network.shift.double()[self.head]
        linear = [bias.new_zeros(len(species), config.channels) for _ in range(n)]
        for i in range(n):
            interaction = network.layers[i].interaction
            up = [w.double() * interaction.linear_up.scale for w in interaction.linear_up.weights]
            self.put_real(f"up_bias.{i}", bias @ up[0])
            for j, by_degree in enumerate(x):
                for degree, matrix in enumerate(by_degree):
                    self.matrices("up", f"{i}.{j}.{degree}", matrix @ up[degree])
            product = network.layers[i].product.linear
            own = [w.double() * product.scale for w in product.weights]
            if interaction.residual:
                skip = [w.double()[species] for w in interaction.skip.weights]
                skip = [w * interaction.skip.scale for w in skip]
                x = [[a @ b for a, b in zip(m, skip, strict=False)] for m in x]
                bias = torch.bmm(bias.unsqueeze(1), skip[0]).squeeze(1)
            else:
                x, bias = [], torch.zeros_like(bias)
            x.append([w.unsqueeze(0) for w in own])
            if isinstance(network.readouts[i], LinearReadout):
                column = network.readouts[i].weight.double()[:, self.head]
                column = column * config.channels**-0.5 * self.scale
                constant = constant + bias @ column
                for j, by_degree in enumerate(x):
                    linear[j] = linear[j] + by_degree[0] @ column
        for j in range(n):
            self.put_real(f"linear_readout.{j}", linear[j])
        self.nonlinear_readout(x, bias, width)
        self.put("node_constant", constant)

    def nonlinear_readout(
        self, x: list[list[torch.Tensor]], bias: torch.Tensor, width: int
    ) -> None:
        """The last readout's hidden layer; zeros for a network of one layer, which has none."""
        readout, size = self.network.readouts[-1], self.config.readout_mlp
        first = bias.new_zeros(self.config.channels, width)
        second = bias.new_zeros(width)
        if isinstance(readout, NonlinearReadout):
            columns = slice(self.head * size, (self.head + 1) * size)
            first[:, :size] = readout.linear_1[:, columns] * self.config.channels**-0.5
            second[:size] = readout.linear_2[self.head] * size**-0.5
        for j, by_degree in enumerate(x):
            self.matrices("readout", str(j), by_degree[0] @ first)
        self.put_real("readout_bias", bias @ first)
        self.put_real("readout_out", second * SILU_NORMALIZATION * self.scale)

    def repulsion(self) -> None:
        zbl = self.network.repulsion
        if not isinstance(zbl, ZBL):
            return
        z, radii = zbl.charges.double()[self.species], zbl.covalent_radii.double()[self.species]
        power = z ** zbl.a_exponent.double()
        screening = zbl.a_prefactor.double() * zbl.bohr / (power[:, None] + power[None, :])
        strength = 0.5 * zbl.coulomb * z[:, None] * z[None, :] * self.scale
        pairs = torch.stack([strength, 1 / screening, radii[:, None] + radii[None, :]], dim=-1)
        self.put("repulsion_pairs", pairs)
        shape = [zbl.coefficients.double(), zbl.decay.double()]
        self.put("repulsion_shape", torch.cat([*shape, pairs.new_tensor([zbl.cutoff_p])]))


def _polynomial(contraction: SymmetricContraction, l_max: int, l_out: int) -> torch.Tensor:
    """Coefficients (n_species, n_terms, channels) in the order of `terms`."""
    listed = terms(l_max, l_out, contraction.correlation)
    place = {(t.component, tuple(sorted(t.factors))): k for k, t in enumerate(listed)}
    n_species, _, channels = contraction.weights[0].shape
    out = torch.zeros(n_species, len(listed), channels, dtype=torch.float64)
    for order, weight in enumerate(contraction.weights):
        if weight.size(1) == 0:
            continue
        coupling = symmetric_coupling(l_max, l_out, order + 1)
        table = torch.from_numpy(coupling.coefficients)
        values = torch.einsum("omp,zpc->omzc", table, weight.double())
        for component in range(contraction.n_out):
            for m, monomial in enumerate(coupling.monomials.tolist()):
                if not table[component, m].any():
                    continue
                key = (component, tuple(monomial))
                if key not in place:
                    raise BackendError(f"the contraction needs a monomial that has no code: {key}")
                out[:, place[key]] += values[component, m]
    return out
