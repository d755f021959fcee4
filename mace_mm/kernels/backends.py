"""The compiled engine: which instruction sets were built, which this machine runs, loading them.

Each instruction set is a library of its own with a C interface, so that no code for one processor
can leak into another's. The environment variable MACE_MM_INSTRUCTION_SET chooses one of
`INSTRUCTION_SETS`, or "reference" for plain torch; without it the fastest that runs is taken.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch

from mace_mm.errors import BackendError, GeometryError
from mace_mm.kernels.reference import Evaluated

_log = logging.getLogger(__name__)
Library = TypeVar("Library")

INSTRUCTION_SETS = ("avx512", "avx2", "portable")
REFERENCE = "reference"
_FOLDER = Path(__file__).parent
_MESSAGE_BYTES = 512


class Engine:
    """One compiled instruction set of the engine.

    Attributes:
        instruction_set: its name.
        library: the loaded library, see engine/include/mace_mm/engine.h.
    """

    def __init__(self, path: Path) -> None:
        """Load a library.

        Raises:
            BackendError: it does not load, or this processor cannot run it.
        """
        try:
            self.library = ctypes.CDLL(str(path))
        except OSError as error:
            raise BackendError(f"cannot load the engine from {path}: {error}") from error
        _declare(self.library)
        self.instruction_set: str = self.library.mm_instruction_set().decode()
        if not self.library.mm_supported():
            raise BackendError(f"this processor does not have the instructions of {path.name}")


class Context:
    """A model with its neighbor list and memory, for one caller at a time."""

    def __init__(self, engine: Engine, model: torch.Tensor) -> None:
        """Args: model, an evaluation form on the CPU; the engine keeps a copy.

        Raises:
            BackendError: the engine cannot evaluate this model.
        """
        self._library = engine.library
        form = model.contiguous()
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        self._handle = self._library.mm_create(
            form.data_ptr(), form.numel(), message, _MESSAGE_BYTES
        )
        if not self._handle:
            raise BackendError(message.value.decode())

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.mm_destroy(self._handle)

    @property
    def n_neighbor_builds(self) -> int:
        """How often a neighbor list was built."""
        return int(self._library.mm_neighbor_builds(self._handle))

    def evaluate(
        self,
        positions: torch.Tensor,
        species: torch.Tensor,
        cell: torch.Tensor,
        *,
        skin: float,
        threads: int,
    ) -> Evaluated:
        """Evaluate one system; arguments as `reference.evaluate`, skin in Å.

        Raises:
            GeometryError: what the engine refuses, with its reason.
            BackendError: the engine failed, as for want of memory; it may be called again.
        """
        x = positions.detach().to(torch.float64).contiguous()
        kinds = species.to(torch.int32).contiguous()
        box = cell.detach().to(torch.float64).contiguous()
        n = len(x)
        energies = torch.zeros(2, dtype=torch.float64)
        forces = torch.zeros(n, 3, dtype=torch.float64)
        virial = torch.zeros(3, 3, dtype=torch.float64)
        nodes = torch.zeros(n, dtype=torch.float64)
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        status = self._library.mm_evaluate(
            self._handle,
            n,
            x.data_ptr(),
            kinds.data_ptr(),
            box.data_ptr() if box.numel() else None,
            skin,
            threads,
            energies.data_ptr(),
            forces.data_ptr(),
            virial.data_ptr(),
            nodes.data_ptr(),
            message,
            _MESSAGE_BYTES,
        )
        if status:
            raise (GeometryError if status == 1 else BackendError)(message.value.decode())
        return Evaluated(energies, forces.to(positions.dtype), virial, nodes)


def _declare(library: ctypes.CDLL) -> None:
    pointer, text, size, word = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int32
    signatures = {
        "mm_create": (pointer, [pointer, size, text, size]),
        "mm_destroy": (None, [pointer]),
        "mm_evaluate": (
            ctypes.c_int,
            [pointer, size, pointer, pointer, pointer, ctypes.c_double, word]
            + [pointer] * 4
            + [text, size],
        ),
        "mm_neighbor_builds": (size, [pointer]),
        "mm_instruction_set": (text, []),
        "mm_supported": (ctypes.c_int, []),
        "mm_register_operator": (ctypes.c_int, [text]),
        "mm_forget": (None, [pointer]),
        "mm_state_count": (size, []),
        "mm_state_builds": (size, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise BackendError(f"the engine {library._name} is of another version") from error
        function.restype, function.argtypes = result, arguments


@lru_cache(maxsize=8)
def load_engine(instruction_set: str) -> Engine:
    """Load the library of one instruction set.

    Raises:
        BackendError: unknown, not built, or not for this processor.
    """
    if instruction_set not in INSTRUCTION_SETS:
        raise BackendError(
            f"instruction set must be one of {INSTRUCTION_SETS}, got {instruction_set!r}"
        )
    found = sorted(_FOLDER.glob(f"_engine_{instruction_set}.*"))
    if not found:
        raise BackendError(
            f"the engine was not compiled for {instruction_set} when mace_mm was installed"
        )
    return Engine(found[0])


def available_instruction_sets() -> tuple[str, ...]:
    """Instruction sets that are built and that this processor runs, fastest first."""
    found = []
    for name in INSTRUCTION_SETS:
        try:
            load_engine(name)
        except BackendError as reason:
            _log.debug("%s", reason)
        else:
            found.append(name)
    return tuple(found)


def choose(load: Callable[[str], Library]) -> Library | None:
    """The library to use: what MACE_MM_INSTRUCTION_SET asks for, or the fastest that loads.

    Args:
        load: a library of an instruction set; BackendError where it is not here.

    Returns:
        None for plain torch: asked for, or nothing loads.

    Raises:
        BackendError: MACE_MM_INSTRUCTION_SET names something that is not here.
    """
    wanted = os.environ.get("MACE_MM_INSTRUCTION_SET", "")
    if wanted == REFERENCE:
        return None
    if wanted:
        return load(wanted)
    for name in INSTRUCTION_SETS:
        try:
            return load(name)
        except BackendError as reason:
            _log.debug("%s", reason)
    return None


def chosen_engine() -> Engine | None:
    """The engine that the operator uses; None means plain torch.

    Raises:
        BackendError: MACE_MM_INSTRUCTION_SET names something that is not here.
    """
    engine = choose(load_engine)
    if engine is None and os.environ.get("MACE_MM_INSTRUCTION_SET", "") != REFERENCE:
        _log.warning(
            "mace_mm has no compiled engine here (no C++ compiler when it was installed?): "
            "energies come from plain torch, many times slower"
        )
    return engine
