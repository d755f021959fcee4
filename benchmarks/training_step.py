"""Time one training step of the same network, batch and precision, here and in mace-torch.

    python benchmarks/training_step.py mace_mm FRAMES.xyz --hidden 0 --dtype float32
    OTHER_ENVIRONMENT/bin/python benchmarks/training_step.py mace FRAMES.xyz --hidden 0 ...

Each runs in its own environment and prints processor seconds a step (one thread) and the peak
memory, as one line of JSON. A step is energies, forces, loss, gradients and the optimizer; the
neighbor lists are made beforehand. The two packages know no common initial weights; the work does
not depend on them.
"""

import argparse
import json
import resource
import time

import ase.io
import numpy as np
import torch

R_MAX, L_MAX, CORRELATION = 5.0, 3, 3


def mace_mm_step(frames, channels, hidden, dtype):
    from mace_mm.graph.batching import build_graph, collate
    from mace_mm.graph.molecule import Molecule
    from mace_mm.model.config import MACEConfig
    from mace_mm.model.mace import MACE
    from mace_mm.model.potential import Potential

    elements = tuple(sorted({int(z) for a in frames for z in a.numbers}))
    config = MACEConfig(
        atomic_numbers=elements,
        r_max=R_MAX,
        channels=channels,
        hidden_l_max=hidden,
        l_max=L_MAX,
        correlation=(CORRELATION, CORRELATION),
        avg_num_neighbors=15.0,
    )
    potential = Potential(MACE(config)).to(dtype).train()
    molecules = [Molecule(atomic_numbers=a.numbers, positions=a.positions) for a in frames]
    graph = collate([build_graph(m, elements, R_MAX, dtype) for m in molecules])
    energy = torch.tensor([a.info["REF_energy"] for a in frames], dtype=torch.float64)
    forces = torch.tensor(np.concatenate([a.arrays["REF_forces"] for a in frames]), dtype=dtype)
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-4, amsgrad=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        prediction = potential(graph)
        loss = ((prediction.energy - energy) / 27).square().mean()
        loss = loss + 100 * (prediction.forces - forces).square().mean()
        loss.backward()
        optimizer.step()

    return step, sum(p.numel() for p in potential.parameters())


def mace_step(frames, channels, hidden, dtype):
    torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 keeps one in its constants
    from e3nn import o3
    from mace import data, modules, tools
    from mace.modules import interaction_classes
    from mace.tools import torch_geometric

    torch.set_default_dtype(dtype)
    elements = sorted({int(z) for a in frames for z in a.numbers})
    table = tools.AtomicNumberTable(elements)
    irreps = " + ".join(f"{channels}x{k}{'eo'[k % 2]}" for k in range(hidden + 1))
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
        avg_num_neighbors=15.0,
        atomic_numbers=elements,
        correlation=CORRELATION,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    keys = data.utils.KeySpecification(
        info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"}
    )
    configs = [data.config_from_atoms(a, key_specification=keys) for a in frames]
    loader = torch_geometric.dataloader.DataLoader(
        [data.AtomicData.from_config(c, z_table=table, cutoff=R_MAX) for c in configs],
        batch_size=len(frames),
    )
    batch = next(iter(loader))
    loss_fn = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        output = model(batch.to_dict(), training=True, compute_force=True)
        loss_fn(pred=output, ref=batch).backward()
        optimizer.step()

    return step, sum(p.numel() for p in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", choices=("mace_mm", "mace"))
    parser.add_argument("frames")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=0)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    frames = ase.io.read(options.frames, f":{options.batch}")
    for atoms in frames:
        atoms.pbc = False
    make = mace_mm_step if options.package == "mace_mm" else mace_step
    dtype = getattr(torch, options.dtype)
    step, n_weights = make(frames, options.channels, options.hidden, dtype)
    for _ in range(2):
        step()
    times = []
    for _ in range(options.steps):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    result = {
        **vars(options),
        "torch": torch.__version__,
        "n_weights": n_weights,
        "seconds": round(float(np.median(times)), 4),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
