"""Long runs with a model: molecules of FreeSolv in vacuum, and liquid water.

    python benchmarks/accuracy/stability.py {langevin,nve,water} SHARED OUT.json [--count N]
                                                             [--ps T] [--workers N]

langevin: 300 K, 1 fs. A molecule fails when a bond breaks or forms (`mace_mm.identity`), with an
exploded energy or a NaN. nve: velocity Verlet at 0.5 fs after
5 ps at 300 K; the drift of the total energy is the slope of a line. water: NPT at 300 K and 1 bar.
OUT.json is written after each molecule; a run that was stopped goes on with the next one. Failures
are kept in the file. One thread a worker.
"""

import argparse
import json
import multiprocessing
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import unit
from openmmml import MLPotential
from stability_water import run_water

from mace_mm.archive.open_model import open_model
from mace_mm.errors import MaceMMError
from mace_mm.identity.watch import MoleculeWatch
from mace_mm.openmm.topology_identity import topology_identity
from mace_mm.simulation.ligand import Ligand, load_ligand
from mace_mm.simulation.watch.settings import DESTROYED

TEMPERATURE_K = 300.0
FRICTION_PER_PS = 1.0
TIMESTEP_FS = 1.0
NVE_TIMESTEP_FS = 0.5
EQUILIBRATION_PS = 5.0
CHECK_EVERY_PS = 0.1
# The mean is about kT/2 for each of 3 coordinates.
EXPLODED_KT_PER_ATOM = 15.0
BOLTZMANN_KJ_MOL_K = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)


def freesolv(shared: Path, elements: set[int], count: int) -> list[tuple[str, Ligand]]:
    """`count` molecules, evenly spaced in the order of their names; neutral, of known elements."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(shared / "data" / "freesolv" / "sdffiles.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        every = []
        for path in sorted(Path(folder).rglob("*.sdf")):
            ligand = load_ligand(str(path))
            numbers = {a.element.atomic_number for a in ligand.topology.atoms()}
            if numbers <= elements and not ligand.total_charge:
                every.append((path.stem, ligand))
    chosen = np.unique(np.linspace(0, len(every) - 1, count).round().astype(int))
    return [every[k] for k in chosen]


class Run:
    """One molecule in OpenMM."""

    def __init__(self, ligand: Ligand, model: str | None, timestep_fs: float, seed: int) -> None:
        system = MLPotential("mace", modelPath=model).createSystem(ligand.topology)
        self.integrator = openmm.CompoundIntegrator()
        self.integrator.addIntegrator(
            openmm.LangevinMiddleIntegrator(
                TEMPERATURE_K * unit.kelvin,
                FRICTION_PER_PS / unit.picosecond,
                TIMESTEP_FS * unit.femtosecond,
            )
        )
        self.integrator.addIntegrator(openmm.VerletIntegrator(timestep_fs * unit.femtosecond))
        self.integrator.getIntegrator(0).setRandomNumberSeed(seed)
        self.context = openmm.Context(
            system, self.integrator, openmm.Platform.getPlatform("Reference")
        )
        self.context.setPositions(ligand.positions_nm)
        openmm.LocalEnergyMinimizer.minimize(self.context, maxIterations=500)
        identity = topology_identity(ligand.topology, ligand.positions_nm, molecule=ligand.molecule)
        self.watch, self.n_atoms = MoleculeWatch(identity), identity.n_atoms
        self.start_energy, _ = self._look()
        self.context.setVelocitiesToTemperature(TEMPERATURE_K * unit.kelvin, seed)

    def _look(self) -> tuple[float, np.ndarray]:
        state = self.context.getState(energy=True, positions=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        return energy, np.asarray(positions)

    def total_energy(self) -> float:
        """Potential and kinetic, kJ/mol."""
        state = self.context.getState(energy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        return float(total.value_in_unit(unit.kilojoule_per_mole))

    def step(self, ps: float) -> None:
        step_ps = self.integrator.getStepSize().value_in_unit(unit.picosecond)
        self.integrator.step(round(ps / step_ps))

    def problem(self) -> str | None:
        """What is wrong now."""
        energy, positions = self._look()
        if not np.isfinite(energy):
            return "not a number"
        changes = [c for c in self.watch.look(positions) if c.kind in DESTROYED]
        if changes:
            return changes[0].text
        above = (energy - self.start_energy) / (BOLTZMANN_KJ_MOL_K * TEMPERATURE_K)
        if above > EXPLODED_KT_PER_ATOM * self.n_atoms:
            return f"energy {above:.0f} kT above the start"
        return None


def langevin(ligand: Ligand, model: str | None, ps: float, seed: int) -> dict:
    """One molecule at constant temperature."""
    began = time.process_time()
    run, done, problem = Run(ligand, model, TIMESTEP_FS, seed), 0.0, None
    while done < ps - 1e-9 and problem is None:
        run.step(CHECK_EVERY_PS)
        done += CHECK_EVERY_PS
        problem = run.problem()
    return {
        "smiles": ligand.smiles,
        "n_atoms": ligand.n_atoms,
        "ps": round(done, 3),
        "failure": problem,
        "cpu_s": round(time.process_time() - began, 1),
    }


def nve(ligand: Ligand, model: str | None, ps: float, seed: int) -> dict:
    """One molecule at constant energy."""
    run = Run(ligand, model, NVE_TIMESTEP_FS, seed)
    run.step(EQUILIBRATION_PS)
    run.integrator.setCurrentIntegrator(1)
    times, energies = [], []
    for k in range(round(ps / CHECK_EVERY_PS)):
        run.step(CHECK_EVERY_PS)
        times.append((k + 1) * CHECK_EVERY_PS)
        energies.append(run.total_energy())
    slope = np.polyfit(times, energies, 1)[0] / ligand.n_atoms
    return {
        "smiles": ligand.smiles,
        "n_atoms": ligand.n_atoms,
        "ps": ps,
        "drift_kj_mol_atom_ps": float(f"{slope:.3g}"),
        "fluctuation_kj_mol": float(f"{np.std(energies):.3g}"),
        "failure": run.problem(),
    }


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("langevin", "nve", "water"))
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", help="an archive; the bundled model if left out")
    parser.add_argument("--count", type=int, default=100, help="molecules, of FreeSolv or of water")
    parser.add_argument("--ps", type=float, default=100.0)
    parser.add_argument("--workers", type=int, default=1, help="molecules at a time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    archive = open_model(arguments.model)
    content = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if content.get("model", archive.sha256) != archive.sha256:
        raise SystemExit(f"{arguments.out} was made with other weights: remove it first")
    content["model"] = archive.sha256
    if arguments.kind == "water":
        picture = arguments.out.with_suffix(".png")
        content |= run_water(arguments.model, arguments.count, arguments.ps, picture)
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")
        return
    molecules = content.setdefault("molecules", {})
    elements = set(archive.config.atomic_numbers)
    chosen = freesolv(arguments.shared, elements, arguments.count)
    waiting = [
        (arguments.kind, name, ligand, arguments.model, arguments.ps, seed + 1)
        for seed, (name, ligand) in enumerate(chosen)
        if name not in molecules
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for name, result in pool.imap_unordered(_run, waiting):
            molecules[name] = result
            print(len(molecules), name, result, flush=True)
            content["molecules"] = dict(sorted(molecules.items()))
            arguments.out.write_text(json.dumps(content, indent=1) + "\n")


def _run(job: tuple[str, str, Ligand, str | None, float, int]) -> tuple[str, dict]:
    kind, name, ligand, *rest = job
    torch.set_num_threads(1)
    try:
        return name, (langevin if kind == "langevin" else nve)(ligand, *rest)
    except (MaceMMError, openmm.OpenMMException) as error:
        return name, {"smiles": ligand.smiles, "failure": str(error).splitlines()[0]}


if __name__ == "__main__":
    main()
