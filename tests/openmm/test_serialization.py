"""What survives XML, copies and checkpoints, also in a new process."""

import copy
import json
import subprocess
import sys
import textwrap

import numpy as np
import openmm
import pytest
from openmmml import MLPotential

from mace_mm.openmm.force import copy_problem
from tests.support.openmm_systems import (
    METHANOL,
    TRICLINIC,
    assert_same,
    bent,
    context_of,
    evaluate,
    topology_of,
)

pytestmark = pytest.mark.plain

REOPEN = textwrap.dedent(
    """
    import json, sys
    import numpy as np, openmm
    if "torchforce" in sys.argv:
        import torch, openmmtorch
    folder = sys.argv[1]
    system = openmm.XmlSerializer.deserialize(open(folder + "/system.xml").read())
    integrator = openmm.XmlSerializer.deserialize(open(folder + "/integrator.xml").read())
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, integrator, platform)
    context.loadCheckpoint(open(folder + "/checkpoint", "rb").read())
    out = []
    for steps in (0, 20):
        integrator.step(steps)
        state = context.getState(energy=True, forces=True, positions=True)
        out.append([
            state.getPotentialEnergy()._value,
            state.getForces(asNumpy=True)._value.tolist(),
            state.getPositions(asNumpy=True)._value.tolist(),
        ])
    print(json.dumps(out))
    """
)


@pytest.fixture(params=["vacuum", "periodic"])
def system_and_positions(request, backend):
    if backend == "torchforce" and copy_problem() is not None:
        pytest.skip(copy_problem())
    numbers, positions = METHANOL
    cell = None if request.param == "vacuum" else TRICLINIC
    mixed = [None, *numbers]
    system = MLPotential("mace").createSystem(topology_of(mixed, cell), backend=backend)
    return system, np.vstack([[9.0, 9.0, 9.0], bent(positions)])


def test_deep_copy(system_and_positions):
    system, positions = system_and_positions
    want = evaluate(context_of(system, positions))
    for copied in (
        copy.deepcopy(system),
        openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system)),
    ):
        force = copied.getForce(0)
        assert force.usesPeriodicBoundaryConditions() == system.usesPeriodicBoundaryConditions()
        assert_same(evaluate(context_of(copied, positions)), want, 1e-6)


def test_restart_in_a_new_process(system_and_positions, backend, tmp_path):
    system, positions = system_and_positions
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
    integrator.setRandomNumberSeed(7)
    context = context_of(system, positions, integrator=integrator)
    context.setVelocitiesToTemperature(300, 5)
    integrator.step(30)
    (tmp_path / "checkpoint").write_bytes(context.createCheckpoint())
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    (tmp_path / "integrator.xml").write_text(openmm.XmlSerializer.serialize(integrator))
    reopened = subprocess.run(
        [sys.executable, "-c", REOPEN, str(tmp_path), backend],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reopened.returncode == 0, reopened.stderr
    results = json.loads(reopened.stdout.splitlines()[-1])
    for steps, (energy, forces, moved_to) in zip((0, 20), results, strict=True):
        integrator.step(steps)
        state = context.getState(energy=True, forces=True, positions=True)
        want = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
        # After some steps the rounding of single precision has been multiplied a little.
        assert_same((energy, np.array(forces)), want, 1e-6 if steps == 0 else 1e-4)
        np.testing.assert_allclose(
            moved_to, state.getPositions(asNumpy=True)._value, rtol=0, atol=1e-6
        )


def test_serialized_force_stays_small(system_and_positions):
    system, positions = system_and_positions
    before = len(openmm.XmlSerializer.serialize(system))
    evaluate(context_of(system, positions))
    assert len(openmm.XmlSerializer.serialize(system)) < 1.01 * before
