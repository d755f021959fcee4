"""Check and time the GPU engine: one command for a machine with a GPU, done in five minutes.

    python benchmarks/speed/gpu_check.py FOLDER [--seconds 240] [--atoms 27 50 1000 10000 100000]

Run it with the checkout on PYTHONPATH; numpy, torch and Triton are enough: weights are random. In
turn: energies, forces and virial of several layouts against the evaluation form in plain torch; the
operator, eager and compiled; OpenMM through PythonForce, where OpenMM is installed; times of the
small and medium layout, and of the same in mace-torch with and without cuEquivariance if there.
Writes ``gpu_check.json`` and ``gpu_check.md``; what does not run is written down with its reason.
With TRITON_INTERPRET=1 and ``--device cpu --tiny --atoms 3`` it runs without a GPU.
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from mace_mm.evaluate.compile import compile_module, run_compiled
from mace_mm.evaluate.engines import NativeEvaluator
from mace_mm.evaluate.fold import fold
from mace_mm.evaluate.gpu_operator import GpuContext
from mace_mm.kernels import reference
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.units import EV_TO_KJ_MOL, NM_TO_ANGSTROM

SMALL = {"channels": 96, "r_max": 4.5, "l_max": 3, "avg_num_neighbors": 20.0}
MEDIUM = {"channels": 128, "r_max": 5.0, "l_max": 3, "hidden_l_max": 1, "avg_num_neighbors": 27.0}
CHECKED = {
    "small": SMALL,
    "medium": MEDIUM,
    "large": {**MEDIUM, "hidden_l_max": 2, "channels": 64},
    "repulsion, transform": {
        **SMALL, "pair_repulsion": True, "distance_transform": "agnesi", "channels": 48
    },
    "three layers": {**MEDIUM, "channels": 32, "l_max": 2, "correlation": (2, 3, 1)},
    "residual": {**SMALL, "channels": 64, "residual_first": True},
}  # fmt: skip
TINY = {"tiny": {"channels": 16, "r_max": 1.9, "l_max": 1, "avg_num_neighbors": 4.0}}
SPACING = 3.1075  # Å, a cubic lattice of water at 0.997 g/mL
OPEN = torch.zeros(3, 3, dtype=torch.float64)


def make_potential(settings: dict) -> Potential:
    torch.manual_seed(4)
    config = MACEConfig(atomic_numbers=(1, 8), **settings)
    return Potential(MACE(config), torch.tensor([[-13.6, -2043.0]])).eval()


def water(n_atoms: int, periodic: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Species, positions and cell of about so many atoms of water."""
    random = torch.Generator().manual_seed(n_atoms)
    n = max(1, n_atoms // 3)
    side = max(1, round(n ** (1 / 3))) if periodic else -(-round(100 * n ** (1 / 3)) // 100) + 1
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 3)
    sites = grid.view(-1, 3) if periodic else grid.view(-1, 3)[:n]
    shape = torch.tensor([[0.0, 0, 0], [0.757, 0.5859, 0], [-0.757, 0.5859, 0]]).double()
    turns = torch.linalg.qr(torch.randn(len(sites), 3, 3, generator=random).double())[0]
    positions = (sites[:, None] * SPACING + shape @ turns).reshape(-1, 3)
    cell = torch.eye(3).double() * side * SPACING if periodic else OPEN
    return torch.tensor([1, 0, 0]).repeat(len(sites)), positions, cell


def difference(found: reference.Evaluated, wanted: reference.Evaluated) -> dict[str, float]:
    """Largest differences, relative to the largest value."""
    errors = {}
    for name in ("forces", "virial", "node_energies"):
        a, b = getattr(found, name).cpu(), getattr(wanted, name).cpu()
        errors[name] = float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))
    return errors


class Check:
    """Runs one part after another and keeps what came out; a part that fails stops no other."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self.end = time.perf_counter() + seconds
        self.results: dict[str, dict] = {}

    def part(self, name: str, run: Callable[[], dict]) -> None:
        if time.perf_counter() > self.end:
            self.results[name] = {"skipped": "no time left"}
            return
        start = time.perf_counter()
        try:
            self.results[name] = run()
        except ImportError as missing:
            self.results[name] = {"skipped": str(missing)}
        except Exception as problem:  # noqa: BLE001  (written down; the next part still runs)
            traceback.print_exc()
            self.results[name] = {"failed": f"{type(problem).__name__}: {problem}"[:500]}
        self.results[name]["part_s"] = round(time.perf_counter() - start, 2)
        print(name, self.results[name], flush=True)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def check_layout(check: Check, settings: dict, n_atoms: int) -> dict:
    """Against the form in plain torch, float64, in a box and in vacuum, moved and stretched."""
    potential = make_potential(settings)
    single, double = (fold(potential, precision=p).form for p in ("single", "double"))
    worst: dict[str, float] = {}
    for periodic in (True, False):
        species, positions, cell = water(n_atoms, periodic)
        context = GpuContext(single, species, check.device)
        for step in range(3):
            x = (1 + 0.002 * step) * positions + 0.05 * step * torch.sin(17 * positions)
            box = (1 + 0.002 * step) * cell
            wanted = reference.evaluate(double, x, species, box)
            found = context.evaluate(x.to(check.device), box.to(check.device), 0.5)
            for name, error in difference(found, wanted).items():
                worst[name] = max(worst.get(name, 0.0), error)
    repeated = context.evaluate(x.to(check.device), box.to(check.device), 0.5)
    same = bool(torch.equal(repeated.forces, found.forces))
    good = worst["forces"] < 5e-6 and same
    return {"good": good, "bitwise repeatable": same, "lists": context.n_builds, **worst}


def check_operator(check: Check) -> dict:
    """Compiled and eager, with positions on the GPU and on the CPU."""
    form = fold(make_potential({**SMALL, "channels": 32})).form
    species, positions, cell = water(81, True)
    module = NativeEvaluator(form, species, 0.5).to(check.device)
    box = torch.zeros(0).double() if not cell.any() else cell
    forces = {"eager": module.in_units(positions, box, 1.0, 1.0)[1].cpu()}
    holder = InUnits(module)
    compiled = compile_module(holder)
    forces["compiled"] = run_compiled(compiled, positions, box)[1].cpu()
    x, b = positions.to(check.device), box.to(check.device)
    forces["on the device"] = run_compiled(compiled, x, b)[1].cpu()
    wanted = reference.evaluate(form, positions, species, cell).forces
    scale = wanted.abs().max()
    errors = {k: float((v - wanted).abs().max() / scale) for k, v in forces.items()}
    return {"good": max(errors.values()) < 5e-6, **errors}


class InUnits(torch.nn.Module):
    """What TorchScript compiles here."""

    def __init__(self, evaluator: NativeEvaluator) -> None:
        super().__init__()
        self.evaluator = evaluator

    def forward(
        self, positions: torch.Tensor, box: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.evaluator.in_units(positions, box, 1.0, 1.0)


def check_openmm(check: Check, n_steps: int) -> dict:
    """PythonForce on the fastest platform: forces, and steps a second."""
    import openmm

    from mace_mm.openmm.force import make_force

    form = fold(make_potential(SMALL)).form
    species, positions, cell = water(27, False)
    evaluator = NativeEvaluator(form, species, 0.5).to(check.device)
    system = openmm.System()
    for z in species.tolist():
        system.addParticle((1.008, 15.999)[z])
    options = {"atoms": None, "periodic": False, "interaction_energy": True}
    system.addForce(make_force(evaluator, backend="pythonforce", **options))
    platforms = map(openmm.Platform.getPlatform, range(openmm.Platform.getNumPlatforms()))
    names = [platform.getName() for platform in platforms]
    name = "CUDA" if "CUDA" in names and check.device.type == "cuda" else "Reference"
    integrator = openmm.VerletIntegrator(1e-6)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform(name))
    context.setPositions(positions.numpy() / NM_TO_ANGSTROM)
    got = torch.tensor(context.getState(forces=True).getForces(asNumpy=True)._value)
    wanted = reference.evaluate(form, positions, species, cell).forces
    wanted = wanted * (EV_TO_KJ_MOL * NM_TO_ANGSTROM)
    error = float((got - wanted).abs().max() / wanted.abs().max())
    integrator.step(min(50, n_steps))
    start = time.perf_counter()
    integrator.step(n_steps)
    context.getState(positions=True)
    micro = 1e6 * (time.perf_counter() - start) / n_steps
    return {"good": error < 1e-5, "platform": name, "forces": error, "us_per_step": micro}


def times_of(check: Check, call: Callable[[int], object], seconds: float = 1.5) -> dict:
    """Milliseconds of a call, the device waited for each time."""
    for i in range(5):
        call(i)
    check.wait()
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 5 or (time.perf_counter() - start < seconds and len(found) < 2000):
        before = time.perf_counter()
        call(len(found))
        check.wait()
        found.append(1e3 * (time.perf_counter() - before))
    return {"median_ms": statistics.median(found), "fastest_ms": min(found), "calls": len(found)}


def time_ours(check: Check, settings: dict, n_atoms: int, products: str) -> dict:
    """Whole evaluations with positions on the device, then the kernels alone."""
    form = fold(make_potential(settings)).form
    species, positions, cell = water(n_atoms, n_atoms > 50)
    context = GpuContext(form, species, check.device)
    context._engine._step.products = products
    frames = [positions + 0.01 * torch.sin(17.0 * positions + i) for i in range(8)]
    frames = [x.to(check.device) for x in frames]
    box = cell.to(check.device)
    found = times_of(check, lambda i: context.evaluate(frames[i % 8], box, 0.5))
    replay = times_of(check, lambda i: context._engine._run(), 0.5)
    row = {"atoms": len(species), **found, "kernels_ms": replay["median_ms"]}
    row["us_per_atom"] = 1e3 * found["median_ms"] / len(species)
    row["edges_per_atom"] = len(context._edges[0]) / len(species)
    if check.device.type == "cuda":
        row["peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return row


def time_peer(check: Check, settings: dict, n_atoms: int, equivariance: bool) -> dict:
    """The same layout and atoms in mace-torch."""
    from gpu_mace_torch import make_call

    species, positions, cell = water(n_atoms, n_atoms > 50)
    call = make_call(settings, species, positions, cell, check.device, equivariance)
    return {"atoms": len(species), **times_of(check, call)}


def table(results: dict[str, dict]) -> str:
    """What was measured, for documentation."""
    lines = ["| engine | atoms | median ms | µs/atom | kernels ms |", "|---|---|---|---|---|"]
    for name, row in results.items():
        if "median_ms" in row:
            each = 1e3 * row["median_ms"] / row["atoms"]
            kernels = f"{row['kernels_ms']:.3f}" if "kernels_ms" in row else ""
            lines.append(
                f"| {name} | {row['atoms']} | {row['median_ms']:.3f} | {each:.3f} | {kernels} |"
            )
    lines += ["", "| check | result |", "|---|---|"]
    for name, row in results.items():
        if "median_ms" not in row:
            lines.append(f"| {name} | {json.dumps(row)} |")
    return "\n".join(lines) + "\n"


def run_all(check: Check, tiny: bool, sizes: list[int]) -> None:
    """Checks first, then times by growing size."""
    for name, settings in (TINY if tiny else CHECKED).items():
        atoms = 3 if tiny else 81
        check.part(f"check {name}", lambda s=settings, n=atoms: check_layout(check, s, n))
    if not tiny:
        check.part("check operator", lambda: check_operator(check))
        check.part("check OpenMM", lambda: check_openmm(check, 2000))
    layouts = TINY if tiny else {"small": SMALL, "medium": MEDIUM}
    for n in sizes:
        for name, s in layouts.items():
            for how in ("ieee",) if tiny else ("ieee", "tf32x3"):
                label = f"ours, {name}, {how}, {n}"
                check.part(label, lambda s=s, n=n, how=how: time_ours(check, s, n, how))
            if n <= 1000 and not tiny:
                for fast in (False, True):
                    label = f"mace-torch{', cuEquivariance' if fast else ''}, {name}, {n}"
                    check.part(label, lambda s=s, n=n, f=fast: time_peer(check, s, n, f))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--atoms", type=int, nargs="*", default=[27, 50, 1000, 10_000, 100_000])
    parser.add_argument("--tiny", action="store_true", help="a tiny layout only")
    options = parser.parse_args()
    device = torch.device(options.device)
    check = Check(device, options.seconds)
    run_all(check, options.tiny, options.atoms)
    machine = {"torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    options.output.mkdir(parents=True, exist_ok=True)
    written = {"machine": machine, "results": check.results}
    (options.output / "gpu_check.json").write_text(json.dumps(written, indent=1) + "\n")
    text = f"{json.dumps(machine)}\n\n{table(check.results)}"
    (options.output / "gpu_check.md").write_text(text)
    print(text)
    bad = [k for k, v in check.results.items() if "failed" in v or v.get("good") is False]
    return len(bad)


if __name__ == "__main__":
    raise SystemExit(main())
