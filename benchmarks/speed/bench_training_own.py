"""One training step of mace_mm: energies, forces, loss, gradients, optimizer."""

import numpy as np
import torch
from bench_training_step import CORRELATION, L_MAX, NEIGHBORS, R_MAX, measure

from mace_mm.graph.batching import build_graph, collate
from mace_mm.graph.molecule import Molecule
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.training.fast.potential import fast_potential


def make_step(frames, options, dtype):
    elements = tuple(sorted({int(z) for a in frames for z in a.numbers}))
    config = MACEConfig(
        atomic_numbers=elements,
        r_max=R_MAX,
        channels=options.channels,
        hidden_l_max=options.hidden,
        l_max=L_MAX,
        correlation=(CORRELATION, CORRELATION),
        avg_num_neighbors=NEIGHBORS,
    )
    potential = Potential(MACE(config)).to(dtype).train()
    predict = potential if options.path == "plain" else fast_potential(potential)
    if predict is None:
        raise SystemExit("the training kernels are not compiled here")
    molecules = [Molecule(atomic_numbers=a.numbers, positions=a.positions) for a in frames]
    graph = collate([build_graph(m, elements, R_MAX, dtype) for m in molecules])
    energy = torch.tensor([a.info["REF_energy"] for a in frames], dtype=torch.float64)
    forces = torch.tensor(np.concatenate([a.arrays["REF_forces"] for a in frames]), dtype=dtype)
    n_atoms = torch.tensor([len(a) for a in frames])
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-4, amsgrad=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        prediction = predict(graph)
        loss = ((prediction.energy - energy) / n_atoms).square().mean()
        loss = loss + 100 * (prediction.forces - forces).square().mean()
        loss.backward()
        optimizer.step()

    n_weights = sum(p.numel() for p in potential.parameters())
    return step, n_weights, len(graph.senders)


if __name__ == "__main__":
    measure(make_step)
