"""A model on a machine for the first time: does the fast engine agree with the network?

The answer is kept in the user's cache folder, under a hash of the model's evaluation form, the
engine's code and the processor, so that the check is done once.
"""

import hashlib
import importlib.metadata
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mace_mm.errors import BackendError
from mace_mm.evaluate.fold import Folded
from mace_mm.evaluate.gpu_operator import GpuContext
from mace_mm.evaluate.machine import processor_name
from mace_mm.files.atomic_write import write_atomically
from mace_mm.kernels import gpu
from mace_mm.kernels.backends import Context, Engine
from mace_mm.kernels.gpu.evaluator import gpu_problem
from mace_mm.kernels.reference import Evaluated
from mace_mm.model.potential import Prediction

# Largest difference of a force component over the largest force, of an energy over their sum.
TOLERANCES = {"single": 2e-5, "double": 1e-8}
_MIN_ATOMS = 12
_VOLUME_PER_ATOM = 14.0  # Å^3, somewhat thinner than an organic liquid
_CLOSEST = 1.2  # Å

Network = Callable[[list[int]], Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Prediction]]

_log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """An engine to check.

    Attributes:
        name: for messages.
        code: reads what it was built from; a change of it asks for a new check.
        evaluate: form, positions (n_atoms, 3) Å, species, cell (3, 3) Å to results on the CPU.
    """

    name: str
    code: Callable[[], bytes]
    evaluate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Evaluated]


def cpu_candidate(engine: Engine) -> Candidate:
    """The compiled library."""

    def evaluate(
        form: torch.Tensor, positions: torch.Tensor, species: torch.Tensor, cell: torch.Tensor
    ) -> Evaluated:
        return Context(engine, form).evaluate(positions, species, cell, skin=0.0, threads=1)

    def code() -> bytes:
        return Path(engine.library._name).read_bytes() + processor_name().encode()

    return Candidate(engine.instruction_set, code, evaluate)


def gpu_candidate(device: torch.device) -> Candidate:
    """The Triton kernels on a device.

    Raises:
        BackendError: they cannot run here.
    """
    problem = gpu_problem()
    if problem is not None:
        raise BackendError(f"the native engine needs Triton on {device}, but {problem}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"

    def code() -> bytes:
        sources = sorted(Path(gpu.__file__).parent.glob("*.py"))
        versions = f"{name} {importlib.metadata.version('triton')}".encode()
        return b"".join(path.read_bytes() for path in sources) + versions

    def evaluate(
        form: torch.Tensor, positions: torch.Tensor, species: torch.Tensor, cell: torch.Tensor
    ) -> Evaluated:
        return GpuContext(form, species, device).evaluate(positions, cell, skin=0.5)

    return Candidate(f"Triton, {name}", code, evaluate)


def check_engine(engine: Candidate, folded: Folded, exact: Network) -> None:
    """Compare an engine with the network on a small periodic cluster, once on each machine.

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
    found = engine.evaluate(folded.form, positions, species, cell)
    wanted = exact(numbers)(positions, cell, torch.ones(3, dtype=torch.bool))
    worst = _disagreement(found, wanted)
    if not worst <= TOLERANCES[folded.precision]:
        raise BackendError(
            f"the engine ({engine.name}) and the network disagree by {worst:.1e} of the "
            f"largest force on a test cluster, allowed is {TOLERANCES[folded.precision]:.0e} in "
            f"{folded.precision} precision; please report this with the model"
        )
    try:
        write_atomically(mark, f"{worst:.3e}\n".encode())
    except OSError as problem:
        _log.debug("the check of the engine is not remembered: %s", problem)


def _mark(engine: Candidate, folded: Folded) -> Path:
    digest = hashlib.sha256(folded.form.numpy().tobytes())
    digest.update(engine.code())
    digest.update(f"{platform.machine()} {torch.__version__}".encode())
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "mace_mm" / "checked" / digest.hexdigest()[:32]


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
