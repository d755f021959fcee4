"""Uncertainty of one model: calibrated, larger where the model is worse, seen in ASE and OpenMM."""

import csv

import numpy as np
import pytest
import torch

from mace_mm.archive.archive import Archive, ArchiveMetadata, make_archive
from mace_mm.data.frames import MemoryFrames
from mace_mm.errors import ArchiveError, DataError
from mace_mm.graph.batching import build_graph
from mace_mm.model.uncertainty import Uncertainty, load_uncertainty
from mace_mm.training.config_file import parse_config
from mace_mm.training.start.setup import build_potential, prepare_frames
from mace_mm.training.uncertainty.fit import calibrate, fit_uncertainty
from tests.support.training_frames import MOLECULES, make_frames, settings


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Archive, Uncertainty]:
    config = parse_config(settings(tmp_path_factory.mktemp("run")))
    potential = build_potential(config, prepare_frames(config))
    archive = make_archive(potential, ArchiveMetadata(name="m"))
    train, held = MemoryFrames(make_frames(60)), MemoryFrames(make_frames(90, seed=1))
    return archive, fit_uncertainty(archive.potential, archive.sha256, train, held)


def graph_of(archive: Archive, frame):
    return build_graph(frame.molecule, archive.config.atomic_numbers, archive.config.r_max)


def test_expected_errors_agree_with_the_seen_ones_on_new_frames(fitted) -> None:
    archive, uncertainty = fitted
    expected, seen = [], []
    for frame in make_frames(60, seed=2):
        graph = graph_of(archive, frame)
        expected.append(uncertainty(archive.potential, graph).numpy())
        off = archive.potential(graph).forces.detach().numpy() - frame.forces
        seen.append(np.square(off).mean(1))
    expected, seen = np.concatenate(expected), np.concatenate(seen)
    assert np.sqrt((expected**2).mean()) == pytest.approx(np.sqrt(seen.mean()), rel=0.2)
    assert (np.diff(uncertainty.errors.numpy()) >= 0).all()


def test_a_distorted_molecule_is_farther_than_a_familiar_one(fitted) -> None:
    archive, uncertainty = fitted
    frame = make_frames(1, seed=5)[0]
    near = uncertainty.distances(archive.potential, graph_of(archive, frame))
    numbers, positions = frame.molecule.atomic_numbers, frame.molecule.positions
    stretched = type(frame.molecule)(atomic_numbers=numbers, positions=positions * 1.5)
    config = archive.config
    far = build_graph(stretched, config.atomic_numbers, config.r_max)
    assert uncertainty.distances(archive.potential, far).min() > 2 * near.max()
    assert uncertainty(archive.potential, far).max() > uncertainty.errors[-1]


def test_calibration_pools_what_falls() -> None:
    rng = np.random.default_rng(0)
    distances = rng.uniform(0, 4, 20000)
    squares = (0.1 + 0.2 * distances) ** 2 * rng.chisquare(1, 20000)
    knots, errors = calibrate(distances, squares)
    assert (np.diff(knots) > 0).all() and (np.diff(errors) >= 0).all()
    np.testing.assert_allclose(errors, 0.1 + 0.2 * knots, rtol=0.12)
    knots, errors = calibrate(distances, np.maximum(5.0 - distances, 0))
    assert np.ptp(errors) < 1e-12


def test_too_few_held_out_atoms_are_refused(fitted) -> None:
    archive, _ = fitted
    train, held = MemoryFrames(make_frames(9)), MemoryFrames(make_frames(3))
    with pytest.raises(DataError, match="needs 200 atoms"):
        fit_uncertainty(archive.potential, archive.sha256, train, held)


def test_the_file_is_exact_and_belongs_to_its_weights(fitted, tmp_path) -> None:
    archive, uncertainty = fitted
    path = tmp_path / "u.pt"
    uncertainty.save(path)
    loaded = load_uncertainty(path, archive.sha256)
    graph = graph_of(archive, make_frames(1)[0])
    assert torch.equal(loaded(archive.potential, graph), uncertainty(archive.potential, graph))
    with pytest.raises(ArchiveError, match="was made for the weights"):
        load_uncertainty(path, "0" * 64)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ArchiveError):
        load_uncertainty(path)
    torch.save({"a": 1}, path)
    with pytest.raises(ArchiveError, match="not an uncertainty file"):
        load_uncertainty(path)


def test_ase_and_openmm_show_it(fitted, tmp_path) -> None:
    pytest.importorskip("openmm")
    import openmm
    from ase import Atoms
    from openmm import app, unit

    from mace_mm.evaluate.ase_calculator import MACECalculator
    from mace_mm.evaluate.domain.force_uncertainty import ForceUncertainty
    from mace_mm.simulation.run.uncertainty_reporter import UncertaintyReporter

    archive, uncertainty = fitted
    uncertainty.save(tmp_path / "u.pt")
    numbers, positions = (np.array(x) for x in MOLECULES["water"])
    atoms = Atoms(numbers, positions)
    atoms.calc = MACECalculator(archive, precision="double", uncertainty=tmp_path / "u.pt")
    atoms.get_forces()
    shown = atoms.calc.results["forces_uncertainty"]
    estimate = ForceUncertainty(archive, uncertainty)
    np.testing.assert_array_equal(shown, estimate(numbers, positions))

    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    system = openmm.System()
    for z in numbers:
        element = app.Element.getByAtomicNumber(int(z))
        topology.addAtom(element.symbol, element, residue)
        system.addParticle(element.mass)
    integrator = openmm.VerletIntegrator(0.0005)
    simulation = app.Simulation(
        topology, system, integrator, openmm.Platform.getPlatform("Reference")
    )
    simulation.context.setPositions(positions * unit.angstrom)
    reporter = UncertaintyReporter(tmp_path / "u.csv", 5, estimate)
    simulation.reporters.append(reporter)
    simulation.step(10)
    reporter.close()
    rows = list(csv.DictReader((tmp_path / "u.csv").open()))
    assert [row["step"] for row in rows] == ["5", "10"]
    assert float(rows[0]["max_ev_per_angstrom"]) == pytest.approx(shown.max(), rel=1e-4)
    assert int(rows[0]["worst_atom"]) == int(shown.argmax())
