"""From a checkpoint back to a potential, and the proof that another potential equals it."""

import numpy as np
import torch

from mace_mm.errors import CheckpointError, ConfigError
from mace_mm.graph.batching import build_graph
from mace_mm.graph.molecule import Molecule
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.training.run.checkpoint import Checkpoint

WEIGHTS = ("best", "average", "raw")
# A float64 evaluation of equal weights differs by the order of sums only.
_TOLERANCE_EV = 1e-8
_N_PROBES = 8


def trained_potential(checkpoint: Checkpoint, weights: str = "best") -> Potential:
    """Rebuild a checkpoint's potential, float64 and all heads.

    Args:
        checkpoint: of any step.
        weights: "best" (of the validation loss; the average before the first epoch is over),
            "average" or "raw".

    Raises:
        ConfigError: another kind of weights.
        CheckpointError: weights that do not fit the network.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"weights must be one of {WEIGHTS}, got {weights!r}")
    potential = Potential(MACE(MACEConfig.from_dict(checkpoint.model_config)))
    try:
        potential.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise CheckpointError(f"weights do not fit the network: {error}") from error
    if weights != "raw":
        chosen = checkpoint.best if weights == "best" and checkpoint.best else checkpoint.average
        parameters = list(potential.parameters())
        if len(chosen) != len(parameters):
            raise CheckpointError(
                f"expected {len(parameters)} averaged parameters, got {len(chosen)}"
            )
        with torch.no_grad():
            for parameter, value in zip(parameters, chosen, strict=True):
                parameter.copy_(value)
    return potential.eval()


def check_equal(checkpoint: Checkpoint, head: str | None, weights: str, other: Potential) -> None:
    """Compare a potential with a checkpoint's head on random clusters.

    Raises:
        CheckpointError: energies or forces differ by more than rounding.
    """
    reference = trained_potential(checkpoint, weights)
    config = reference.network.config
    index = 0 if head is None else config.heads.index(head)
    rng = np.random.default_rng(0)
    for _ in range(_N_PROBES):
        n_atoms = int(rng.integers(2, 12))
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
        places = grid[rng.permutation(len(grid))[:n_atoms]] * 1.4
        molecule = Molecule(
            atomic_numbers=rng.choice(config.atomic_numbers, n_atoms),
            positions=places + rng.normal(scale=0.1, size=(n_atoms, 3)),
        )
        graph = build_graph(molecule, config.atomic_numbers, config.r_max)
        wanted = reference(graph, torch.tensor([index]))
        got = other(graph)
        scale = max(1.0, float(wanted.forces.abs().max()))
        off = max(
            float((wanted.energy - got.energy).abs()),
            float((wanted.forces - got.forces).abs().max()),
        )
        if not off < _TOLERANCE_EV * scale:
            raise CheckpointError(
                f"the archive does not reproduce the checkpoint: off by {off:.1e} eV or eV/Å"
            )
