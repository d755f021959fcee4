"""The same training step of mace-torch, for an environment that has it."""

import numpy as np
import torch
from bench_training_step import CORRELATION, L_MAX, NEIGHBORS, R_MAX, measure


def make_step(frames, options, dtype):
    torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 keeps one in its constants
    from e3nn import o3
    from mace import data, modules, tools
    from mace.modules import interaction_classes
    from mace.tools import torch_geometric

    torch.set_default_dtype(dtype)
    elements = sorted({int(z) for a in frames for z in a.numbers})
    irreps = " + ".join(f"{options.channels}x{k}{'eo'[k % 2]}" for k in range(options.hidden + 1))
    model = modules.ScaleShiftMACE(
        r_max=R_MAX,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=L_MAX,
        interaction_cls=interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=NEIGHBORS,
        atomic_numbers=elements,
        correlation=CORRELATION,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    keys = data.utils.KeySpecification(
        info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"}
    )
    table = tools.AtomicNumberTable(elements)
    configs = [data.config_from_atoms(a, key_specification=keys) for a in frames]
    loader = torch_geometric.dataloader.DataLoader(
        [data.AtomicData.from_config(c, z_table=table, cutoff=R_MAX) for c in configs],
        batch_size=len(frames),
    )
    batch = next(iter(loader))
    loss_function = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        output = model(batch.to_dict(), training=True, compute_force=True)
        loss_function(pred=output, ref=batch).backward()
        optimizer.step()

    n_weights = sum(p.numel() for p in model.parameters())
    return step, n_weights, batch.edge_index.shape[1]


if __name__ == "__main__":
    measure(make_step)
