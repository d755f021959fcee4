"""Energy conservation of a ligand through OpenMM."""

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.simulation.ligand import load_ligand
from mace_mm.units import NM_TO_ANGSTROM
from tests.support.openmm_systems import METHANOL, bent, context_of, topology_of

DRIFT_KJ_MOL_PER_ATOM_PER_PS = 1e-4


def total_energies(
    topology: app.Topology, positions: np.ndarray, timestep_fs: float, n_steps: int, every: int
) -> tuple[np.ndarray, np.ndarray]:
    """Times in ps and total energies in kJ/mol of constant-energy dynamics from 300 K."""
    system = MLPotential("mace").createSystem(topology, precision="double", removeCMMotion=False)
    integrator = openmm.VerletIntegrator(timestep_fs * unit.femtosecond)
    context = context_of(system, positions, integrator=integrator)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0)
    context.setVelocitiesToTemperature(600 * unit.kelvin, 4)
    integrator.step(40)
    times, energies = [], []
    for _ in range(n_steps // every):
        integrator.step(every)
        state = context.getState(energy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        energies.append(total.value_in_unit(unit.kilojoule_per_mole))
        times.append(state.getTime().value_in_unit(unit.picosecond))
    return np.array(times), np.array(energies)


def test_energy_is_conserved_to_second_order():
    """The fluctuation of a symplectic integrator falls with the square of the time step."""
    numbers, positions = METHANOL
    spreads = []
    for timestep in (0.5, 0.25):
        n_steps = int(50 / timestep)
        _, energies = total_energies(
            topology_of(numbers), bent(positions), timestep, n_steps, every=n_steps // 50
        )
        spreads.append(energies.std())
    assert spreads[0] < 0.5
    assert 2.5 < spreads[0] / spreads[1] < 6.0


@pytest.mark.slow
def test_drift_of_a_ligand_over_50_ps():
    ligand = load_ligand("CC(=O)Nc1ccc(O)cc1")
    positions = ligand.positions_nm * NM_TO_ANGSTROM
    times, energies = total_energies(ligand.topology, positions, 0.5, 100_000, every=20)
    drift = np.polyfit(times, energies, 1)[0] / ligand.n_atoms
    assert abs(drift) < DRIFT_KJ_MOL_PER_ATOM_PER_PS, f"{drift:.2e} kJ/mol/atom/ps"
