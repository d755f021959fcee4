"""Watching an ML region, and restarting a run of a mixed system."""

import csv

import numpy as np
import openmm
import pytest
from openmm import app
from openmmml import MLPotential

from mace_mm.archive.open_model import open_model
from mace_mm.data.frames import MemoryFrames
from mace_mm.errors import ConfigError, InputError, RunStoppedError
from mace_mm.evaluate.domain.force_uncertainty import ForceUncertainty
from mace_mm.ml_mm.boundary import with_link_atoms
from mace_mm.ml_mm.reporter import RegionReporter
from mace_mm.training.uncertainty.fit import fit_uncertainty
from tests.support.mixed_systems import LAMBDA, evaluate, side_of, solvated, topology_of_part
from tests.support.training_frames import make_frames

pytestmark = pytest.mark.plain


@pytest.fixture(scope="module")
def ethanol():
    topology, system, positions, (atoms,) = solvated(["CCO"], edge=1.7, rigidWater=True)
    mixed = MLPotential("mace").createMixedSystem(
        topology, system, atoms, interpolate=True, precision="double"
    )
    return topology, mixed, positions, atoms


def simulation_of(topology, system, positions, seed=5):
    integrator = openmm.LangevinMiddleIntegrator(300, 2, 0.0002)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatform("Reference")
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(positions)
    return simulation


def rows(path):
    return list(csv.DictReader(path.open()))


def test_energy_and_uncertainty(ethanol, tmp_path):
    topology, system, positions, atoms = ethanol
    simulation = simulation_of(topology, system, positions)
    simulation.context.setParameter(LAMBDA, 0.3)
    path = tmp_path / "region.csv"

    def spread(numbers, xyz, box):
        assert numbers[:3].tolist() == [6, 6, 8]
        assert xyz.shape == (len(atoms), 3) and box.shape == (3, 3)
        return np.linspace(0.1, 0.25, len(atoms))

    reporter = RegionReporter(path, 2, topology, atoms, uncertainty=spread)
    simulation.reporters.append(reporter)
    simulation.step(4)
    table = rows(path)
    assert [row["step"] for row in table] == ["2", "4"]
    assert [row["uncertainty"] for row in table] == ["0.25", "0.25"]
    alone = MLPotential("mace").createSystem(topology_of_part(topology, atoms), precision="double")
    now = simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
    want = evaluate(alone, now[atoms]).energy
    assert float(table[-1]["ml_energy_kj_mol"]) == pytest.approx(want, abs=1e-5)
    assert reporter.flagged == []
    again = RegionReporter(path, 2, topology, atoms, append=True)
    simulation.reporters[:] = [again]
    simulation.step(2)
    assert len(rows(path)) == 3


def test_expected_force_errors_of_the_model(ethanol, tmp_path):
    topology, system, positions, atoms = ethanol
    archive = open_model(None)
    train, held = MemoryFrames(make_frames(40)), MemoryFrames(make_frames(60, seed=1))
    estimate = ForceUncertainty(
        archive, fit_uncertainty(archive.potential, archive.sha256, train, held)
    )
    simulation = simulation_of(topology, system, positions)
    path = tmp_path / "region.csv"
    reporter = RegionReporter(path, 1, topology, atoms, uncertainty=estimate)
    reporter.report(simulation, simulation.context.getState(positions=True))
    elements = [atom.element for atom in topology.atoms()]
    numbers = np.array([elements[i].atomic_number for i in atoms])
    want = estimate(numbers, positions[atoms] * 10, np.eye(3) * 17.0).max()
    assert want > 0.0
    assert float(rows(path)[0]["uncertainty"]) == pytest.approx(want, rel=1e-4)


def test_broken_and_formed_bonds(ethanol, tmp_path):
    topology, system, positions, atoms = ethanol
    hydrogen = atoms[-1]
    moved = positions.copy()
    # The hydroxyl hydrogen next to the first carbon.
    moved[hydrogen] = moved[atoms[0]] + np.array([0.0, 0.05, 0.1])
    simulation = simulation_of(topology, system, moved)
    path = tmp_path / "region.csv"
    reporter = RegionReporter(path, 1, topology, atoms)
    state = simulation.context.getState(positions=True)
    reporter.report(simulation, state)
    reporter.report(simulation, state)
    changed = rows(path)[0]["changed_bonds"].split()
    assert any(name.startswith("-O3") for name in changed)
    assert any(name.startswith("+C1") for name in changed)
    assert len(reporter.flagged) == len(changed)
    stopping = RegionReporter(path, 1, topology, atoms, on_change="stop")
    with pytest.raises(RunStoppedError, match="-O3"):
        stopping.report(simulation, state)
    # The line is written before the run stops.
    assert len(rows(path)) == 1


def test_uncertainty_stops_a_run(ethanol, tmp_path):
    topology, system, positions, atoms = ethanol
    simulation = simulation_of(topology, system, positions)
    reporter = RegionReporter(
        tmp_path / "region.csv",
        1,
        topology,
        atoms,
        uncertainty=lambda numbers, xyz, box: np.array([0.5, 2.0]),
        uncertainty_limit=1.0,
        on_change="stop",
    )
    simulation.reporters.append(reporter)
    with pytest.raises(RunStoppedError, match="uncertainty 2 above 1"):
        simulation.step(3)
    assert simulation.currentStep == 1


def test_settings_that_are_refused(ethanol, tmp_path):
    topology, system, positions, atoms = ethanol
    path = tmp_path / "region.csv"
    for options in ({"on_change": "pray"}, {"uncertainty_limit": 1.0}):
        with pytest.raises(ConfigError):
            RegionReporter(path, 1, topology, atoms, **options)
    with pytest.raises(ConfigError):
        RegionReporter(path, 0, topology, atoms)
    with pytest.raises(InputError, match="element"):
        RegionReporter(path, 1, topology, [topology.getNumAtoms()])
    simulation = simulation_of(topology, system, positions)
    reporter = RegionReporter(path, 1, topology, atoms, force_name="ANI")
    with pytest.raises(ConfigError, match="ANI"):
        reporter.report(simulation, simulation.context.getState(positions=True))


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_restart_gives_the_same_trajectory(ethanol, tmp_path, embedding):
    topology, _, positions, atoms = ethanol
    _, mm, _, _ = solvated(["CCO"], edge=1.7, rigidWater=True)

    def started(seed):
        mixed = MLPotential("mace").createMixedSystem(topology, mm, atoms, embedding=embedding)
        return simulation_of(topology, mixed, positions, seed)

    first = started(5)
    first.step(6)
    path = str(tmp_path / "state.chk")
    first.saveCheckpoint(path)
    first.step(6)
    want = first.context.getState(positions=True, velocities=True)
    second = started(77)
    second.loadCheckpoint(path)
    assert second.currentStep == 6
    second.step(6)
    got = second.context.getState(positions=True, velocities=True)
    for of in ("getPositions", "getVelocities"):
        one, other = (getattr(s, of)(asNumpy=True)._value for s in (want, got))
        np.testing.assert_array_equal(one, other)


def test_a_capped_region_is_whole_and_its_cut_bond_is_watched(tmp_path):
    topology, system, positions, (atoms,) = solvated(["CCCCO"])
    region = side_of(topology, atoms, (atoms[3], atoms[2]))
    info = MLPotential("mace").createMixedSystem(topology, system, region, returnInfo=True)
    extended, mixed = info["topology"], info["system"]
    capped = with_link_atoms(positions, mixed)
    cap = extended.getNumAtoms() - 1
    for listed in (region, [*region, cap]):
        simulation = simulation_of(extended, mixed, capped)
        path = tmp_path / f"{len(listed)}.csv"
        reporter = RegionReporter(path, 1, extended, listed, on_change="strict")
        reporter.report(simulation, simulation.context.getState(positions=True))
        assert reporter.flagged == []
        apart = np.array(capped._value)
        apart[[*region, cap]] += 0.15
        simulation.context.setPositions(apart)
        with pytest.raises(RunStoppedError, match="bond -C"):
            reporter.report(simulation, simulation.context.getState(positions=True))
        changed = rows(path)[-1]["changed_bonds"].split()
        assert any(f"{atoms[2]}" in name and f"{atoms[3]}" in name for name in changed)
