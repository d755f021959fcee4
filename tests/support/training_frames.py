"""Small labelled molecules for the training tests: an analytic potential, no files needed."""

from pathlib import Path

import numpy as np

from mace_mm.data.formats.extxyz import write_extxyz
from mace_mm.data.labels import LabeledMolecule
from mace_mm.graph.molecule import Molecule

MOLECULES = {
    "water": ([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
    "ammonia": (
        [7, 1, 1, 1],
        [[0, 0, 0.1], [0.94, 0, -0.2], [-0.47, 0.81, -0.2], [-0.47, -0.81, -0.2]],
    ),
    "methane": (
        [6, 1, 1, 1, 1],
        [
            [0, 0, 0],
            [0.63, 0.63, 0.63],
            [-0.63, -0.63, 0.63],
            [-0.63, 0.63, -0.63],
            [0.63, -0.63, -0.63],
        ],
    ),
}
ATOMIC_ENERGIES = {"H": -13.0, "C": -1030.0, "N": -1486.0, "O": -2043.0}
_NUMBERS = {1: "H", 6: "C", 7: "N", 8: "O"}


def pair_potential(numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Morse potential between all pairs: interaction energy (eV) and forces (eV/Å)."""
    difference = positions[:, None] - positions[None]
    distance = np.sqrt((difference**2).sum(-1)) + np.eye(len(numbers))
    depth = 0.5 + 0.05 * (numbers[:, None] + numbers[None])
    rest = 0.7 + 0.03 * (numbers[:, None] + numbers[None])
    decay = np.exp(-1.5 * (distance - rest))
    off = 1.0 - np.eye(len(numbers))
    energy = 0.5 * (off * depth * ((1 - decay) ** 2 - 1)).sum()
    slope = off * depth * 2 * (1 - decay) * 1.5 * decay
    return float(energy), -(slope[..., None] * difference / distance[..., None]).sum(1)


def make_frames(
    n_frames: int, seed: int = 0, molecules: tuple[str, ...] = tuple(MOLECULES), shift: float = 0.0
) -> list[LabeledMolecule]:
    """Perturbed molecules in turn, labelled; `shift` moves the energy of every atom, eV."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_frames):
        name = molecules[i % len(molecules)]
        numbers, positions = (np.array(x) for x in MOLECULES[name])
        positions = positions + rng.normal(scale=0.08, size=positions.shape)
        energy, forces = pair_potential(numbers, positions)
        energy += sum(ATOMIC_ENERGIES[_NUMBERS[int(z)]] + shift for z in numbers)
        frames.append(
            LabeledMolecule(
                molecule=Molecule(atomic_numbers=numbers, positions=positions),
                energy=energy,
                forces=forces,
                name=name,
                subset=name,
            )
        )
    return frames


def write_frames(path: Path, n_frames: int, **options: object) -> Path:
    """Write `make_frames` as extended XYZ."""
    write_extxyz(path, make_frames(n_frames, **options))  # type: ignore[arg-type]
    return path


def settings(folder: Path, **changes: object) -> dict:
    """A run of seconds: 24 frames, float64, a tiny network, two stages."""
    path = folder / "frames.xyz"
    if not path.exists():
        write_frames(path, 24)
    values: dict = {
        "output": str(folder / "run"),
        "data": {
            "train": [{"path": str(path)}],
            "split_by": "frame",
            "validation_fraction": 0.25,
            "batch_size": 4,
        },
        "atomic_energies": dict(ATOMIC_ENERGIES),
        "model": {
            "channels": 16,  # the smallest that the compiled kernels take
            "l_max": 1,
            "correlation": [2, 2],
            "radial_mlp": [8],
            "r_max": 4.0,
        },
        "stages": [
            {"epochs": 2, "schedule": {"kind": "plateau", "patience": 1}},
            {"epochs": 2, "learning_rate": 0.002, "averaging": "swa"},
        ],
        "run": {"precision": "float64", "accelerator": "cpu", "checkpoint_minutes": 0.0},
    }
    values.update(changes)
    return values
