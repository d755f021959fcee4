"""Read a torch zip file as inert data: nothing in it can execute code.

`torch.load(weights_only=True)` refuses published MACE files because they pickle whole modules.
Here every class that is not a tensor, storage or plain container becomes an inert stub that
only remembers its name, arguments and state.
"""

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mace_mm.errors import ArchiveError

# What Python's zip reader raises on damaged files, one way or another.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
)
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_CONTAINERS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
}


class Inert:
    """What is left of a pickled object: its class's name, arguments and state. Does nothing."""

    class_name = "?"
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> "Inert":
        self = super().__new__(cls)
        self.args = args
        self.state = {}
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **_: Any) -> "Inert":
        return Inert(*args)

    def __hash__(self) -> int:
        return id(self)

    def append(self, _: Any) -> None:
        """Items of pickled list subclasses are not needed."""

    def extend(self, _: Any) -> None:
        """Items of pickled list subclasses are not needed."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Items of pickled dict subclasses are not needed."""


class _StorageType:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    if len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise ArchiveError(f"a tensor of size {size} and stride {stride} cannot be")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) > 0 and last >= storage.numel():
        raise ArchiveError(f"a tensor of size {size} is larger than its storage: damaged file")
    return torch.as_strided(storage, size, stride, offset)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


class _InertUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, torch.Tensor] = {}
        self.names: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.names.add(f"{module}.{name}")
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        return type(name, (Inert,), {"class_name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> torch.Tensor:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise ArchiveError(f"expected a tensor storage, got {pid!r}")
        _, kind, key, _, n_elements = pid
        if not isinstance(kind, _StorageType):
            raise ArchiveError(f"storage {key!r} has an unknown element type")
        if key not in self._storages:
            raw = self._archive.read(f"{self._prefix}data/{key}")
            if len(raw) != int(n_elements) * kind.dtype.itemsize:
                raise ArchiveError(f"storage {key!r} has {len(raw)} bytes: damaged file")
            buffer = torch.frombuffer(bytearray(raw), dtype=kind.dtype) if raw else None
            self._storages[key] = torch.empty(0, dtype=kind.dtype) if buffer is None else buffer
        return self._storages[key]


@dataclass(frozen=True, kw_only=True)
class TorchFile:
    """Content of a torch file.

    Attributes:
        root: the object tree, tensors and plain containers as they are, the rest `Inert`.
        names: every class and function the file names, none of which was imported.
    """

    root: Any
    names: frozenset[str]


def read_torch_file(path: str | Path) -> TorchFile:
    """Read a file that `torch.save` or `torch.jit.save` wrote, without running any of it.

    Raises:
        ArchiveError: missing, not a torch zip file, truncated or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ArchiveError(f"expected a model file, got {str(path)!r}, which does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n == "data.pkl" or n.endswith("/data.pkl")]
            if len(names) != 1:
                raise ArchiveError(f"{path} is a zip file but holds no torch object")
            prefix = names[0].removesuffix("data.pkl")
            order = f"{prefix}byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise ArchiveError(f"{path} was written on a big-endian machine: not supported")
            unpickler = _InertUnpickler(io.BytesIO(archive.read(names[0])), archive, prefix)
            root = unpickler.load()
            return TorchFile(root=root, names=frozenset(unpickler.names))
    except ArchiveError:
        raise
    except zipfile.BadZipFile as error:
        raise ArchiveError(
            f"{path} is not a model file (expected a zip file written by torch >= 1.6): {error}"
        ) from error
    except Exception as error:
        # A damaged pickle can fail in any way; all of them mean the same to the user.
        raise ArchiveError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def submodule(module: Inert, name: str) -> Any:
    """A child module, or None."""
    return _state(module, "_modules").get(name)


def submodules(module: Inert) -> list[Any]:
    """Children of a ModuleList in order."""
    return list(_state(module, "_modules").values())


def tensor(module: Inert, name: str) -> torch.Tensor:
    """A parameter, buffer or tensor attribute of the module itself; `KeyError` if none."""
    for kind in ("_parameters", "_buffers"):
        value = _state(module, kind).get(name)
        if isinstance(value, torch.Tensor):
            return value
    value = attribute(module, name)
    if not isinstance(value, torch.Tensor):
        raise KeyError(f"{getattr(module, 'class_name', module)} has no tensor {name}")
    return value


def attribute(module: Inert, name: str, default: Any = None) -> Any:
    """A plain attribute of the module, or the default."""
    return module.state.get(name, default) if isinstance(module.state, dict) else default


def _state(module: Inert, key: str) -> dict[str, Any]:
    value = module.state.get(key) if isinstance(module.state, dict) else None
    return value if isinstance(value, dict) else {}
