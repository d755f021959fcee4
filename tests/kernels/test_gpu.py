"""The Triton kernels against the evaluation form in plain torch.

Without a GPU they run in Triton's interpreter, in a process of its own: it must be switched on
before Triton is imported.
"""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")

PROGRAM = """
import json
import sys

import torch

from mace_mm.evaluate.fold import fold
from mace_mm.graph.cell_list import full_neighbor_list
from mace_mm.kernels.gpu.evaluator import GpuEvaluator
from mace_mm.kernels.reference import evaluate
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

settings, device = json.loads(sys.argv[1]), torch.device(sys.argv[2])
torch.manual_seed(4)
potential = Potential(MACE(MACEConfig(**settings)), torch.tensor([[-13.6, -1030.0, -2043.0]]))
with torch.no_grad():
    # Large enough that the contraction's cubic terms count.
    for layer in potential.network.layers:
        for weight in layer.interaction.linear.weights:
            weight.mul_(4.0)
form = fold(potential.eval()).form
species = torch.tensor([2, 0, 0, 1])
positions = torch.tensor(
    [[0.1, 0.0, 0.1], [0.96, 0.1, 0.0], [-0.24, 0.93, 0.1], [1.5, 1.2, 1.0]], dtype=torch.float64
)
cell = torch.tensor([[4.0, 0.0, 0.0], [0.7, 3.8, 0.0], [-0.3, 0.5, 3.6]], dtype=torch.float64)
engine = GpuEvaluator(form, species, device)
reach = settings["r_max"] + 0.3
edges = full_neighbor_list(positions, cell, torch.ones(3, dtype=torch.bool), reach)
engine.set_edges(*(part.to(device) for part in edges), positions.to(device))
for step in range(2):
    # The second step reuses the list with moved atoms and a changed cell.
    moved, box = positions + 0.05 * step * torch.sin(17 * positions), cell * (1 + 0.01 * step)
    want = evaluate(form, moved, species, box)
    result = engine.evaluate(moved.to(device), box.to(device))
    got, farthest = result.evaluated, float((moved - positions).norm(dim=1).max())
    if not result.finite or abs(result.moved - farthest) > 1e-12:
        sys.exit(f"finite {result.finite}, moved {result.moved}, should be {farthest}")
    for name in ("energies", "forces", "virial", "node_energies"):
        a, b = getattr(got, name).cpu(), getattr(want, name)
        scale = max(1.0, float(b.abs().max())) if name != "energies" else 1.0
        error = float((a - b).abs().max()) / scale
        if name == "energies":
            error /= max(1.0, float(b[1].abs()))
        if not error < 5e-6:
            sys.exit(f"{name} off by {error:.1e} in step {step}")
try:
    engine.set_edges(*(part.to(device)[:-1] for part in edges), positions.to(device))
except ValueError as problem:
    sys.exit(0 if "reverse" in str(problem) else f"another error: {problem}")
sys.exit("an incomplete list was accepted")
"""

BASE = {"atomic_numbers": [1, 6, 8], "r_max": 1.9, "channels": 16, "avg_num_neighbors": 4.0}
LAYOUTS = {
    "vectors, repulsion": {"hidden_l_max": 1, "pair_repulsion": True, "l_max": 2},
    "three layers": {"correlation": [2, 1, 3], "l_max": 1, "hidden_l_max": 1},
    "transform, residual": {"distance_transform": "agnesi", "residual_first": True, "l_max": 2},
}


def run(settings: dict[str, object], device: str) -> None:
    import json

    environment = {**os.environ}
    environment.pop("TRITON_INTERPRET", None)
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps({**BASE, **settings}), device],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_in_the_interpreter(layout: str) -> None:
    run(LAYOUTS[layout], "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_on_the_gpu(layout: str) -> None:
    assert torch.cuda.is_available()
    run(LAYOUTS[layout], "cuda")


COMPILE = """
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from mace_mm.evaluate.fold import fold
from mace_mm.kernels.gpu.evaluator import GpuEvaluator
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64"}
compiled = set()

def compile_instead(kernel, grid):
    def launch(*arguments, num_warps=4, **named):
        values = {**dict(zip(kernel.arg_names, arguments)), **named}
        fixed = {p.name for p in kernel.params if p.is_constexpr}
        types = {
            name: "constexpr" if name in fixed
            else POINTERS[values[name].dtype] if torch.is_tensor(values[name]) else "i32"
            for name in kernel.arg_names
        }
        constants = {(kernel.arg_names.index(name),): values[name] for name in fixed}
        source = ASTSource(kernel, types, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32),
                               options={"num_warps": num_warps})
        compiled.add((kernel.__name__, len(built.asm["cubin"]) > 0))
    return launch

JITFunction.__getitem__ = compile_instead
config = MACEConfig(atomic_numbers=(1, 8), r_max=1.9, channels=16, l_max=1, pair_repulsion=True)
potential = Potential(MACE(config), torch.zeros(1, 2, dtype=torch.float64)).eval()
engine = GpuEvaluator(fold(potential).form, torch.tensor([0, 1]), torch.device("cpu"))
engine._step.launch(engine.edges)
if len(compiled) != 9 or not all(good for _, good in compiled):
    raise SystemExit(f"compiled {sorted(compiled)}")
"""


def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
