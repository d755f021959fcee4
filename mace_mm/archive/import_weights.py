"""Copy the weights of a mace-torch model into this package's network, size by size."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mace_mm.archive.safe_pickle import Inert, attribute, submodule, submodules, tensor
from mace_mm.errors import UnsupportedModelError
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.couplings import monomial_coefficients, sorted_monomials, symmetric_coupling


class Problems:
    """Collects everything that is not supported, so that the refusal names all of it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def unless(self, condition: bool, message: str) -> bool:
        if not condition:
            self.found.append(message)
        return condition

    def raise_if_any(self, path: Path) -> None:
        if self.found:
            listed = "; ".join(self.found)
            raise UnsupportedModelError(f"{path.name} cannot be imported: {listed}")


def number(module: Inert, name: str) -> float:
    """A scalar of the module, stored as an attribute or as a tensor."""
    value = attribute(module, name)
    return float(tensor(module, name) if value is None else value)


def weights_of_orders(contraction: Inert) -> list[torch.Tensor]:
    """Weights of nu = 1, 2, ... (n_species, n_paths, channels)."""
    highest = tensor(contraction, "weights_max")
    lower = submodule(contraction, "weights")
    parameters = lower.state.get("_parameters", {}) if lower is not None else {}
    # The list is stored from nu - 1 down to 1.
    orders = [parameters[key] for key in sorted(parameters, key=int, reverse=True)]
    return [*orders, highest]


def contractions(product: Inert) -> list[Inert]:
    """One contraction for each output irrep of a product block."""
    return submodules(submodule(submodule(product, "symmetric_contractions"), "contractions"))


def fill_network(network: Any, root: Inert, problems: Problems) -> None:
    """Copy every weight, checking that sizes agree."""
    config = network.config
    embedding = submodule(submodule(root, "node_embedding"), "linear")
    _copy(network.embedding.weight, tensor(embedding, "weight"), "embedding", problems)
    radial = submodule(root, "radial_embedding")
    frequencies = tensor(submodule(radial, "bessel_fn"), "bessel_weights")
    _copy(network.radial_basis.frequencies, frequencies, "Bessel frequencies", problems)
    if config.distance_transform is not None:
        source = submodule(radial, "distance_transform")
        target: Any = network.radial_basis.transform
        for name in ("q", "p", "a"):
            _copy(getattr(target, name), tensor(source, name), f"Agnesi {name}", problems)
        radii = tensor(source, "covalent_radii")[list(config.atomic_numbers)]
        _copy(target.covalent_radii, radii, "Agnesi radii", problems)
    if config.pair_repulsion:
        _fill_repulsion(network.repulsion, submodule(root, "pair_repulsion_fn"), config, problems)
    interactions = submodules(submodule(root, "interactions"))
    products = submodules(submodule(root, "products"))
    readouts = submodules(submodule(root, "readouts"))
    # The file's prefactor carries the rounding of the precision it was stored in.
    stored = tensor(submodule(radial, "bessel_fn"), "prefactor")
    prefactor = float(stored) / network.radial_basis.prefactor
    for i, layer in enumerate(network.layers):
        _fill_interaction(layer.interaction, interactions[i], f"layer {i}", problems)
        with torch.no_grad():
            layer.interaction.radial.weights[0].mul_(prefactor)
        _fill_product(layer.product, products[i], config, i, problems)
        _fill_readout(network.readouts[i], readouts[i], f"readout {i}", problems)
    scale_shift = submodule(root, "scale_shift")
    if scale_shift is not None:
        _copy(network.scale, torch.atleast_1d(tensor(scale_shift, "scale")), "scale", problems)
        _copy(network.shift, torch.atleast_1d(tensor(scale_shift, "shift")), "shift", problems)


def _copy(target: torch.Tensor, source: torch.Tensor, name: str, problems: Problems) -> None:
    """Copy values of any shape with the same number of elements."""
    wanted, got = target.numel(), source.numel()
    if problems.unless(got == wanted, f"{name}: wanted {wanted} values, got {got}"):
        with torch.no_grad():
            target.copy_(source.to(target.dtype).reshape(target.shape))


def _copy_blocks(
    targets: nn.ParameterList, source: torch.Tensor, name: str, problems: Problems
) -> None:
    """Split e3nn's flat weight vector, one block a degree, over the targets."""
    sizes = [p.numel() for p in targets]
    if problems.unless(
        source.numel() == sum(sizes), f"{name}: wanted {sum(sizes)} weights, got {source.numel()}"
    ):
        for target, block in zip(targets, torch.split(source.flatten(), sizes), strict=True):
            _copy(target, block, name, problems)


def _fill_repulsion(target: Any, source: Inert, config: MACEConfig, problems: Problems) -> None:
    _copy(target.coefficients, tensor(source, "c"), "ZBL coefficients", problems)
    radii = tensor(source, "covalent_radii")[list(config.atomic_numbers)]
    _copy(target.covalent_radii, radii, "ZBL radii", problems)
    for ours, theirs in (("a_exponent", "a_exp"), ("a_prefactor", "a_prefactor")):
        value = torch.as_tensor(number(source, theirs), dtype=torch.float64)
        _copy(getattr(target, ours), value, f"ZBL {theirs}", problems)


def _fill_interaction(target: Any, source: Inert, name: str, problems: Problems) -> None:
    for ours, theirs in (("linear_up", "linear_up"), ("linear", "linear"), ("skip", "skip_tp")):
        flat = tensor(submodule(source, theirs), "weight")
        blocks = getattr(target, ours).weights
        if ours == "skip":
            # e3nn stores (u, z, w); here each element's matrix is contiguous, (z, u, w).
            flat = _reorder_skip(flat, blocks, name, problems)
        _copy_blocks(blocks, flat, f"{name} {ours}", problems)
    layers = list(submodule(source, "conv_tp_weights").state["_modules"].values())
    for weight, layer in zip(target.radial.weights, layers, strict=True):
        _copy(weight, tensor(layer, "weight"), f"{name} radial network", problems)


def _reorder_skip(
    flat: torch.Tensor, blocks: nn.ParameterList, name: str, problems: Problems
) -> torch.Tensor:
    n_species, channels, _ = blocks[0].shape
    size = sum(p.numel() for p in blocks)
    if not problems.unless(
        flat.numel() == size, f"{name} skip: wanted {size} weights, got {flat.numel()}"
    ):
        return torch.zeros(size)
    split = flat.view(len(blocks), channels, n_species, channels)
    return split.transpose(1, 2).reshape(-1)


def _fill_product(
    target: Any, source: Inert, config: MACEConfig, layer: int, problems: Problems
) -> None:
    name = f"layer {layer} product"
    flat = tensor(submodule(source, "linear"), "weight")
    _copy_blocks(target.linear.weights, flat, f"{name} linear", problems)
    theirs = contractions(source)
    if not problems.unless(
        len(theirs) == len(target.contractions),
        f"{name}: wanted {len(target.contractions)} output irreps, got {len(theirs)}",
    ):
        return
    for l_out, (ours, contraction) in enumerate(zip(target.contractions, theirs, strict=True)):
        weights = weights_of_orders(contraction)
        if not problems.unless(
            len(weights) == len(ours.weights), f"{name}: correlation differs between irreps"
        ):
            continue
        for order, weight in enumerate(weights):
            u = tensor(contraction, f"U_matrix_{order + 1}")
            projected = project_couplings(u, weight, config.l_max, l_out, order + 1)
            _copy(ours.weights[order], projected, f"{name} l={l_out}", problems)


def project_couplings(
    u: torch.Tensor, weight: torch.Tensor, l_max: int, l_out: int, nu: int
) -> torch.Tensor:
    """Weights over our symmetric basis that give the same polynomial as ``u`` with ``weight``.

    Args:
        u: (2 l_out + 1,) [absent for l_out = 0] + (n_components,) * nu + (n_paths,).
        weight: (n_species, n_paths, channels).

    Raises:
        UnsupportedModelError: the couplings are not equivariant maps of this basis.
    """
    n_components, n_out, n_paths = (l_max + 1) ** 2, 2 * l_out + 1, weight.shape[1]
    values = u.to(torch.float64).numpy().reshape((n_out, *(n_components,) * nu, n_paths))
    values = np.moveaxis(values, 0, -2).reshape((n_components,) * nu + (n_out * n_paths,))
    everything = sorted_monomials(n_components, nu)
    theirs = monomial_coefficients(values, everything)
    theirs = theirs.reshape(len(everything), n_out, n_paths)
    basis = symmetric_coupling(l_max, l_out, nu)
    ours = np.zeros((len(everything), n_out, basis.n_paths))
    row = {tuple(m): i for i, m in enumerate(everything.tolist())}
    rows = [row[tuple(m)] for m in basis.monomials.tolist()]
    ours[rows] = basis.coefficients.transpose(1, 0, 2)
    matrix = ours.reshape(-1, basis.n_paths)
    target = theirs.reshape(-1, n_paths)
    transform, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    error = float(np.abs(matrix @ transform - target).max(initial=0.0))
    # Couplings stored in float32 miss by 1e-7; other irreps or parities miss by order one.
    if error > 1e-4:
        raise UnsupportedModelError(
            f"the couplings of order {nu} to l = {l_out} are not those of natural-parity "
            f"harmonics up to l = {l_max} (they miss by {error:.1e})"
        )
    return torch.einsum("qp,zpc->zqc", torch.from_numpy(transform), weight.to(torch.float64))


def _fill_readout(target: Any, source: Inert, name: str, problems: Problems) -> None:
    if hasattr(target, "linear_2"):
        n_heads, width = target.linear_2.shape
        _copy(target.linear_1, tensor(submodule(source, "linear_1"), "weight"), name, problems)
        full = tensor(submodule(source, "linear_2"), "weight")
        if problems.unless(
            full.numel() == n_heads * width * n_heads, f"{name}: {full.numel()} weights"
        ):
            square = full.view(n_heads, width, n_heads)
            own = torch.stack([square[h, :, h] for h in range(n_heads)])
            # mace-torch scales by the width of all heads together.
            _copy(target.linear_2, own * n_heads**-0.5, name, problems)
    else:
        _copy(target.weight, tensor(submodule(source, "linear"), "weight"), name, problems)
