"""The one door to the evaluators that OpenMM and ASE call: which engine runs, and why."""

import copy
import logging
import weakref
from collections.abc import Sequence

import torch

from mace_mm.archive.archive import Archive
from mace_mm.elements import species_index
from mace_mm.errors import BackendError, InputError
from mace_mm.evaluate.engine_check import (
    Candidate,
    check_engine,
    cpu_candidate,
    gpu_candidate,
)
from mace_mm.evaluate.engines import Evaluator, NativeEvaluator, ReferenceEvaluator
from mace_mm.evaluate.fold import Folded, fold
from mace_mm.evaluate.form_source import FormSource
from mace_mm.kernels import ops
from mace_mm.model.potential import Potential

ENGINES = ("auto", "native", "reference")
PRECISIONS = {"single": torch.float32, "double": torch.float64}
DEFAULT_SKIN = ops.DEFAULT_SKIN

_log = logging.getLogger(__name__)
# Folding takes tenths of a second; the calculator of a trajectory asks again and again.
_folded: weakref.WeakKeyDictionary[Potential, dict[tuple, Folded]] = weakref.WeakKeyDictionary()


def build_evaluator(
    archive: Archive,
    atomic_numbers: Sequence[int],
    *,
    precision: str = "single",
    engine: str = "auto",
    skin: float = DEFAULT_SKIN,
    device: str | torch.device = "cpu",
) -> Evaluator:
    """Build the evaluator of some atoms.

    Args:
        archive: the model; left as it is.
        atomic_numbers: (n_atoms,) in the order of the positions to come.
        precision: "single" or "double", of the network.
        engine: "native" (compiled kernels; Triton on a GPU), "reference" (plain torch), or "auto"
            for the fastest that can run this model on this device; the choice is logged.
        skin: extra radius of the neighbor list, Å.
        device: where to compute.

    Raises:
        InputError: no atoms.
        ElementError: an element the model does not know.
        BackendError: unknown precision or engine, a device that is not there, or "native" where it
            cannot run or does not agree with the reference.
    """
    if not len(atomic_numbers):
        raise InputError("at least one atom is needed, got an empty list")
    check_options(precision, engine, skin)
    target = checked_device(device)
    species_index(atomic_numbers, archive.config.atomic_numbers)
    if engine != "reference":
        try:
            return _native(archive, atomic_numbers, precision, skin, target)
        except BackendError as problem:
            if engine == "native":
                raise
            _log.warning("engine reference, many times slower than native: %s", problem)
    return _reference(archive, atomic_numbers, precision, skin).to(target)


def check_options(precision: str, engine: str, skin: float) -> None:
    """Refuse options that no model can be evaluated with.

    Raises:
        BackendError: unknown precision or engine, a skin that is no length.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"precision must be 'single' or 'double', got {precision!r}")
    if engine not in ENGINES:
        raise BackendError(f"engine must be one of {ENGINES}, got {engine!r}")
    if not skin >= 0:
        raise BackendError(f"skin must be a length in Å, zero or more, got {skin!r}")


def _reference(
    archive: Archive, atomic_numbers: Sequence[int], precision: str, skin: float
) -> ReferenceEvaluator:
    species = torch.tensor(species_index(atomic_numbers, archive.config.atomic_numbers))
    potential = copy.deepcopy(archive.potential).to(PRECISIONS[precision])
    return ReferenceEvaluator(potential, species, skin).eval()


def _native(
    archive: Archive,
    atomic_numbers: Sequence[int],
    precision: str,
    skin: float,
    device: torch.device,
) -> NativeEvaluator:
    """The evaluator on the fast engine of a device.

    Raises:
        BackendError: why it cannot be used here.
    """
    engine = _fast_engine(precision, device)
    # A form of the elements at hand is small and stays in cache.
    elements = tuple(sorted({int(z) for z in atomic_numbers}))
    known = _folded.setdefault(archive.potential, {})
    key = (elements, precision, engine.name)
    if key not in known:
        folded = fold(archive.potential, precision=precision, elements=elements)
        check_engine(engine, folded, lambda n: _reference(archive, n, "double", DEFAULT_SKIN))
        known[key] = folded
    folded = known[key]
    _log.info("engine native (%s), %s precision", engine.name, precision)
    species = torch.tensor(species_index(atomic_numbers, folded.atomic_numbers))
    source = FormSource(archive, folded)
    evaluator = NativeEvaluator(folded.form, species, skin, source).to(device).eval()
    if device.type != "cpu":
        ops.forget_with(evaluator, evaluator.state)  # it moved
    return evaluator


def _fast_engine(precision: str, device: torch.device) -> Candidate:
    if device.type != "cpu":
        if precision != "single":
            raise BackendError(f"the native engine on {device} computes in single precision")
        return gpu_candidate(device)
    if ops.ENGINE is None:
        raise BackendError("the native engine was not compiled when mace_mm was installed")
    return cpu_candidate(ops.ENGINE)


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device to compute on; None means the GPU where there is one.

    Raises:
        BackendError: not a device, or not present.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BackendError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise BackendError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if chosen.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= n_devices:
            raise BackendError(f"device {device!r} was asked for, torch sees {n_devices} GPUs")
    return chosen
