"""What goes wrong inside the engine reaches its caller as one error, and the engine goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mace_mm.evaluate.fold import fold
from mace_mm.kernels import ops
from mace_mm.kernels.backends import available_instruction_sets
from tests.support.engine_systems import LAYOUTS, NO_CELL, make_potential, structure

pytestmark = [
    pytest.mark.plain,
    pytest.mark.skipif(not available_instruction_sets(), reason="no compiled engine here"),
]
ROOT = Path(__file__).resolve().parents[2]

TEAM = r"""
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include "team.h"

struct Job {
  int phase, item, who;  // where to fail; who: 0 anyone, 1 only helpers, 2 the caller
  bool memory;
  std::atomic<int> done{0};
};
void work(void* context, int phase, int item, int worker) {
  Job& job = *static_cast<Job*>(context);
  std::this_thread::sleep_for(std::chrono::microseconds(20));
  const bool mine = job.who == 0 || (job.who == 1) == (worker > 0);
  if (phase == job.phase && item >= job.item && mine) {
    if (job.memory) throw std::bad_alloc();
    throw std::runtime_error("item " + std::to_string(phase));
  }
  job.done++;
}
void expect(bool right, const char* what) {
  if (!right) std::printf("wrong: %s\n", what), std::exit(1);
}
int main() {
  mm::Team team;
  const int counts[3] = {40, 0, 40};
  int thrown = 0;
  for (int round = 0; round < 60; round++) {
    Job job{round % 2 * 2, round % 7, round % 3, round % 5 == 0};
    std::string said;
    try {
      team.run(work, &job, counts, 3, 1 + round % 4);
    } catch (const std::bad_alloc&) {
      said = "memory";
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    thrown += !said.empty();
    const std::string want = job.memory ? "memory" : "item " + std::to_string(job.phase);
    expect(said.empty() || said == want, "what was thrown");
    expect(!said.empty() || job.who != 0, "an item that fails for anyone");
    expect(said.empty() == (job.done == 80), "items done");
    Job whole{-1, 0, 0, false};
    team.run(work, &whole, counts, 3, 1 + (round + 1) % 4);
    expect(whole.done == 80, "items of the run after a failure");
  }
  expect(thrown > 20, "number of failures");
  rlimit tight{1 << 20, RLIM_INFINITY};
  setrlimit(RLIMIT_AS, &tight);  // no room for the stack of another thread
  Job whole{-1, 0, 0, false};
  team.run(work, &whole, counts, 3, 9);
  expect(whole.done == 80, "items where no thread can be started");
  std::puts("right");
}
"""

MEMORY = """
import resource
import sys
from pathlib import Path
import torch

N, SKIN = 4000, 4.0
side = 16
grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 3)[:N]
grid = grid + 0.1 * torch.rand(N, 3, generator=torch.Generator().manual_seed(1)).double()
apart, close = 20.0 * grid, 1.6 * grid
torch.set_num_threads(int(sys.argv[1]))

def with_room(megabytes, call):
    "Call with so much memory left; what it raises, in the words of the user."
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, before[1]))
    try:
        return call()
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}".splitlines()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
"""
ASE = """
from ase import Atoms
from mace_mm import MACECalculator

def forces(positions):
    atoms.positions = positions
    return atoms.get_forces()

calculator = MACECalculator(skin=SKIN)
# The look at new structures wants memory first, and vesin's list, which it uses, ends the process
# where there is none; this is about the engine.
calculator._watch = lambda *structure: None
atoms = Atoms(f"C{N}", apart.numpy(), calculator=calculator)
forces(apart.numpy())
for room in (2, 4, 6, 9, 12):
    print(with_room(room, lambda: forces(close.numpy())))
print(len(forces(apart.numpy())))
"""
OPENMM = """
import openmm
from mace_mm.archive.open_model import open_model
from mace_mm.evaluate.build import build_evaluator
from mace_mm.openmm.force import make_force

def energy(positions):
    context.setPositions(positions.numpy() / 10)
    return context.getState(forces=True)

system = openmm.System()
for _ in range(N):
    system.addParticle(12.0)
evaluator = build_evaluator(open_model(), [6] * N, skin=SKIN, engine="native")
system.addForce(make_force(evaluator, atoms=None, periodic=False, interaction_energy=False,
                           backend="pythonforce"))
platform = openmm.Platform.getPlatform("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
energy(apart)
for room in (2, 4, 6, 9, 12):
    print(with_room(room, lambda: energy(close)))
print(len(energy(apart).getForces(asNumpy=True)))
"""


def test_what_a_helper_throws_comes_out_of_the_team(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    source, program = tmp_path / "team.cpp", tmp_path / "team"
    source.write_text(TEAM)
    include = ROOT / "engine" / "src"
    command = [compiler, "-std=c++20", "-O1", f"-I{include}", str(source), "-o", str(program)]
    subprocess.run([*command, "-pthread"], check=True, timeout=300)
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stdout + done.stderr


@pytest.mark.parametrize("user", ["ase", "openmm"])
@pytest.mark.parametrize("threads", [1, 4])
def test_too_little_memory_is_one_sentence(user: str, threads: int) -> None:
    script = MEMORY + (ASE if user == "ase" else OPENMM)
    done = subprocess.run(
        [sys.executable, "-c", script, str(threads)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *failures, after = done.stdout.splitlines()
    assert after == "4000" and len(failures) == 5
    kind = "BackendError" if user == "ase" else "OpenMMException"
    for failure in failures:
        assert failure == f"['{kind}: the engine failed: not enough memory for 4000 atoms']"


def evaluated(call, form: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    positions, species = structure(20, None)
    return call(positions, species, NO_CELL, form, state)[1]


@pytest.mark.parametrize("through", ["operator", "ctypes"])
def test_an_address_that_comes_again_belongs_to_the_new_tensor(through: str) -> None:
    call = torch.ops.mace_mm.energy_forces
    if through == "ctypes":
        call = ops.ThroughCtypes(ops.ENGINE)
    forms = [fold(make_potential(LAYOUTS["vectors"], seed=seed)).form for seed in (1, 2)]
    fresh = [evaluated(call, form, torch.zeros(1)) for form in forms]
    assert not torch.equal(*fresh)
    # What an allocator does when it gives a freed place away again: tensors that follow each other
    # in one piece of memory.
    memory, room = bytearray(forms[0].numel()), bytearray(8)
    for k in (0, 1, 0, 0, 1):
        form = torch.frombuffer(memory, dtype=torch.uint8)
        state = torch.frombuffer(room, dtype=torch.int64)
        form.copy_(forms[k])
        assert torch.equal(evaluated(call, form, state), fresh[k])
        assert torch.equal(evaluated(call, form, torch.zeros(1)), fresh[k])
        del form, state
    # The same tensor with another content.
    form, state = forms[0].clone(), torch.zeros(1)
    for k in (0, 1, 0):
        form.copy_(forms[k])
        assert torch.equal(evaluated(call, form, state), fresh[k])


def test_contexts_of_many_models_do_not_pile_up() -> None:
    call = ops.ThroughCtypes(ops.ENGINE)
    form = fold(make_potential(LAYOUTS["vectors"])).form
    states = [torch.zeros(1) for _ in range(70)]
    for state in states:
        evaluated(call, form, state)
        evaluated(call, form, states[0])
    assert len(call.contexts) == 64 and states[0].data_ptr() in call.contexts
    for state in states:
        call.forget(state.data_ptr())
    assert not call.contexts
