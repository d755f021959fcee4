"""The OpenMM backends against each other, against ASE, and through their failures."""

import copy
import threading

import ase
import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from openmmml import MLPotential

from mace_mm import MACECalculator
from mace_mm.archive.open_model import open_model
from mace_mm.errors import BackendError
from mace_mm.evaluate.build import build_evaluator
from mace_mm.evaluate.compile import compile_module
from mace_mm.openmm import force as openmm_force
from mace_mm.openmm.module import OpenMMModule
from mace_mm.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL
from tests.support.openmm_systems import (
    METHANOL,
    TINY,
    TRICLINIC,
    WATER,
    assert_same,
    bent,
    context_of,
    evaluate,
    topology_of,
)

pytestmark = pytest.mark.plain

PLATFORMS = [
    openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
]
SYSTEMS = {
    "vacuum": (METHANOL, None),
    "triclinic": (METHANOL, TRICLINIC),
    "box smaller than the cutoff": (WATER, TINY),
}


def by_ase(numbers, positions, cell, precision, kind="interaction_energy"):
    atoms = ase.Atoms(numbers, positions, cell=cell, pbc=cell is not None)
    atoms.calc = MACECalculator(precision=precision)
    return atoms.calc.get_property(kind, atoms), atoms.get_forces()


@pytest.mark.parametrize("precision, bound", [("single", 1e-5), ("double", 1e-9)])
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_openmm_equals_ase(backend, platform, name, precision, bound):
    (numbers, positions), cell = SYSTEMS[name]
    positions = bent(positions)
    want = by_ase(numbers, positions, cell, precision)
    system = MLPotential("mace").createSystem(
        topology_of(numbers, cell), backend=backend, precision=precision
    )
    assert system.usesPeriodicBoundaryConditions() == (cell is not None)
    moved = positions if cell is None else positions + np.outer(np.arange(len(numbers)), cell[1])
    assert_same(evaluate(context_of(system, moved, platform)), want, bound)


def test_energy_with_isolated_atoms_keeps_its_digits(backend):
    numbers, positions = METHANOL
    positions = bent(positions)
    system = MLPotential("mace").createSystem(
        topology_of(numbers), backend=backend, returnEnergyType="energy"
    )
    got = evaluate(context_of(system, positions))
    want = by_ase(numbers, positions, None, "single", "energy")
    assert want[0] < -1000
    assert abs(got[0] - want[0]) < 1e-6


def test_atoms_in_any_order_from_a_generator(backend):
    numbers, positions = WATER[0] + METHANOL[0], np.vstack([WATER[1] + 4.0, bent(METHANOL[1])])
    chosen = [7, 3, 5, 4, 8, 6]
    want = by_ase([numbers[i] for i in chosen], positions[chosen], None, "double")
    everywhere = np.zeros((9, 3))
    everywhere[chosen] = want[1]
    system = openmm.System()
    for _ in numbers:
        system.addParticle(1.0)
    impl = MLPotential("mace")._impl
    impl.addForces(
        topology_of(numbers), system, (i for i in chosen), 3, precision="double", backend=backend
    )
    force = system.getForce(0)
    assert force.getForceGroup() == 3
    context = context_of(system, positions)
    assert_same(evaluate(context, groups=1 << 3), (want[0], everywhere), 1e-9)
    assert evaluate(context, groups=1)[0] == 0.0


def test_several_forces_in_one_system_add_up(backend):
    numbers, positions = WATER[0] + METHANOL[0], np.vstack([bent(WATER[1]) + 3, bent(METHANOL[1])])
    topology = topology_of(numbers)
    impl = MLPotential("mace")._impl
    system = openmm.System()
    for _ in numbers:
        system.addParticle(1.0)
    sets = [range(3), range(3, 9), range(9)]
    for group, atoms in enumerate(sets):
        impl.addForces(topology, system, atoms, group, precision="double", backend=backend)
    context = context_of(system, positions)
    total, forces = 0.0, np.zeros((9, 3))
    for group, atoms in enumerate(sets):
        part = by_ase([numbers[i] for i in atoms], positions[list(atoms)], None, "double")
        total += part[0]
        forces[list(atoms)] += part[1]
        assert abs(evaluate(context, groups=1 << group)[0] - part[0]) < 1e-9
    assert_same(evaluate(context), (total, forces), 1e-9)


def test_virtual_sites_and_particles_without_an_element(backend, caplog):
    numbers, positions = METHANOL
    positions = bent(positions)
    with_sites = [numbers[0], None, *numbers[1:], None]
    system = MLPotential("mace").createSystem(
        topology_of(with_sites), backend=backend, precision="double"
    )
    assert "2 of 8 particles have no element" in caplog.text
    for site in (1, 7):
        system.setVirtualSite(site, openmm.TwoParticleAverageSite(0, 2, 0.5, 0.5))
    placed = np.insert(positions, [1, 6], 0.0, axis=0)
    context = context_of(system, placed)
    context.computeVirtualSites()
    want = by_ase(numbers, positions, None, "double")
    got = evaluate(context)
    real = [0, 2, 3, 4, 5, 6]
    assert_same((got[0], got[1][real]), want, 1e-9)


def test_forces_are_the_gradient_of_the_energy(backend):
    numbers, positions = METHANOL
    positions = bent(positions)
    system = MLPotential("mace").createSystem(
        topology_of(numbers, TRICLINIC), backend=backend, precision="double"
    )
    context = context_of(system, positions)
    forces = evaluate(context)[1]
    step = 1e-3
    for atom, axis in ((0, 0), (1, 2), (5, 1)):
        energies = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom, axis] += sign * step
            context.setPositions(moved * 0.1)
            energies.append(evaluate(context)[0])
        slope = (energies[0] - energies[1]) / (2 * step)
        assert abs(forces[atom, axis] + slope) < 1e-4 * np.abs(forces).max()


def test_constant_pressure_keeps_box_and_list_together(backend):
    numbers, positions = [], []
    for i in range(8):
        corner = np.array([i & 1, i >> 1 & 1, i >> 2]) * 3.1
        numbers += WATER[0]
        positions.append(bent(WATER[1], seed=i) + corner + 1.0)
    positions, cell = np.vstack(positions), np.eye(3) * 6.4
    topology = topology_of(numbers, cell, per_residue=3)
    for i in range(8):
        atoms = list(topology.atoms())[3 * i : 3 * i + 3]
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[0], atoms[2])
    system = MLPotential("mace").createSystem(topology, backend=backend, precision="double")
    system.addForce(openmm.MonteCarloBarostat(3000 * unit.bar, 300 * unit.kelvin, 2))
    integrator = openmm.LangevinMiddleIntegrator(300, 5.0, 0.0005)
    context = context_of(system, positions, integrator=integrator)
    context.setVelocitiesToTemperature(300, 1)
    for _ in range(5):
        integrator.step(8)
        state = context.getState(positions=True, energy=True, forces=True)
        box = np.array(state.getPeriodicBoxVectors(asNumpy=True)._value) * 10
        now = np.array(state.getPositions(asNumpy=True)._value) * 10
        assert_same(evaluate(context), by_ase(numbers, now, box, "double"), 1e-8)
    assert not np.allclose(box, cell, rtol=0, atol=1e-6)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite(backend, platform, value):
    numbers, positions = METHANOL
    system = MLPotential("mace").createSystem(topology_of(numbers), backend=backend)
    context = context_of(system, positions, platform)
    evaluate(context)
    broken = positions.copy()
    broken[3, 1] = value
    context.setPositions(broken * 0.1)
    with pytest.raises(openmm.OpenMMException, match="those of atom 3 are not|coordinate is NaN"):
        evaluate(context)
    context.setPositions(positions * 0.1)
    evaluate(context)


def test_coincident_atoms(backend):
    numbers, positions = METHANOL
    system = MLPotential("mace").createSystem(topology_of(numbers), backend=backend)
    together = positions.copy()
    together[2] = together[5]
    with pytest.raises(openmm.OpenMMException, match="atoms 2 and 5 coincide|atoms 5 and 2 coinc"):
        evaluate(context_of(system, together))


def test_box_that_collapsed(backend):
    numbers, positions = METHANOL
    system = MLPotential("mace").createSystem(topology_of(numbers, TRICLINIC), backend=backend)
    context = context_of(system, positions)
    context.setPeriodicBoxVectors(*np.diag([2.0, 0.03, 2.0]))
    with pytest.raises(openmm.OpenMMException, match="at least 0.5 Å thick, this one is 0.[23]"):
        evaluate(context)


@pytest.mark.gpu
@pytest.mark.parametrize("precision, bound", [("single", 2e-5), ("double", 1e-6)])
def test_gpu_equals_cpu(backend, precision, bound):
    numbers, positions = METHANOL
    positions = bent(positions)
    want = by_ase(numbers, positions, TRICLINIC, "double")
    system = MLPotential("mace").createSystem(
        topology_of(numbers, TRICLINIC), backend=backend, precision=precision, device="cuda"
    )
    for platform in PLATFORMS:
        assert_same(evaluate(context_of(system, positions, platform)), want, bound)


def test_two_contexts_of_one_system_run_at_once(backend):
    """Each thread follows its own molecule; both use the Force of one System."""
    numbers, positions = METHANOL
    system = MLPotential("mace").createSystem(topology_of(numbers), backend=backend)
    integrators = [openmm.VerletIntegrator(0.0005) for _ in range(2)]
    starts = [bent(positions, seed=1), 2.0 * bent(positions, seed=2)]
    contexts = [
        context_of(system, x, integrator=i) for x, i in zip(starts, integrators, strict=True)
    ]
    threads = [threading.Thread(target=i.step, args=(25,)) for i in integrators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for context in contexts:
        positions = context.getState(positions=True).getPositions(asNumpy=True)._value * 10
        assert_same(evaluate(context), by_ase(numbers, positions, None, "single"), 1e-5)


def test_gradients_switched_off_outside_do_not_matter(backend):
    numbers, positions = METHANOL
    system = MLPotential("mace").createSystem(topology_of(numbers), backend=backend)
    context = context_of(system, bent(positions))
    want = evaluate(context)
    with torch.no_grad():
        assert_same(evaluate(context), want, 1e-6)


def test_choice_of_backend_is_explained(caplog, monkeypatch):
    with pytest.raises(BackendError, match="'cudaforce'"):
        openmm_force.choose_backend("cudaforce")
    assert openmm_force.choose_backend("pythonforce") == ("pythonforce", "asked for")
    name, reason = openmm_force.choose_backend("auto")
    if name == "pythonforce" and openmm_force.backend_problem("torchforce") is None:
        assert "crashes when OpenMM 8.6 copies a TorchForce" in reason
    monkeypatch.setattr(openmm_force.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="openmmtorch is not installed"):
        openmm_force.choose_backend("torchforce")
    name, reason = openmm_force.choose_backend("auto")
    assert name == "pythonforce" and "openmmtorch is not installed" in reason
    # The command line, if it ran in this process, has set the level of the package's logger.
    with caplog.at_level("INFO", logger="mace_mm"):
        MLPotential("mace").createSystem(topology_of(METHANOL[0]))
    assert "OpenMM backend pythonforce: torchforce is not used because" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_plugins_read_from_memory(dtype):
    """TorchForce reads the memory of the forces: dtype and layout must be as promised."""
    numbers, positions = WATER
    positions = bent(positions)
    evaluator = build_evaluator(open_model(), numbers, precision="double")
    module = OpenMMModule(evaluator, torch.tensor([3, 0, 2]), True, True)
    compiled = compile_module(module)
    placed = np.zeros((5, 3))
    placed[[3, 0, 2]] = positions
    box = torch.tensor(TRICLINIC * 0.1, dtype=dtype)
    energy, forces = compiled(torch.tensor(placed * 0.1, dtype=dtype), box)
    assert energy.dtype == torch.float64 and energy.shape == ()
    assert forces.dtype == dtype and forces.shape == (5, 3) and forces.is_contiguous()
    got = energy.item() / EV_TO_KJ_MOL, forces.numpy()[[3, 0, 2]] / EV_PER_ANGSTROM_TO_KJ_MOL_NM
    want = by_ase(numbers, positions, TRICLINIC, "double")
    assert_same(got, want, 1e-9 if dtype == torch.float64 else 1e-4)
    assert not forces[[1, 4]].any()


def test_tensor_computation_is_what_a_pythontorchforce_would_call():
    numbers, positions = METHANOL
    positions = bent(positions)
    evaluator = build_evaluator(open_model(), numbers)
    compiled = compile_module(OpenMMModule(evaluator, None, True, True))
    computation = copy.deepcopy(openmm_force.TensorComputation(compiled, True, "cpu"))
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(TRICLINIC * 0.1))
    system.addParticle(1.0)
    state = context_of(system, np.zeros((1, 3))).getState(parameters=True)
    energy, forces = computation(state, torch.tensor(positions * 0.1))
    got = energy.item() / EV_TO_KJ_MOL, forces.numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM
    assert_same(got, by_ase(numbers, positions, TRICLINIC, "single"), 1e-5)
