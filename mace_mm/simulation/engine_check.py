"""A model on a machine for the first time: does the compiled engine agree with the network?

The answer is kept in the user's cache folder, under a hash of the model's evaluation form, the
engine's library and the processor, so that the check is done once.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mace_mm.deploy.atomic_write import write_atomically
from mace_mm.deploy.fold import Folded
from mace_mm.errors import BackendError
from mace_mm.kernels.backends import Context, Engine
from mace_mm.kernels.reference import Evaluated
from mace_mm.model.potential import Prediction

# Largest difference of a force component over the largest force, of an energy over their sum.
TOLERANCES = {"single": 2e-5, "double": 1e-8}
_MIN_ATOMS = 12
_VOLUME_PER_ATOM = 14.0  # Å^3, somewhat thinner than an organic liquid
_CLOSEST = 1.2  # Å

Network = Callable[[list[int]], Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Prediction]]

_log = logging.getLogger(__name__)


def check_engine(engine: Engine, folded: Folded, exact: Network) -> None:
    """Compare the engine with the network on a small periodic cluster, once on each machine.

    Args:
        engine: to check.
        folded: evaluation form of a network.
        exact: the network in float64: from atomic numbers to a function of positions, cell and
            periodicity.

    Raises:
        BackendError: they disagree, or the engine cannot evaluate this model.
    """
    mark = _mark(engine, folded)
    if mark.is_file():
        return
    numbers, positions, cell = _cluster(folded.atomic_numbers)
    species = torch.tensor([folded.atomic_numbers.index(z) for z in numbers])
    found = Context(engine, folded.form).evaluate(positions, species, cell, skin=0.0, threads=1)
    wanted = exact(numbers)(positions, cell, torch.ones(3, dtype=torch.bool))
    worst = _disagreement(found, wanted)
    if not worst <= TOLERANCES[folded.precision]:
        raise BackendError(
            f"the {engine.instruction_set} engine and the network disagree by {worst:.1e} of the "
            f"largest force on a test cluster, allowed is {TOLERANCES[folded.precision]:.0e} in "
            f"{folded.precision} precision; please report this with the model"
        )
    try:
        write_atomically(mark, f"{worst:.3e}\n".encode())
    except OSError as problem:
        _log.debug("the check of the engine is not remembered: %s", problem)


def _mark(engine: Engine, folded: Folded) -> Path:
    digest = hashlib.sha256(folded.form.numpy().tobytes())
    digest.update(Path(engine.library._name).read_bytes())
    digest.update(f"{platform.machine()} {_processor()} {torch.__version__}".encode())
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "mace_mm" / "checked" / digest.hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def _cluster(elements: tuple[int, ...]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Atomic numbers, positions and a triclinic cell, always the same."""
    generator = np.random.default_rng(7)
    numbers = list(elements) * max(2, -(-_MIN_ATOMS // len(elements)))
    side = (_VOLUME_PER_ATOM * len(numbers)) ** (1 / 3)
    cell = np.array([[side, 0, 0], [0.2 * side, side, 0], [-0.1 * side, 0.3 * side, side]])
    fractions: list[np.ndarray] = []
    while len(fractions) < len(numbers):
        new = generator.random(3)
        steps = np.array(fractions).reshape(-1, 3) - new
        distances = np.linalg.norm((steps - np.round(steps)) @ cell, axis=1)
        if (distances > _CLOSEST).all():
            fractions.append(new)
    return numbers, torch.tensor(np.array(fractions) @ cell), torch.tensor(cell)


def _disagreement(found: Evaluated, wanted: Prediction) -> float:
    """Largest relative difference of energy, forces and virial."""
    scale = wanted.interaction_energy.abs().clamp(min=float(len(wanted.forces)))
    energy = (found.energies[1] - wanted.interaction_energy).abs() / scale
    forces = (found.forces - wanted.forces).abs().max() / wanted.forces.abs().max().clamp(min=1e-3)
    virial = (found.virial - wanted.virial[0]).abs().max()
    virial = virial / wanted.virial.abs().max().clamp(min=1e-2)
    return float(torch.stack([energy[0], forces, virial]).max())
