"""The compiled training kernels: which library runs here, and the tables it is called with.

See engine/training/training.h. The instruction set is chosen as that of the engine, by the
environment variable MACE_MM_INSTRUCTION_SET or by what the processor has.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from mace_mm.errors import BackendError
from mace_mm.kernels.backends import choose, load_engine

SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
_FOLDER = Path(__file__).parent
_POINTER = ctypes.c_void_p
_NAMES = ("convolution_value", "convolution_gradient", "convolution_second") + (
    "contraction_value",
    "contraction_gradient",
    "contraction_second",
)


class EdgeTable(ctypes.Structure):
    """`mm::TrainingEdges`."""

    _fields_ = [
        ("n_edges", ctypes.c_int64),
        ("senders", _POINTER),
        ("receivers", _POINTER),
        ("pairs", _POINTER),
        ("reversed", _POINTER),
        ("paths", _POINTER),
        ("n_paths", ctypes.c_int32),
        ("n_mixing", ctypes.c_int32),
        ("channels", ctypes.c_int32),
    ]


class TermTable(ctypes.Structure):
    """`mm::TrainingTerms`."""

    _fields_ = [
        ("n_atoms", ctypes.c_int64),
        ("species", _POINTER),
        ("terms", _POINTER),
        ("n_terms", ctypes.c_int32),
        ("l_in", ctypes.c_int32),
        ("l_out", ctypes.c_int32),
        ("channels", ctypes.c_int32),
    ]


class TrainingLibrary:
    """One loaded library.

    Attributes:
        instruction_set: its name.
    """

    def __init__(self, path: Path, instruction_set: str) -> None:
        """Raises: BackendError, it does not load."""
        try:
            library = ctypes.CDLL(str(path))
            self._functions = {
                (name, dtype): getattr(library, f"mm_{name}_{suffix}")
                for name in _NAMES
                for dtype, suffix in SUFFIXES.items()
            }
        except (OSError, AttributeError) as error:
            raise BackendError(f"cannot load the training kernels from {path}: {error}") from error
        for function in self._functions.values():
            function.restype = ctypes.c_int
        self.instruction_set = instruction_set

    def call(
        self,
        name: str,
        table: ctypes.Structure,
        *arguments: torch.Tensor | Sequence[torch.Tensor] | None,
    ) -> None:
        """Run a kernel; all tensors contiguous, on the CPU and of the first one's dtype.

        Raises:
            BackendError: the kernel does not know a path.
        """
        passed: list[object] = []
        dtype = None
        for argument in arguments:
            if argument is None:
                passed.append(None)
            elif isinstance(argument, torch.Tensor):
                dtype = argument.dtype
                passed.append(_POINTER(argument.data_ptr()))
            else:
                dtype = argument[0].dtype
                passed.append((_POINTER * len(argument))(*[t.data_ptr() for t in argument]))
        if self._functions[name, dtype](ctypes.byref(table), *passed):
            raise BackendError("the training kernels do not know a path of this convolution")


@lru_cache(maxsize=4)
def _load(instruction_set: str) -> TrainingLibrary:
    # The engine's library knows what the processor has.
    load_engine(instruction_set)
    found = sorted(_FOLDER.glob(f"_training_{instruction_set}.*"))
    if not found:
        raise BackendError(
            f"the training kernels were not compiled for {instruction_set} when mace_mm was "
            "installed"
        )
    return TrainingLibrary(found[0], instruction_set)


def training_library() -> TrainingLibrary | None:
    """The library to train with; None means plain torch.

    Raises:
        BackendError: MACE_MM_INSTRUCTION_SET names something that is not here.
    """
    return choose(_load)
