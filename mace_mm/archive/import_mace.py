"""Import of published mace-torch `.model` files, with neither mace-torch nor e3nn 0.4 installed."""

import math
from pathlib import Path

import torch

from mace_mm.archive.import_weights import (
    Problems,
    contractions,
    fill_network,
    number,
    weights_of_orders,
)
from mace_mm.archive.safe_pickle import (
    Inert,
    TorchFile,
    attribute,
    read_torch_file,
    submodule,
    submodules,
    tensor,
)
from mace_mm.errors import ArchiveError, UnsupportedModelError
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

_MODELS = ("mace.modules.models.ScaleShiftMACE", "mace.modules.models.MACE")
_RESIDUAL = "mace.modules.blocks.RealAgnosticResidualInteractionBlock"
_NON_RESIDUAL = "mace.modules.blocks.RealAgnosticInteractionBlock"
_MODULES = {
    "node_embedding",
    "radial_embedding",
    "spherical_harmonics",
    "atomic_energies_fn",
    "interactions",
    "products",
    "readouts",
    "scale_shift",
    "pair_repulsion_fn",
}
_READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock")
# e3nn's normalization of SiLU to unit second moment.
_SILU_FACTOR = 1.6791767923989418
_OFF_SWITCHES = (
    "use_so3",
    "use_agnostic_product",
    "use_last_readout_only",
    "use_edge_irreps_first",
    "edge_irreps",
    "embedding_specs",
)


def import_mace(path: str | Path) -> Potential:
    """Rebuild the network of a mace-torch `.model` file in float64.

    The file is read as inert data (`safe_pickle`). Contraction weights are projected onto the
    index-symmetric couplings, which leaves every energy unchanged.

    Raises:
        ArchiveError: missing, damaged, or not a mace-torch model.
        UnsupportedModelError: the model uses features this package does not have; lists them.
    """
    path = Path(path)
    file = read_torch_file(path)
    root = file.root
    if not isinstance(root, Inert) or not root.class_name.startswith("mace."):
        kind = root.class_name if isinstance(root, Inert) else type(root).__name__
        raise ArchiveError(f"{path} is not a mace-torch model: it holds {kind}")
    problems = Problems()
    _check_features(file, problems)
    problems.raise_if_any(path)
    try:
        config = _config(root, problems)
        problems.raise_if_any(path)
        potential = Potential(MACE(config), _atomic_energies(root, config))
        fill_network(potential.network, root, problems)
    except (AttributeError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"{path.name} cannot be imported: its layout is not that of a known mace-torch "
            f"version ({type(error).__name__}: {error})"
        ) from error
    problems.raise_if_any(path)
    return potential.eval().requires_grad_(False)


def _check_features(file: TorchFile, problems: Problems) -> None:
    root = file.root
    problems.unless(root.class_name in _MODELS, f"model class {root.class_name}")
    for name in _OFF_SWITCHES:
        value = attribute(root, name)
        problems.unless(not value, f"option {name}={value!r}")
    problems.unless(attribute(root, "apply_cutoff", True) is True, "option apply_cutoff=False")
    children = root.state.get("_modules", {}) if isinstance(root.state, dict) else {}
    for name, module in children.items():
        class_name = getattr(module, "class_name", "?")
        problems.unless(name in _MODULES, f"module {name} ({class_name})")
    activations = {n for n in file.names if n.startswith("torch.nn.functional.")}
    others = sorted(activations - {"torch.nn.functional.silu"})
    problems.unless(not others, f"activations {others}")
    interactions = submodule(root, "interactions")
    for i, block in enumerate(submodules(interactions) if interactions else []):
        allowed = (_RESIDUAL, _NON_RESIDUAL) if i == 0 else (_RESIDUAL,)
        problems.unless(
            block.class_name in allowed,
            f"interaction block {block.class_name.rsplit('.', 1)[-1]} in layer {i}",
        )
        problems.unless(attribute(block, "cueq_config") is None, "cuEquivariance weight layout")
    for i, block in enumerate(submodules(submodule(root, "products"))):
        problems.unless(attribute(block, "cueq_config") is None, "cuEquivariance weight layout")
        contraction = submodule(block, "symmetric_contractions")
        known = contraction is not None and submodule(contraction, "contractions") is not None
        problems.unless(known, f"product block of layer {i}")
    for i, block in enumerate(submodules(submodule(root, "readouts"))):
        _check_readout(block, i, problems)
    radial = submodule(root, "radial_embedding")
    bessel = submodule(radial, "bessel_fn")
    problems.unless(
        bessel is not None and bessel.class_name.endswith(".BesselBasis"),
        f"radial basis {getattr(bessel, 'class_name', bessel)}",
    )
    transform = submodule(radial, "distance_transform")
    problems.unless(
        transform is None or transform.class_name.endswith(".AgnesiTransform"),
        f"distance transform {getattr(transform, 'class_name', transform)}",
    )
    repulsion = submodule(root, "pair_repulsion_fn")
    problems.unless(
        repulsion is None or repulsion.class_name.endswith(".ZBLBasis"),
        f"pair repulsion {getattr(repulsion, 'class_name', repulsion)}",
    )


def _check_readout(block: Inert, layer: int, problems: Problems) -> None:
    """Readouts without biases, the last with a SiLU gate: no other is known here."""
    name = block.class_name.rsplit(".", 1)[-1]
    problems.unless(name in _READOUTS, f"readout block {name} in layer {layer}")
    gate = submodule(block, "non_linearity")
    if gate is None:
        return
    for act in submodule(gate, "acts").state["_modules"].values():
        # The factor that e3nn gives an activation tells which one it is; its code is not opened.
        factor = None if act is None else attribute(act, "cst")
        problems.unless(
            factor is not None and math.isclose(float(factor), _SILU_FACTOR, rel_tol=1e-3),
            "a readout without a gate" if act is None else f"a gate other than silu ({factor=})",
        )


def _config(root: Inert, problems: Problems) -> MACEConfig:
    interactions = submodules(submodule(root, "interactions"))
    products = submodules(submodule(root, "products"))
    radial = submodule(root, "radial_embedding")
    repulsion = submodule(root, "pair_repulsion_fn")
    numbers = tensor(root, "atomic_numbers")
    embedding = tensor(submodule(submodule(root, "node_embedding"), "linear"), "weight")
    elements = tuple(int(z) for z in numbers)
    first = contractions(products[0])
    u1 = tensor(first[0], "U_matrix_1")
    l_max = math.isqrt(u1.shape[-2]) - 1
    cutoff_p = int(number(submodule(radial, "cutoff_fn"), "p"))
    neighbors = [number(block, "avg_num_neighbors") for block in interactions]
    layers = list(submodule(interactions[0], "conv_tp_weights").state["_modules"].values())
    widths = [tensor(layer, "weight").shape for layer in layers]
    last_readout = submodules(submodule(root, "readouts"))[-1]
    heads = tuple(str(h) for h in attribute(root, "heads") or ("default",))
    hidden = submodule(last_readout, "linear_2")
    readout = 16 if hidden is None else tensor(hidden, "weight").numel() // len(heads) ** 2
    problems.unless(len(set(neighbors)) == 1, f"avg_num_neighbors {neighbors} differ by layer")
    problems.unless(list(elements) == sorted(elements), f"unsorted elements {elements}")
    if repulsion is not None:
        p = int(number(repulsion, "p"))
        problems.unless(p == cutoff_p, f"ZBL envelope exponent {p} beside the cutoff's {cutoff_p}")
    return MACEConfig(
        atomic_numbers=elements,
        r_max=number(root, "r_max"),
        channels=embedding.numel() // len(elements),
        hidden_l_max=len(first) - 1 if len(products) > 1 else 0,
        l_max=l_max,
        correlation=tuple(len(weights_of_orders(contractions(p)[0])) for p in products),
        n_radial=widths[0][0],
        cutoff_p=cutoff_p,
        radial_mlp=tuple(w[1] for w in widths[:-1]),
        readout_mlp=readout,
        avg_num_neighbors=neighbors[0],
        residual_first=interactions[0].class_name == _RESIDUAL,
        pair_repulsion=repulsion is not None,
        distance_transform=None if submodule(radial, "distance_transform") is None else "agnesi",
        heads=heads,
    )


def _atomic_energies(root: Inert, config: MACEConfig) -> torch.Tensor:
    values = tensor(submodule(root, "atomic_energies_fn"), "atomic_energies")
    return values.to(torch.float64).reshape(len(config.heads), config.n_species)
