"""What large systems and short runs cost: memory, time an atom, the first energy, OpenMM's share.

    python benchmarks/speed/bench_scale.py [MODEL] [-o OUT] [--atoms 1000 100000] [--boxes-only]

MODEL is an archive, a published .model or the name of a bundled one. Each row is a process of its
own. Boxes are water at normal density, in single precision; the ligand has 27 atoms. Memory is the
peak of the whole process, Python and torch included. OpenMM's share compares a step on the
Reference platform with the bare evaluator on a trajectory of that ligand, in turn in one process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

BLOCKS = 60
STEPS = 100


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def box(model: str, n_atoms: str) -> dict:
    """Energy and forces of a box of water."""
    import torch

    from mace_mm.archive.open_model import open_model
    from mace_mm.evaluate.build import build_evaluator
    from mace_mm.simulation.benchmark.timing import describe_machine, make_system

    archive = open_model(model)
    before = peak_mib()
    system = make_system(int(n_atoms))
    frames, cell = torch.tensor(system.frames), torch.tensor(system.cell)
    evaluator = build_evaluator(archive, system.numbers.tolist(), engine="native")
    times = []
    with torch.no_grad():
        while len(times) < 5 or (sum(times) < 20.0 and len(times) < 300):
            start = time.perf_counter()
            evaluator.in_units(frames[len(times) % len(frames)], cell, 1.0, 1.0)
            times.append(time.perf_counter() - start)
    median = statistics.median(times[2:])
    return {
        "atoms": len(system.numbers),
        "ms": 1e3 * median,
        "us_per_atom": 1e6 * median / len(system.numbers),
        "calls": len(times) - 2,
        "opened_mib": before,
        "peak_mib": peak_mib(),
        "machine": describe_machine(),
    }


def ligand_in_openmm(model: str, backend: str = "auto") -> tuple[object, object]:
    """A Context of the ligand on the Reference platform, and its integrator."""
    import openmm
    from openmm import unit
    from openmmml import MLPotential

    from mace_mm.simulation.benchmark.timing import LIGAND
    from mace_mm.simulation.ligand import ligand_from_smiles

    ligand = ligand_from_smiles(LIGAND)
    system = MLPotential("mace", modelPath=model).createSystem(ligand.topology, backend=backend)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.001)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(ligand.positions_nm * unit.nanometer)
    return context, integrator


def first_energy(model: str) -> dict:
    """Seconds from the start of Python to the first energy in OpenMM."""
    context, _ = ligand_in_openmm(model)
    context.getState(energy=True).getPotentialEnergy()
    ticks = float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    now = float(Path("/proc/uptime").read_text().split()[0])
    return {"seconds": now - ticks / os.sysconf("SC_CLK_TCK"), "peak_mib": peak_mib()}


def overhead(model: str, backend: str) -> dict:
    """A step of the ligand in OpenMM over the bare evaluator, blocks in turn."""
    import torch

    from mace_mm.archive.open_model import open_model
    from mace_mm.evaluate.build import build_evaluator
    from mace_mm.simulation.benchmark.timing import make_system

    context, integrator = ligand_in_openmm(model, backend)
    context.setVelocitiesToTemperature(300, 1)
    trajectory = []
    for _ in range(STEPS):
        integrator.step(1)
        found = context.getState(positions=True).getPositions(asNumpy=True)._value
        trajectory.append(torch.tensor(found) * 10)
    numbers = make_system(27).numbers.tolist()
    evaluator = build_evaluator(open_model(model), numbers, engine="native")
    no_box, steps, bare = torch.zeros(0, dtype=torch.float64), [], []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        integrator.step(STEPS)
        steps.append((time.perf_counter() - start) / STEPS)
        with torch.no_grad():
            start = time.perf_counter()
            for positions in trajectory:
                evaluator.in_units(positions, no_box, 1.0, 1.0)
            bare.append((time.perf_counter() - start) / STEPS)
    step, alone = statistics.median(steps[1:]), statistics.median(bare[1:])
    ratios = [one / other for one, other in zip(steps[1:], bare[1:], strict=True)]
    return {
        "backend": backend,
        "step_us": 1e6 * step,
        "evaluator_us": 1e6 * alone,
        "ratio": statistics.median(ratios),
    }


def measure(what: str, model: str, *words: str) -> dict:
    """One row, from a process of its own."""
    print(what, *words, flush=True)
    command = [sys.executable, __file__, model, "--row", what, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(f"  {row}", flush=True)
    return row


def main() -> None:
    """Measure all rows, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="small")
    parser.add_argument("-o", "--output", type=Path, default=Path("scale.json"))
    parser.add_argument("--atoms", nargs="*", default=["1000", "100000"])
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument(
        "--boxes-only",
        action="store_true",
        help="for random weights, whose forces tear the ligand apart",
    )
    arguments = parser.parse_args()
    if arguments.row:
        what, *words = arguments.row
        rows = {"box": box, "first_energy": first_energy, "overhead": overhead}
        print(json.dumps(rows[what](arguments.model, *words)))
        return
    results: dict = {}
    if not arguments.boxes_only:
        from mace_mm.openmm.force import backend_problem

        results["first_energy"] = [measure("first_energy", arguments.model) for _ in range(5)]
        results["overhead"] = [
            measure("overhead", arguments.model, backend)
            for backend in ("torchforce", "pythonforce")
            if backend == "pythonforce" or backend_problem(backend) is None
        ]
    results["boxes"] = [measure("box", arguments.model, atoms) for atoms in arguments.atoms]
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
