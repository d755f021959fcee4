"""TorchScript: compiling a module, moving a compiled one through bytes, reading its errors.

Every call of ``torch.jit`` that does work lives on this floor, so that another format can stand
beside it.
"""

import io
import re
from typing import Any

import torch
from torch import nn

from mace_mm import errors
from mace_mm.evaluate import gpu_operator  # noqa: F401  (registers the operator, see there)

CompiledModule = torch.jit.ScriptModule
CompiledError = RuntimeError  # torch.jit.Error is one; operators raise their own

# The last line of what the interpreter reports: the class and the message that were raised.
_RAISED = re.compile(r"^mace_mm\.errors\.(\w+): (.*)", re.MULTILINE | re.DOTALL)
# What the operator of the compiled engine refuses, and how it fails; torch adds lines below.
_REFUSED = re.compile(r"mace_mm::energy_forces: (.*)")
_FAILED = re.compile(r"mace_mm::energy_forces failed: (.*)")


def compile_module(module: nn.Module) -> CompiledModule:
    """Compile a module in evaluation mode."""
    return torch.jit.script(module.eval())


def to_bytes(module: CompiledModule) -> bytes:
    """Save a compiled module, weights and all."""
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    return stream.getvalue()


def from_bytes(data: bytes, device: str | torch.device = "cpu") -> CompiledModule:
    """Load what :func:`to_bytes` saved."""
    return torch.jit.load(io.BytesIO(data), map_location=device)


def run_compiled(module: CompiledModule, *arguments: Any) -> Any:
    """Call a compiled module without the profiling optimizer.

    The optimizer spends seconds on the second and third call, and gains nothing measurable here.
    """
    with torch.jit.optimized_execution(False):
        return module(*arguments)


def raised_inside(error: Exception) -> errors.MaceMMError | None:
    """The error of this package that compiled code or an operator raised, out of torch's report.

    Args:
        error: what a module, or OpenMM around one, raised.

    Returns:
        The error to raise in its place; None if it is none of ours.
    """
    found = _RAISED.search(str(error))
    if found is None:
        refused, failed = _REFUSED.search(str(error)), _FAILED.search(str(error))
        if failed is not None:
            return errors.BackendError(f"the engine failed: {failed.group(1).strip()}")
        return None if refused is None else errors.GeometryError(refused.group(1).strip())
    kind = getattr(errors, found.group(1), errors.MaceMMError)
    return kind(found.group(2).strip())
