"""The operator ``mace_mm::energy_forces``: one model, one system, one step.

Importing this module registers it, for eager code, TorchScript and torch.export. On the CPU it is
the compiled engine, called without Python from TorchScript and C++; where the engine is missing,
plain torch. `mace_mm.deploy.gpu_operator` adds the GPU.
"""

import logging
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from mace_mm.kernels.backends import Context, Engine, chosen_engine
from mace_mm.kernels.reference import Evaluated, evaluate

_log = logging.getLogger(__name__)

DEFAULT_SKIN = 0.5  # Å

_SCHEMA = (
    "energy_forces(Tensor positions, Tensor species, Tensor cell, Tensor model, Tensor state, "
    "float skin=0.5, int threads=0, float length=1.0, float energy=1.0) "
    "-> (Tensor energies, Tensor forces, Tensor virial, Tensor node_energies)"
)


def energy_forces(
    positions: torch.Tensor,
    species: torch.Tensor,
    cell: torch.Tensor,
    model: torch.Tensor,
    state: torch.Tensor,
    skin: float = DEFAULT_SKIN,
    threads: int = 0,
    length: float = 1.0,
    energy: float = 1.0,
) -> Evaluated:
    """Energy, forces and virial of one system by analytic derivatives.

    Args:
        positions: (n_atoms, 3), float32 or float64.
        species: (n_atoms,) int32 or int64, index into the form's elements.
        cell: (3, 3) rows, zero rows along open directions; or an empty tensor.
        model: evaluation form, see `evaluation_form`.
        state: a small tensor of the caller's own, at least one element. The engine keeps the
            neighbor list and memory under its address; a copy of a module gets its own.
        skin: Å; the neighbor list is rebuilt when an atom may have used up half of it.
        threads: 0 for torch's number of threads.
        length: Å in one unit of positions and cell.
        energy: units of energy in one eV, applied to every result.

    Returns:
        energies (2,) float64: total with E0, and interaction energy; forces (n_atoms, 3) in the
        positions' dtype; virial (3, 3) float64, -dE/d(strain); node energies (n_atoms,) float64.
    """
    return Evaluated(
        *torch.ops.mace_mm.energy_forces(
            positions, species, cell, model, state, skin, threads, length, energy
        )
    )


def _in_units(found: Evaluated, length: float, energy: float) -> tuple[torch.Tensor, ...]:
    return (
        found.energies * energy,
        found.forces * (energy * length),
        found.virial * energy,
        found.node_energies * energy,
    )


def _plain(positions, species, cell, model, state, skin=0.5, threads=0, length=1.0, energy=1.0):  # type: ignore[no-untyped-def]
    """The reference, for machines without the engine."""
    found = evaluate(model, positions * length, species, cell * length)
    return _in_units(found, length, energy)


def _shapes(positions, species, cell, model, state, skin=0.5, threads=0, length=1.0, energy=1.0):  # type: ignore[no-untyped-def]
    double = {"dtype": torch.float64, "device": positions.device}
    n = positions.shape[0]
    return (
        torch.empty(2, **double),
        torch.empty_like(positions, memory_format=torch.contiguous_format),
        torch.empty(3, 3, **double),
        torch.empty(n, **double),
    )


def _through_ctypes(engine: Engine):  # type: ignore[no-untyped-def]
    """The engine for a torch that lacks the C shim: called from Python."""
    contexts: dict[tuple[int, int], Context] = {}

    def call(positions, species, cell, model, state, skin=0.5, threads=0, length=1.0, energy=1.0):  # type: ignore[no-untyped-def]
        key = (state.data_ptr(), model.data_ptr())
        if key not in contexts:
            if len(contexts) >= 64:
                contexts.pop(next(iter(contexts)))
            contexts[key] = Context(engine, model)
        found = contexts[key].evaluate(
            positions * length,
            species,
            cell * length,
            skin=skin,
            threads=threads or torch.get_num_threads(),
        )
        return _in_units(found, length, energy)

    return call


def _register() -> tuple[torch.library.Library, Engine | None]:
    library = torch.library.Library("mace_mm", "DEF")
    library.define(_SCHEMA)
    torch.library.register_fake("mace_mm::energy_forces", _shapes, lib=library)
    engine = chosen_engine()
    if engine is None:
        library.impl("energy_forces", _plain, "CPU")
        return library, None
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if engine.library.mm_register_operator(str(path).encode()) != 0:
        _log.warning(
            "torch %s lacks the interface that lets TorchScript call the engine directly; it is "
            "called through Python",
            torch.__version__,
        )
        library.impl("energy_forces", _through_ctypes(engine), "CPU")
    _log.debug("mace_mm::energy_forces uses %s", engine.instruction_set)
    return library, engine


# The library must live as long as the operator; the engine is None where there is none.
_LIBRARY, ENGINE = _register()


def forget_with(owner: object, state: torch.Tensor) -> None:
    """Free what the CPU engine keeps for a state tensor when its owner is collected.

    Without this the engine keeps the newest 64. A state that is used again is made again.
    """
    if ENGINE is not None and state.device.type == "cpu":
        weakref.finalize(owner, ENGINE.library.mm_forget, state.data_ptr())


def implement(device: str, function: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    """Give the operator its implementation for one kind of device, once in a process.

    Args:
        device: torch's dispatch key, such as "CUDA".
        function: takes the arguments of the operator.
    """
    _LIBRARY.impl("energy_forces", function, device)
