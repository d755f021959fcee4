"""The ASE calculator: properties, committees, failures, and what ASE does with it."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixBondLength
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.phonons import Phonons
from ase.vibrations import Vibrations

from mace_mm import MACECalculator
from mace_mm.archive.open_model import open_model
from mace_mm.errors import (
    ArchiveError,
    BackendError,
    ConfigError,
    ElementError,
    GeometryError,
    InputError,
)
from tests.support.openmm_systems import METHANOL, TRICLINIC, WATER, bent

REFERENCE = Path(__file__).parents[1] / "reference"
MODELS = [REFERENCE / "off_L0_float32.model", REFERENCE / "two_body_layers3.model"]


@pytest.fixture(scope="module")
def double() -> MACECalculator:
    return MACECalculator(precision="double")


def methanol(calculator: MACECalculator, cell=None) -> ase.Atoms:
    numbers, positions = METHANOL
    atoms = ase.Atoms(numbers, bent(positions), cell=cell, pbc=cell is not None)
    atoms.calc = calculator
    return atoms


@pytest.mark.plain
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_property_of_a_published_model(path):
    structures = json.loads((REFERENCE / "structures.json").read_text())
    expected = json.loads((REFERENCE / f"{path.stem}.json").read_text())
    calculator = MACECalculator(path, precision="double")
    for name, want in expected.items():
        structure = structures[name]
        cell = structure.get("cell")
        periodic = cell is not None and np.any(cell)
        atoms = ase.Atoms(structure["numbers"], structure["positions"], cell=cell, pbc=periodic)
        atoms.calc = calculator
        assert abs(atoms.get_potential_energy() - want["energy"]) < 1e-9 * len(atoms)
        assert calculator.results["free_energy"] == calculator.results["energy"]
        np.testing.assert_allclose(atoms.get_forces(), want["forces"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            atoms.get_potential_energies(), want["node_energy"], rtol=0, atol=1e-8
        )
        if "interaction_energy" in want:
            got = calculator.get_property("interaction_energy", atoms)
            assert abs(got - want["interaction_energy"]) < 1e-9 * len(atoms)
        if periodic:
            got = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(got, want["stress"], rtol=0, atol=1e-9)


def test_forces_and_stress_are_derivatives(double):
    atoms = methanol(double, TRICLINIC * 0.8)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    for atom, axis in ((0, 1), (3, 2)):
        step, energies = 1e-4, []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = double
            moved.positions[atom, axis] += sign * step
            energies.append(moved.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step)
        assert abs(slope + forces[atom, axis]) < 1e-6
    for i, j in ((0, 0), (2, 1)):
        step, energies = 1e-4, []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.calc = double
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(moved.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert abs(slope - stress[i, j]) < 1e-6


def test_stress_needs_a_cell(double):
    with pytest.raises(PropertyNotImplementedError):
        methanol(double).get_stress()


def test_slab_and_rod(double):
    atoms = methanol(double)
    isolated = atoms.get_potential_energy()
    atoms.pbc, atoms.cell = (True, True, False), np.diag([50.0, 50.0, 0.0])
    assert abs(atoms.get_potential_energy() - isolated) < 1e-9
    atoms.cell = np.diag([3.0, 50.0, 0.0])
    assert abs(atoms.get_potential_energy() - isolated) > 1e-3


def test_committee_gives_mean_and_deviation():
    members = [MACECalculator(path, precision="double") for path in MODELS]
    committee = MACECalculator(MODELS, precision="double")
    atoms = methanol(committee, TRICLINIC)
    for name in ("energy", "interaction_energy", "energies", "forces", "stress"):
        each = np.array([member.get_property(name, atoms) for member in members])
        np.testing.assert_allclose(committee.get_property(name, atoms), each.mean(0), atol=1e-9)
        got = committee.get_property(f"{name}_std", atoms)
        np.testing.assert_allclose(got, each.std(0, ddof=1), atol=1e-9)
    with pytest.raises(PropertyNotImplementedError):
        members[0].get_property("energy_std", atoms)


def test_single_and_double_precision_agree(double):
    atoms = methanol(double)
    want = atoms.get_forces(), atoms.get_potential_energy()
    atoms.calc = MACECalculator()
    np.testing.assert_allclose(atoms.get_forces(), want[0], rtol=0, atol=2e-4)
    assert abs(atoms.get_potential_energy() - want[1]) < 2e-5


def test_one_calculator_follows_changing_atoms():
    calculator = MACECalculator(open_model(), precision="double")
    energies = {}
    for _ in range(2):
        for name in ("H2O", "CH4", "CH3OH"):
            atoms = molecule(name)
            energy = calculator.get_potential_energy(atoms)
            assert energies.setdefault(name, energy) == pytest.approx(energy, abs=1e-9)


def test_calculator_may_be_copied_and_sent_to_another_process(double):
    atoms = methanol(double, TRICLINIC)
    want = atoms.get_forces()
    for copied in (copy.deepcopy(double), pickle.loads(pickle.dumps(double))):  # noqa: S301
        atoms.calc = copied
        copied.reset()
        np.testing.assert_array_equal(atoms.get_forces(), want)


@pytest.mark.plain
def test_optimizers(double):
    for optimizer in (BFGS, FIRE):
        atoms = methanol(double)
        start = atoms.get_potential_energy()
        assert optimizer(atoms, logfile=None).run(fmax=0.01, steps=300)
        assert atoms.get_potential_energy() < start - 0.01
        assert 0.85 < atoms.get_distance(1, 5) < 1.15


def test_cell_relaxation_lowers_the_stress(double):
    atoms = methanol(double, np.eye(3) * 4.2)
    before = np.abs(atoms.get_stress()).max()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=60)
    assert np.abs(atoms.get_stress()).max() < before


def test_dynamics_conserve_energy(double):
    atoms = methanol(double)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    speeds = np.random.default_rng(1).normal(size=(len(atoms), 3))
    atoms.set_momenta(speeds * np.sqrt(units.kB * 300 * atoms.get_masses())[:, None])
    dynamics = VelocityVerlet(atoms, timestep=0.25 * units.fs)
    totals = []
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()), interval=5)
    dynamics.run(400)
    half = len(totals) // 2
    assert abs(np.mean(totals[half:]) - np.mean(totals[:half])) < 2e-4
    assert np.std(totals) < 2e-3


def test_thermostat_and_constraints_run():
    atoms = methanol(MACECalculator())
    atoms.set_constraint(FixBondLength(1, 5))
    length = atoms.get_distance(1, 5)
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.02, fixcm=False)
    dynamics.run(20)
    assert abs(atoms.get_distance(1, 5) - length) < 1e-6


def test_vibrations_of_water(double, tmp_path):
    atoms = ase.Atoms(*WATER, calculator=double)
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=300)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    wavenumbers = np.real(vibrations.get_frequencies())[-3:]
    assert 1200 < wavenumbers[0] < 2000 and (wavenumbers[1:] > 3000).all()


def test_phonons_run(double, tmp_path):
    atoms = ase.Atoms("C2", [[0.0, 0, 0], [0.89, 0.89, 0.89]], pbc=True)
    atoms.set_cell([[0, 1.78, 1.78], [1.78, 0, 1.78], [1.78, 1.78, 0]])
    phonons = Phonons(atoms, double, supercell=(2, 2, 2), delta=0.02, name=str(tmp_path / "ph"))
    phonons.run()
    phonons.read(acoustic=True)
    bands = phonons.band_structure([[0.0, 0.0, 0.0], [0.2, 0.0, 0.2]])
    assert np.isfinite(bands).all()
    # At the center three modes are translations, which cost nothing. The others may be imaginary:
    # a model of molecules need not hold a crystal together.
    assert np.sort(np.abs(bands[0]))[2] < 1e-3 < np.sort(np.abs(bands[0]))[3]


def test_nudged_elastic_band(double):
    start = methanol(double)
    BFGS(start, logfile=None).run(fmax=0.02, steps=200)
    end = start.copy()
    end.rotate_dihedral(2, 0, 1, 5, 120.0, mask=[0, 0, 0, 0, 0, 1])
    end.calc = double
    BFGS(end, logfile=None).run(fmax=0.02, steps=200)
    images = [start, *(start.copy() for _ in range(3)), end]
    for image in images:
        image.calc = MACECalculator(double.archives[0], precision="double")
    band = NEB(images, method="improvedtangent")
    band.interpolate()
    BFGS(band, logfile=None).run(fmax=0.1, steps=40)
    energies = [image.get_potential_energy() for image in images]
    assert max(energies) > energies[0]


def test_results_survive_a_file(double, tmp_path):
    atoms = methanol(double, TRICLINIC)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    write(tmp_path / "frame.extxyz", atoms)
    again = read(tmp_path / "frame.extxyz")
    np.testing.assert_allclose(again.get_forces(), forces, atol=1e-7)
    np.testing.assert_allclose(again.get_stress(), stress, atol=1e-7)


def test_bad_input_is_named(double, tmp_path):
    atoms = methanol(double)
    atoms.positions[2, 0] = np.nan
    with pytest.raises(GeometryError, match="atom 2"):
        atoms.get_forces()
    atoms.positions[2, 0] = np.inf
    with pytest.raises(GeometryError, match="atom 2"):
        atoms.get_forces()
    atoms.positions[2] = atoms.positions[4]
    with pytest.raises(GeometryError, match="atoms (2 and 4|4 and 2) coincide"):
        atoms.get_forces()
    with pytest.raises(ElementError, match="Au"):
        double.get_potential_energy(ase.Atoms("Au"))
    with pytest.raises(InputError, match="empty"):
        double.get_potential_energy(ase.Atoms())
    with pytest.raises(GeometryError, match="volume"):
        double.get_potential_energy(ase.Atoms("C", pbc=True))
    with pytest.raises(ArchiveError, match="missing.pt"):
        MACECalculator(tmp_path / "missing.pt")
    for arguments in ({"precision": "half"}, {"engine": "steam"}, {"device": "abacus"}):
        with pytest.raises(BackendError, match=str(*arguments.values())):
            MACECalculator(**arguments)
    with pytest.raises(ConfigError, match="empty list"):
        MACECalculator([])


def test_example_compares_openmm_and_ase(project_root):
    done = subprocess.run(
        [sys.executable, "examples/compare_openmm_ase.py", "--smiles", "O", "--steps", "40"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the runs agree" in done.stdout
