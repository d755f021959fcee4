"""Measure a model on labelled test frames and write the errors as JSON.

    python scripts/measure_model.py MODEL SHARED_FOLDER OUT.json

Forces against SPICE's labels per subset (`spice-labelled/*_test.xyz`) and on 3BPA
(`3bpa/train_300K.xyz`, never trained on here). Frames with elements the model does not know are
left out and counted.
"""

import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import torch

from mace_mm.deploy.open_model import open_model
from mace_mm.graph.batching import build_graph
from mace_mm.graph.molecule import Molecule


def frame_errors(potential, atoms):
    """Force differences (n_atoms, 3) and energy difference per atom, eV/Å and eV."""
    config = potential.network.config
    molecule = Molecule(atomic_numbers=atoms.numbers, positions=atoms.positions)
    result = potential(build_graph(molecule, config.atomic_numbers, config.r_max))
    forces_key = "REF_forces" if "REF_forces" in atoms.arrays else "forces"
    if forces_key in atoms.arrays:
        forces = atoms.arrays[forces_key]
        energy = atoms.info.get("REF_energy", atoms.info.get("energy"))
    else:
        forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    difference = result.forces.detach().numpy() - forces
    return difference, (float(result.energy) - energy) / len(atoms)


def measure(potential, path):
    known = set(potential.network.config.atomic_numbers)
    frames = ase.io.read(path, ":")
    kept = [a for a in frames if set(a.numbers) <= known]
    forces, energies = zip(*[frame_errors(potential, a) for a in kept], strict=True)
    components = np.concatenate([f.ravel() for f in forces]) * 1e3
    energies = np.array(energies) * 1e3
    return {
        "n_frames": len(kept),
        "n_left_out": len(frames) - len(kept),
        "force_mae_mev_per_A": round(float(np.abs(components).mean()), 1),
        "force_rmse_mev_per_A": round(float(np.sqrt((components**2).mean())), 1),
        "energy_mae_mev_per_atom": round(float(np.abs(energies).mean()), 2),
        "energy_mae_shifted_mev_per_atom": round(
            float(np.abs(energies - np.median(energies)).mean()), 2
        ),
    }


def main():
    model, shared, out = sys.argv[1:]
    torch.set_num_threads(1)
    potential = open_model(model).potential
    data = Path(shared) / "data"
    results = {}
    for path in sorted((data / "spice-labelled").glob("*_test.xyz")):
        results[path.stem.removesuffix("_test")] = measure(potential, path)
    results["3bpa_300K"] = measure(potential, data / "3bpa" / "train_300K.xyz")
    Path(out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
