"""The operator ``mace_mm::energy_forces``: one model, one system, one step.

Importing this module registers it, for eager code, TorchScript and torch.export. On the CPU it is
the compiled engine, called without Python from TorchScript and C++; where the engine is missing,
plain torch. `mace_mm.evaluate.gpu_operator` adds the GPU.
"""

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from mace_mm.errors import BackendError, GeometryError
from mace_mm.kernels.backends import Context, Engine, chosen_engine
from mace_mm.kernels.evaluation_form import digest
from mace_mm.kernels.reference import Evaluated, evaluate

_log = logging.getLogger(__name__)

DEFAULT_SKIN = 0.5  # Å
_MOST_STATES = 64  # as in engine/torch/torch_op.cpp

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


class ThroughCtypes:
    """The engine for a torch that lacks the C shim: called from Python.

    As in engine/torch/torch_op.cpp a context belongs to the address of a state and is used for
    the model that it was made of. Addresses of tensors that are gone come again, so the model is
    known by its content. A context's results do not depend on what it was asked before.

    Attributes:
        contexts: by the address of the state, the one used last at the end.
    """

    def __init__(self, engine: Engine) -> None:
        self.contexts: OrderedDict[int, _Kept] = OrderedDict()
        self._engine = engine
        self._lock = threading.Lock()

    def __call__(
        self,
        positions: torch.Tensor,
        species: torch.Tensor,
        cell: torch.Tensor,
        model: torch.Tensor,
        state: torch.Tensor,
        skin: float = DEFAULT_SKIN,
        threads: int = 0,
        length: float = 1.0,
        energy: float = 1.0,
    ) -> tuple[torch.Tensor, ...]:
        """The operator, see `energy_forces`.

        Raises:
            RuntimeError: as the compiled operator, refused or failed.
        """
        try:
            kept = self._kept(model, state.data_ptr())
            with kept.lock:
                found = kept.context.evaluate(
                    positions * length,
                    species,
                    cell * length,
                    skin=skin,
                    threads=threads or torch.get_num_threads(),
                )
        except GeometryError as problem:
            raise RuntimeError(f"mace_mm::energy_forces: {problem}") from None
        except BackendError as problem:
            raise RuntimeError(f"mace_mm::energy_forces failed: {problem}") from None
        return _in_units(found, length, energy)

    def forget(self, address: int) -> None:
        """Drop what belongs to the state at an address. Without the lock: finalizers call it."""
        self.contexts.pop(address, None)

    def _kept(self, model: torch.Tensor, address: int) -> "_Kept":
        content = (model.numel(), digest(model))
        with self._lock:
            kept = self.contexts.pop(address, None)
            if kept is None or kept.content != content:
                kept = _Kept(Context(self._engine, model), content)
            self.contexts[address] = kept
            if len(self.contexts) > _MOST_STATES:
                self.contexts.popitem(last=False)
        return kept


class _Kept:
    """A context, for one caller at a time, and the model that it was made of."""

    def __init__(self, context: Context, content: tuple[int, bytes]) -> None:
        self.context = context
        self.content = content
        self.lock = threading.Lock()


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
        called = ThroughCtypes(engine)
        library.impl("energy_forces", called, "CPU")
        _FORGET["cpu"] = called.forget
    else:
        _FORGET["cpu"] = engine.library.mm_forget
    _log.debug("mace_mm::energy_forces uses %s", engine.instruction_set)
    return library, engine


# By type of device: drops what is kept for the state at an address.
_FORGET: dict[str, Callable[[int], None]] = {}
# The library must live as long as the operator; the engine is None where there is none.
_LIBRARY, ENGINE = _register()


def forget_with(owner: object, state: torch.Tensor) -> None:
    """Free what the engine keeps for a state tensor when its owner is collected.

    Without this the engine keeps those used last. A state that is used again is made again.
    """
    forget = _FORGET.get(state.device.type)
    if forget is not None:
        weakref.finalize(owner, forget, state.data_ptr())


def implement(
    device: str,
    function: Callable[..., tuple[torch.Tensor, ...]],
    forget: Callable[[int], None],
) -> None:
    """Give the operator its implementation for one kind of device, once in a process.

    Args:
        device: torch's dispatch key, such as "CUDA".
        function: takes the arguments of the operator.
        forget: drops what is kept for the state at an address.
    """
    _LIBRARY.impl("energy_forces", function, device)
    _FORGET[device.lower()] = forget
