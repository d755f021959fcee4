"""The same run twice: molecular dynamics of a ligand by OpenMM and by ASE, with one model.

Both start from the same minimized structure and the same velocities and integrate Newton's
equations for 1,000 steps of 0.5 fs, OpenMM through ``MLPotential('mace')`` and ASE through
``MACECalculator``. OpenMM's Verlet integrator leaps: its velocities belong half a step before the
positions, so it is handed velocities that are half a step old. The two trajectories are then the
same but for rounding, which chaos multiplies slowly. With double precision they agree to far less
than a thousandth of an ångström after 1,000 steps; with single precision (``--precision single``)
they part earlier, and what still agrees is the potential energy of each structure.

    python examples/compare_openmm_ase.py
    python examples/compare_openmm_ase.py --smiles CCO --steps 200 --precision single

Prints a table every 100 steps and ends with exit status 1 if the runs disagree.
"""

import argparse
import sys
import time

import ase
import numpy as np
import openmm
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from openmm import unit
from openmmml import MLPotential

from mace_mm import MACECalculator
from mace_mm.simulation.ligand import load_ligand
from mace_mm.units import EV_TO_KJ_MOL

IBUPROFEN = "CC(C)Cc1ccc(cc1)C(C)C(=O)O"
TIMESTEP_FS = 0.5
TEMPERATURE_K = 300.0
# Energy of one structure by both codes, and positions after the whole run, Å.
ENERGY_BOUND = {"double": 1e-6, "single": 1e-2}
POSITION_BOUND = {"double": 1e-3, "single": 1.0}


def starting_point(smiles: str, precision: str) -> tuple[ase.Atoms, openmm.app.Topology]:
    """A minimized ligand with velocities of the temperature and no overall motion."""
    ligand = load_ligand(smiles)
    numbers = [atom.element.atomic_number for atom in ligand.topology.atoms()]
    atoms = ase.Atoms(numbers, ligand.positions_nm * 10)
    atoms.calc = MACECalculator(precision=precision)
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=300)
    # One set of masses for both: those of OpenMM.
    masses = [atom.element.mass.value_in_unit(unit.dalton) for atom in ligand.topology.atoms()]
    atoms.set_masses(masses)
    random = np.random.default_rng(2026).normal(size=(len(atoms), 3))
    momenta = random * np.sqrt(units.kB * TEMPERATURE_K * atoms.get_masses())[:, None]
    momenta -= atoms.get_masses()[:, None] * momenta.sum(0) / atoms.get_masses().sum()
    atoms.set_momenta(momenta)
    return atoms, ligand.topology


def openmm_context(
    atoms: ase.Atoms, topology: openmm.app.Topology, precision: str
) -> openmm.Context:
    """The same state in OpenMM, velocities half a step earlier."""
    system = MLPotential("mace").createSystem(
        topology, removeCMMotion=False, precision=precision, returnEnergyType="energy"
    )
    integrator = openmm.VerletIntegrator(TIMESTEP_FS * unit.femtosecond)
    platform = openmm.Platform.getPlatform("Reference")  # positions in double precision
    context = openmm.Context(system, integrator, platform)
    context.setPositions(atoms.positions * 0.1)
    acceleration = atoms.get_forces() / atoms.get_masses()[:, None]
    earlier = atoms.get_velocities() - 0.5 * TIMESTEP_FS * units.fs * acceleration
    context.setVelocities(earlier * units.fs * 1000 * 0.1)  # Å per ASE time unit to nm/ps
    return context


def main() -> int:
    """Run both and compare; returns the exit status."""
    parser = argparse.ArgumentParser(description="molecular dynamics by OpenMM and by ASE")
    parser.add_argument("--smiles", default=IBUPROFEN)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--precision", choices=sorted(ENERGY_BOUND), default="double")
    options = parser.parse_args()

    atoms, topology = starting_point(options.smiles, options.precision)
    context = openmm_context(atoms, topology, options.precision)
    dynamics = VelocityVerlet(atoms, timestep=TIMESTEP_FS * units.fs)
    every = max(1, options.steps // 10)
    seconds = {"OpenMM": 0.0, "ASE": 0.0}
    worst_energy = distance = 0.0
    print(f"{options.smiles}: {len(atoms)} atoms, {options.steps} steps of {TIMESTEP_FS} fs")
    print(f"{'step':>6} {'E(OpenMM)/eV':>18} {'E(ASE)/eV':>18} {'same x: dE/eV':>15} {'dx/Å':>10}")
    for step in range(every, options.steps + 1, every):
        start = time.perf_counter()
        context.getIntegrator().step(every)
        middle = time.perf_counter()
        dynamics.run(every)
        seconds["OpenMM"] += middle - start
        seconds["ASE"] += time.perf_counter() - middle
        state = context.getState(positions=True, energy=True)
        moved_to = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        by_openmm = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        by_openmm /= EV_TO_KJ_MOL
        same_place = atoms.copy()
        same_place.positions = moved_to
        difference = abs(atoms.calc.get_potential_energy(same_place) - by_openmm)
        distance = float(np.abs(moved_to - atoms.positions).max())
        worst_energy = max(worst_energy, difference)
        by_ase = atoms.get_potential_energy()
        print(f"{step:6d} {by_openmm:18.8f} {by_ase:18.8f} {difference:15.1e} {distance:10.1e}")
    for name, elapsed in seconds.items():
        print(f"{name}: {1000 * elapsed / options.steps:.2f} ms a step")
    agree = worst_energy < ENERGY_BOUND[options.precision]
    agree = agree and distance < POSITION_BOUND[options.precision]
    print("the runs agree" if agree else "THE RUNS DISAGREE")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
