"""Frames of molecular dynamics with the mean of several models as labels, to train one model on.

    python examples/train/distill.py A.pt B.pt --start data/acac_train_300K.xyz -o data/mean.xyz

Models that began differently (fine-tuned, from scratch) err differently, and their mean errs less
than each. A network that learns the labelled frames and these comes close to the mean at the price
of one. The walks start from the labelled frames; nothing else is asked than the models.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_masses

from mace_mm.data.extxyz import ExtxyzFile, write_extxyz
from mace_mm.data.labels import LabeledMolecule
from mace_mm.deploy.open_model import open_model
from mace_mm.errors import MaceMMError
from mace_mm.generation.sampling import langevin
from mace_mm.graph.molecule import Molecule
from mace_mm.simulation.evaluator import build_evaluator

TIMESTEP_FS, FRICTION_PER_PS, STEPS_PER_FRAME = 0.5, 50.0, 40
FRAMES_PER_WALK, HEATING_FRAMES = 25, 5
# A frame on which two models differ by more teaches nothing.
LARGEST_SPREAD = 1.0  # eV/Å, of any component


class Committee:
    """Energies (eV) and forces (n_atoms, 3) in eV/Å of every model, for one molecule."""

    def __init__(self, models: list[str], numbers: np.ndarray) -> None:
        self._evaluators = [build_evaluator(open_model(m), numbers.tolist()) for m in models]
        self._no_cell = torch.zeros(0, dtype=torch.float64)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [
            e.in_units(torch.from_numpy(x), self._no_cell, 1.0, 1.0)[:2] for e in self._evaluators
        ]
        energies, forces = zip(*found, strict=True)
        return np.array([float(e[0]) for e in energies]), np.stack(
            [f.double().numpy() for f in forces]
        )

    def mean_forces(self, x: np.ndarray) -> np.ndarray:
        return self(x)[1].mean(axis=0)


def walk(committee: Committee, start: Molecule, temperature: float, seed: int) -> np.ndarray:
    """Frames (n_frames, n_atoms, 3) Å after heating."""
    frames = langevin(
        committee.mean_forces,
        start.positions,
        atomic_masses[start.atomic_numbers],
        temperature_k=temperature,
        timestep_fs=TIMESTEP_FS,
        friction_per_ps=FRICTION_PER_PS,
        n_frames=FRAMES_PER_WALK + HEATING_FRAMES,
        steps_per_frame=STEPS_PER_FRAME,
        seed=seed,
    )
    return frames[HEATING_FRAMES:]


def label(committee: Committee, numbers: np.ndarray, x: np.ndarray) -> LabeledMolecule | None:
    """A frame with the mean of the models; None where they differ too much."""
    energies, forces = committee(x)
    if np.ptp(forces, axis=0).max() > LARGEST_SPREAD:
        return None
    return LabeledMolecule(
        name="committee",
        molecule=Molecule(atomic_numbers=numbers, positions=x),
        energy=float(energies.mean()),
        forces=forces.mean(axis=0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--start", type=Path, required=True, help="frames of one molecule")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 600.0])
    parser.add_argument("--walks", type=int, default=40, help="of each temperature")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = ExtxyzFile(options.start)
    numbers = source[0].molecule.atomic_numbers
    committee = Committee(options.models, numbers)
    random = np.random.default_rng(options.seed)
    frames: list[LabeledMolecule] = []
    for temperature in options.temperatures:
        kept = left_out = broken = 0
        for _ in range(options.walks):
            start = source[int(random.integers(len(source)))].molecule
            try:
                walked = walk(committee, start, temperature, int(random.integers(2**31)))
            except MaceMMError:
                broken += 1
                continue
            found = [label(committee, numbers, x) for x in walked]
            frames += (known := [f for f in found if f is not None])
            kept, left_out = kept + len(known), left_out + len(found) - len(known)
        print(
            f"{temperature:.0f} K: {kept} frames, {left_out} left out because the models differ, "
            f"{broken} of {options.walks} walks broke",
            flush=True,
        )
    write_extxyz(options.output, frames)


if __name__ == "__main__":
    main()
