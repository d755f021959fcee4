"""One seam for the three ways of calling torch from OpenMM.

torchforce        openmm-torch's TorchForce: compiled module, no Python in a step
pythontorchforce  openmm-torch's PythonTorchForce: Python, tensors that stay on the device
pythonforce       OpenMM's own PythonForce: Python and NumPy, with any torch
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openmm
import torch

from mace_mm.errors import BackendError
from mace_mm.evaluate.compile import (
    CompiledError,
    CompiledModule,
    compile_module,
    from_bytes,
    raised_inside,
    run_compiled,
    to_bytes,
)
from mace_mm.evaluate.engines import Evaluator, NativeEvaluator
from mace_mm.evaluate.form_source import FormSource
from mace_mm.kernels import ops
from mace_mm.openmm.interpolation import AT_ZERO, PARAMETER, fade_in
from mace_mm.openmm.module import InterpolatedModule, OpenMMModule

BACKENDS = ("auto", "torchforce", "pythontorchforce", "pythonforce")
# The wheel of PyPI does not say which torch it was built against, and does not run with another.
_TORCH_OF_WHEEL = {"1.5": "2.9."}

_KERNEL = "CalcTorchForce"

_log = logging.getLogger(__name__)


class PythonComputation:
    """What a PythonForce calls. Pickles, copies, and may be called from several threads."""

    def __init__(
        self,
        module: CompiledModule,
        periodic: bool,
        device: str,
        skipped: bool = False,
        source: FormSource | None = None,
    ) -> None:
        """
        Args:
            module: a compiled :class:`mace_mm.openmm.module.OpenMMModule`.
            periodic: whether the force uses the periodic box.
            device: of the module.
            skipped: do not evaluate while the interpolation is at zero.
            source: of the evaluator's form, which is then left out of the pickle.
        """
        self._module = module
        self._periodic = periodic
        self._device = device
        self._skipped = skipped
        self._source = source
        # The module keeps a neighbor list: contexts of one System take turns.
        self._lock = threading.Lock()
        state = getattr(getattr(module, "evaluator", None), "state", None)
        if state is not None:
            ops.forget_with(self, state)

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces (n_atoms, 3) in kJ/mol/nm of the atoms of the force.

        Raises:
            GeometryError: see :class:`mace_mm.evaluate.engines.Evaluator`.
        """
        # What getPositions(asNumpy=True) does, which takes 20 µs more for units and attributes: as
        # much as the rest of OpenMM's step of a ligand.
        positions = np.empty((state._getNumParticles(), 3))
        state._getVectorAsNumpy(openmm.State.Positions, positions)
        energy, forces = self.evaluate(state, torch.from_numpy(positions))
        return energy.item(), forces.numpy()

    def evaluate(
        self, state: openmm.State, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the module on positions (n_atoms, 3) in nm and the box of the state."""
        if self._skipped:
            parameters = state.getParameters()
            if parameters[PARAMETER] == 0.0 and parameters[AT_ZERO] == 0.0:
                return torch.zeros([], dtype=torch.float64), torch.zeros_like(positions)
        box = None
        if self._periodic:
            box = torch.from_numpy(state.getPeriodicBoxVectors(asNumpy=True)._value)
        try:
            with self._lock:
                return run_compiled(self._module, positions, box)
        except CompiledError as error:
            raise (raised_inside(error) or error) from None

    def __getstate__(self) -> dict[str, Any]:
        return {
            "module": self._to_bytes(),
            "source": self._source,
            "periodic": self._periodic,
            "device": self._device,
            "skipped": self._skipped,
        }

    def _to_bytes(self) -> bytes:
        if self._source is None:
            return to_bytes(self._module)
        evaluator = self._module.evaluator
        with self._lock:
            form = evaluator.form
            evaluator.form = form.new_zeros(0)
            try:
                return to_bytes(self._module)
            finally:
                evaluator.form = form

    def __setstate__(self, state: dict[str, Any]) -> None:
        device = state["device"]
        if device.startswith("cuda") and not torch.cuda.is_available():
            _log.warning("the force was made for %s, torch sees no GPU: it runs on the CPU", device)
            device = "cpu"
        module, source = from_bytes(state["module"], device), state["source"]
        if source is not None:
            module.evaluator.form = source.form().to(device)
        self.__init__(  # type: ignore[misc]
            module, state["periodic"], device, state["skipped"], source
        )


class TensorComputation(PythonComputation):
    """What a PythonTorchForce calls: positions come and forces go as tensors."""

    def __call__(  # type: ignore[override]
        self, state: openmm.State, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.evaluate(state, positions)


def make_force(
    evaluator: Evaluator,
    *,
    atoms: Sequence[int] | None,
    periodic: bool,
    interaction_energy: bool,
    backend: str = "auto",
    interpolated: bool = False,
) -> openmm.Force:
    """Make the OpenMM Force that evaluates some particles.

    Args:
        evaluator: of the atoms, in their order.
        atoms: their particle indices, in any order; None for all particles of the System.
        periodic: whether the force uses the periodic box.
        interaction_energy: without the energies of isolated atoms, or with them.
        backend: "torchforce", "pythontorchforce", "pythonforce" or "auto".
        interpolated: scale by a global parameter, see :mod:`mace_mm.openmm.interpolation`.

    Raises:
        BackendError: an unknown backend, or one that is not installed or does not load here.
    """
    name, reason = choose_backend(backend)
    _log.info("OpenMM backend %s: %s", name, reason)
    taken = None if atoms is None else [int(i) for i in atoms]
    selected = taken is not None and name == "torchforce"
    index = torch.tensor(taken, device=evaluator.species.device) if selected else None
    module: torch.nn.Module = OpenMMModule(evaluator, index, periodic, interaction_energy)
    if interpolated and name == "torchforce":
        module = InterpolatedModule(module)
    compiled = compile_module(module.to(evaluator.species.device))
    if name == "torchforce":
        problem = copy_problem()
        if problem is not None:
            _log.warning("%s: use backend 'pythonforce' where Systems are copied", problem)
        force = _plugin().TorchForce(compiled)
        force.setOutputsForces(True)
        if interpolated:
            force.addGlobalParameter(PARAMETER, 1.0)
            force.addGlobalParameter(AT_ZERO, 0.0)
            force.addEnergyParameterDerivative(PARAMETER)
    else:
        device = str(evaluator.species.device)
        parameters = {PARAMETER: 1.0, AT_ZERO: 0.0} if interpolated else {}
        source = evaluator.source if isinstance(evaluator, NativeEvaluator) else None
        if name == "pythonforce":
            computation = PythonComputation(compiled, periodic, device, interpolated, source)
            force = openmm.PythonForce(computation, parameters)
        else:
            computation = TensorComputation(compiled, periodic, device, interpolated, source)
            force = _plugin().PythonTorchForce(computation, parameters)
        if taken is not None:
            force.setParticles(taken)
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setName("MACE")
    if interpolated and name != "torchforce":
        # These forces know no parameter derivatives: a force around them does.
        return fade_in(force, skipped=True)
    return force


def choose_backend(requested: str = "auto") -> tuple[str, str]:
    """The backend to use and why.

    Raises:
        BackendError: unknown, not installed, or not loading.
    """
    if requested not in BACKENDS:
        raise BackendError(f"backend must be one of {BACKENDS}, got {requested!r}")
    if requested == "pythonforce":
        return requested, "asked for"
    if requested != "auto":
        problem = backend_problem(requested)
        if problem is not None:
            raise BackendError(f"backend {requested!r} was asked for, but {problem}")
        return requested, "asked for"
    problems: list[str] = []
    for name in ("torchforce", "pythontorchforce"):
        problem = backend_problem(name)
        if problem is None and name == "torchforce":
            problem = copy_problem()
        if problem is None:
            return name, "; ".join(["the plugin openmm-torch is installed", *problems])
        problems.append(f"{name} is not used because {problem}")
    return "pythonforce", "; ".join(problems)


def backend_problem(name: str) -> str | None:
    """Why a backend of the plugin cannot be used here; None if it can."""
    if importlib.util.find_spec("openmmtorch") is None:
        return "the package openmmtorch is not installed"
    try:
        needed = _TORCH_OF_WHEEL.get(importlib.metadata.version("openmmtorch"))
    except importlib.metadata.PackageNotFoundError:
        needed = None  # built with conda or from source, against the torch beside it
    if needed is not None and not torch.__version__.startswith(needed):
        return f"its wheel runs with torch {needed}x only, this is torch {torch.__version__}"
    try:
        plugin = _plugin()
    except (ImportError, OSError) as error:
        return f"openmmtorch does not load: {error}"
    attribute = {"torchforce": "TorchForce", "pythontorchforce": "PythonTorchForce"}[name]
    if not hasattr(plugin, attribute):
        return f"this openmmtorch has no {attribute}"
    return None


def copy_problem() -> str | None:
    """Why a TorchForce must not be copied or read from XML here; None if it may.

    The wheel of openmmtorch 1.5 was compiled for an OpenMM whose ``getStringProperty`` returned a
    reference; OpenMM 8.6 returns a value, and the wheel's reader of XML crashes the process.
    """
    from_wheel = "OpenMM.libs" in openmm.version.openmm_library_path
    version = tuple(int(n) for n in openmm.version.short_version.split(".")[:2])
    try:
        affected = importlib.metadata.version("openmmtorch") == "1.5"
    except importlib.metadata.PackageNotFoundError:
        affected = False
    if from_wheel and affected and version >= (8, 6):
        return "openmmtorch 1.5 of PyPI crashes when OpenMM 8.6 copies a TorchForce or reads XML"
    return None


def _plugin() -> ModuleType:
    """Import openmmtorch, with its kernels.

    OpenMM loads its plugins when it is imported; without torch in memory those of openmm-torch then
    fail to find torch's libraries, and are loaded here for a second time.
    """
    plugin = importlib.import_module("openmmtorch")
    folder = Path(openmm.version.openmm_library_path) / "plugins"
    for i in range(openmm.Platform.getNumPlatforms()):
        platform = openmm.Platform.getPlatform(i)
        if platform.supportsKernels([_KERNEL]):
            continue
        for library in folder.glob(f"*OpenMMTorch{platform.getName()}.*"):
            try:
                openmm.Platform.loadPluginLibrary(str(library))
            except openmm.OpenMMException as error:
                _log.info("%s does not load: %s", library.name, error)
    if not openmm.Platform.getPlatform("Reference").supportsKernels([_KERNEL]):
        raise ImportError(f"no kernels of openmm-torch were found in {folder}")
    return plugin
