"""The operator of the GPU behind the evaluator and OpenMM, with Triton's interpreter as the GPU.

One small program in a process of its own: the interpreter must be switched on before Triton is
imported, and the operator takes the place of the CPU's.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

PREPARE = """
import copy

import openmm
import torch

from mace_mm.evaluate import gpu_operator
from mace_mm.evaluate.fold import fold
from mace_mm.errors import BackendError, GeometryError
from mace_mm.kernels import ops, reference
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.evaluate import engine_check
from mace_mm.evaluate.engines import NativeEvaluator, ReferenceEvaluator
from mace_mm.openmm.force import make_force

torch.manual_seed(4)
config = MACEConfig(atomic_numbers=(1, 8), r_max=1.9, channels=16, l_max=1, correlation=(2, 2))
potential = Potential(MACE(config), torch.tensor([[-13.6, -2043.0]])).eval()
folded = fold(potential)
species = torch.tensor([1, 0, 0])
water = torch.tensor([[0.1, 0, 0], [0.96, 0.1, 0], [-0.24, 0.93, 0.1]], dtype=torch.float64)
cell = torch.tensor([[4.0, 0, 0], [0.7, 3.8, 0], [-0.3, 0.5, 3.6]], dtype=torch.float64)
yes, no = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
gpu = torch.library.Library("mace_mm", "IMPL")
gpu.impl("energy_forces", gpu_operator.energy_forces, "CPU", allow_override=True)
evaluator = NativeEvaluator(folded.form, species, skin=0.3)

def close(a, b, what):
    error = float((a.double() - b.double()).abs().max())
    if not error <= 5e-6 * max(1.0, float(b.abs().max())):
        raise SystemExit(f"{what} differ by {error:.1e}")

def refused(call, words):
    try:
        call()
    except (BackendError, GeometryError) as problem:
        if words in str(problem):
            return
        raise SystemExit(f"{problem!r} lacks {words!r}")
    raise SystemExit(f"nothing refused where {words!r} was expected")
"""

LIST = """
def step(x, box, builds):
    wanted = reference.evaluate(folded.form, x, species, box)
    found = evaluator(x, box, yes)
    close(found.forces, wanted.forces, "forces")
    close(found.virial[0], wanted.virial, "virials")
    close(found.node_energies, wanted.node_energies, "node energies")
    (kept,) = gpu_operator._contexts.values()
    if kept.context.n_builds != builds:
        raise SystemExit(f"{kept.context.n_builds} lists built, expected {builds}")

push = torch.tensor([[0.0, 0.1, 0], [0, 0, 0.1], [0.1, 0, 0]])
step(water, cell, 1)
step(water + push, cell, 1)
step(1.01 * water, 1.01 * cell, 1)
step(water + 2 * push, cell, 2)
step(0.8 * water, 0.8 * cell, 3)
broken = water.clone()
broken[1, 2] = torch.nan
refused(lambda: evaluator(broken, cell, yes), "positions must be finite; those of atom 1 are not")
broken = water.clone()
broken[1] = broken[2]
refused(lambda: evaluator(broken, cell, yes), "coincide: 0.0")
refused(lambda: evaluator(water, cell * 0.01, yes), "at least 0.5")
alone = NativeEvaluator(folded.form, species[:1], skin=0.3)(water[:1], 0 * cell, no)
close(alone.forces, torch.zeros(1, 3), "forces on one atom")
own = NativeEvaluator(folded.form, species.clone(), skin=0.3)
for order in ([1, 0, 0], [0, 1, 0]):  # written to where they are
    own.species.copy_(torch.tensor(order))
    wanted = reference.evaluate(folded.form, water, own.species, cell)
    close(own(water, cell, yes).forces, wanted.forces, "forces of other elements")
gpu_operator.forget(own.state.data_ptr())
if any(kept.named_by[0] is own.state for kept in gpu_operator._contexts.values()):
    raise SystemExit("a context was not forgotten")
"""

OPENMM = """
from mace_mm.units import EV_TO_KJ_MOL, NM_TO_ANGSTROM

system = openmm.System()
for _ in species:
    system.addParticle(1.0)
system.setDefaultPeriodicBoxVectors(*(cell / NM_TO_ANGSTROM).tolist())
system.addForce(make_force(evaluator, atoms=None, periodic=True, interaction_energy=False,
                           backend="pythonforce"))
again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
wanted = reference.evaluate(folded.form, water, species, cell)
for one in (system, again, copy.deepcopy(system)):
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(one, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(water.numpy() / NM_TO_ANGSTROM)
    state = context.getState(energy=True, forces=True)
    energy = torch.tensor([state.getPotentialEnergy()._value], dtype=torch.float64) / EV_TO_KJ_MOL
    close(energy - wanted.energies[0], torch.zeros(1), "energies")
    forces = torch.tensor(state.getForces(asNumpy=True)._value)
    close(forces / (EV_TO_KJ_MOL * NM_TO_ANGSTROM), wanted.forces, "forces")
broken[0, 0] = torch.nan
context.setPositions((broken / NM_TO_ANGSTROM).numpy())
try:
    context.getState(forces=True)
except (openmm.OpenMMException, GeometryError) as problem:
    if "coincide" not in str(problem) and "finite" not in str(problem):
        raise
"""

CHECK = """
def exact(numbers):
    of = [folded.atomic_numbers.index(z) for z in numbers]
    return ReferenceEvaluator(copy.deepcopy(potential).double(), torch.tensor(of), 0.5)

engine_check._MIN_ATOMS = 4
engine = engine_check.gpu_candidate(torch.device("cpu"))
engine_check.check_engine(engine, folded, exact)
engine_check.TOLERANCES["single"] = 1e-12
engine_check._mark(engine, folded).unlink()
refused(lambda: engine_check.check_engine(engine, folded, exact), "(Triton, interpreter)")
refused(lambda: gpu_operator.GpuContext(fold(potential, precision="double").form, species,
                                        torch.device("cpu")), "in single precision")
"""


@pytest.mark.parametrize("part", ["list", "openmm", "check"])
def test_operator_of_the_gpu(part: str, tmp_path) -> None:
    program = PREPARE + {"list": LIST, "openmm": "broken = water.clone()\n" + OPENMM}.get(
        part, CHECK
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRITON_INTERPRET": "1", "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
