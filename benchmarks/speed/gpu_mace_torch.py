"""A layout in mace-torch, with random weights, for the times of `gpu_check.py`."""

from collections.abc import Callable

import torch
from e3nn import o3
from mace import modules

from mace_mm.graph.cell_list import full_neighbor_list


def make_call(
    settings: dict,
    species: torch.Tensor,
    positions: torch.Tensor,
    cell: torch.Tensor,
    device: torch.device,
    equivariance: bool,
) -> Callable[[int], object]:
    """Energy and forces in float32 with neighbors given; with cuEquivariance if asked for."""
    extra = {}
    if equivariance:
        from mace.modules.wrapper_ops import CuEquivarianceConfig

        extra["cueq_config"] = CuEquivarianceConfig(
            enabled=True, layout="ir_mul", group="O3_e3nn", optimize_all=True
        )
    hidden = settings.get("hidden_l_max", 0)
    irreps = "+".join(f"{settings['channels']}x{d}{'eo'[d % 2]}" for d in range(hidden + 1))
    first = "RealAgnosticInteractionBlock"
    blocks = modules.interaction_classes
    torch.manual_seed(4)
    model = modules.ScaleShiftMACE(
        r_max=settings["r_max"], num_bessel=8, num_polynomial_cutoff=5, max_ell=settings["l_max"],
        interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=blocks[first], num_interactions=2, num_elements=2,
        hidden_irreps=o3.Irreps(irreps), MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.SiLU(),
        atomic_energies=torch.tensor([-13.6, -2043.0]).numpy(), atomic_numbers=[1, 8],
        avg_num_neighbors=settings["avg_num_neighbors"], correlation=3, radial_type="bessel",
        atomic_inter_scale=1.0, atomic_inter_shift=0.0, **extra,
    ).float().to(device).eval()  # fmt: skip
    pbc = (cell != 0).any(1)
    senders, receivers, shifts = full_neighbor_list(positions, cell, pbc, settings["r_max"])
    batch = {
        "positions": positions.float(), "cell": cell.float(), "unit_shifts": shifts.float(),
        "shifts": (shifts @ cell).float(), "edge_index": torch.stack([senders, receivers]),
        "node_attrs": torch.nn.functional.one_hot(species, 2).float(),
        "batch": torch.zeros(len(species), dtype=torch.int64),
        "ptr": torch.tensor([0, len(species)]), "head": torch.zeros(1, dtype=torch.int64),
    }  # fmt: skip
    batch = {k: v.to(device) for k, v in batch.items()}

    def call(i: int) -> object:
        batch["positions"].requires_grad_(True)
        return model(dict(batch), training=False, compute_force=True)["forces"]

    return call
