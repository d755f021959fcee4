"""ASE: results that can be stored, slabs and rods, and structures that change."""

import itertools

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from mace_mm import MACECalculator
from mace_mm.bundled_models import bundled_path
from mace_mm.evaluate.domain import structure_watch
from mace_mm.evaluate.domain.structure_watch import StructureWatch
from tests.support.openmm_systems import METHANOL, TRICLINIC, bent

UNCERTAINTY = bundled_path("small").with_suffix(".uncertainty")
OUTSIDE = "outside what the model was trained for"


def methanol(cell=None) -> ase.Atoms:
    numbers, positions = METHANOL
    return ase.Atoms(numbers, bent(positions), cell=cell, pbc=cell is not None)


@pytest.mark.plain
@pytest.mark.parametrize("cell", [None, TRICLINIC], ids=["open", "periodic"])
@pytest.mark.parametrize("kind", ["one model", "committee", "uncertainty"])
def test_results_can_be_stored(kind: str, cell, tmp_path) -> None:
    atoms = methanol(cell)
    options = {"committee": {"model": ["small", "small"]}, "uncertainty": {"model": "small"}}
    atoms.calc = MACECalculator(**options.get(kind, {}))
    if kind == "uncertainty":
        atoms.calc = MACECalculator("small", uncertainty=UNCERTAINTY)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    results = atoms.calc.results
    assert set(results) <= set(all_properties)
    assert {"energy", "free_energy", "energies", "forces"} <= set(results)
    assert ("stress" in results) == (cell is not None)
    frozen = atoms.copy()
    frozen.calc = SinglePointCalculator(frozen, **results)
    assert frozen.get_potential_energy() == energy
    np.testing.assert_array_equal(frozen.get_forces(), forces)
    write(tmp_path / "frame.traj", atoms)
    np.testing.assert_array_equal(read(tmp_path / "frame.traj").get_forces(), forces)
    with connect(tmp_path / "frames.db") as database:
        database.write(atoms)
        assert database.get(1).energy == pytest.approx(energy)
    others = {"interaction_energy"}
    if kind == "committee":
        others |= {"energy_std", "interaction_energy_std", "energies_std", "forces_std"}
        others |= {"stress_std"} if cell is not None else set()
    if kind == "uncertainty":
        others |= {"forces_uncertainty"}
    assert set(results.others) == others
    for name in others:
        assert name in atoms.calc.implemented_properties
        np.testing.assert_array_equal(results[name], atoms.calc.get_property(name, atoms))
    with pytest.raises(KeyError):
        results["dipole"]


def test_names_beside_those_of_ase_follow_its_rules() -> None:
    atoms = methanol()
    atoms.calc = calc = MACECalculator(["small", "small"])
    assert calc.get_property("interaction_energy", atoms, allow_calculation=False) is None
    first = calc.get_property("interaction_energy", atoms)
    assert calc.get_property("interaction_energy", atoms, allow_calculation=False) == first
    atoms.rattle(0.05, seed=1)
    assert calc.get_property("interaction_energy", atoms, allow_calculation=False) is None
    assert calc.get_property("interaction_energy", atoms) != first
    std = calc.get_property("forces_std", atoms)
    std[:] = 7.0  # a copy
    assert not np.any(calc.get_property("forces_std", atoms))
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("stress_std", atoms)
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("dipole", atoms)
    calc.reset()
    assert calc.get_property("interaction_energy", atoms, allow_calculation=False) is None


def water_box(seed: int = 0) -> ase.Atoms:
    rng, atoms = np.random.default_rng(seed), ase.Atoms()
    for place in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.rotate(rng.uniform(0, 360), rng.normal(size=3))
        water.positions += np.array(place) * 3.1 - water.positions[0]
        atoms += water
    return atoms


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
def test_expected_force_errors_know_which_directions_are_periodic(pbc) -> None:
    calculator = MACECalculator("small", uncertainty=UNCERTAINTY)
    sides = np.where(pbc, 6.2, 30.0)

    def expected(cell, periodic) -> np.ndarray:
        atoms = water_box()
        atoms.cell, atoms.pbc = cell, periodic
        return calculator.get_property("forces_uncertainty", atoms)

    want = expected(np.diag(sides), True)  # 30 Å are as good as none
    for cell in (np.diag(sides), np.diag(np.where(pbc, 6.2, 0.0)), np.full(3, 6.2)):
        np.testing.assert_allclose(expected(cell, pbc), want, rtol=0, atol=1e-12)
    cluster = expected(np.zeros((3, 3)), False)
    assert np.allclose(cluster, want, atol=1e-9) == (not any(pbc))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_contacts_across_an_open_boundary_are_none(axis: int, caplog) -> None:
    atoms = molecule("H2O")  # its hydrogens lie along y
    atoms.positions = np.roll(atoms.positions, axis - 1, axis=1)
    sides = np.full(3, 12.0)
    sides[axis] = 1.85
    for pbc in itertools.product([True, False], repeat=3):
        atoms.cell, atoms.pbc, atoms.calc = sides, pbc, MACECalculator("small")
        caplog.clear()
        atoms.get_potential_energy()
        assert ("contacts shorter" in caplog.text) == pbc[axis], pbc


def told(caplog) -> list[str]:
    found = [r.getMessage() for r in caplog.records if OUTSIDE in r.getMessage()]
    caplog.clear()
    return found


def test_later_structures_are_looked_at(caplog) -> None:
    calculator = MACECalculator("small")
    good = methanol()
    short, alone, flat = good.copy(), good.copy(), good.copy()
    short.positions[5] += 0.5 * (short.positions[1] - short.positions[5])
    alone.positions[5] += [0.0, 0.0, 20.0]
    flat.positions[:, 2] = 0.0
    boxed = good.copy()
    boxed.cell, boxed.pbc = [30.0, 30.0, 2.4], [False, False, True]
    cases = [
        (good, None),
        (short, "contacts shorter"),
        (good, None),
        (alone, "no neighbor"),
        (flat, "contacts shorter|surroundings unlike"),
        (short, "contacts shorter"),
        (good, None),
        (boxed, "contacts shorter"),
        (good, None),
    ]
    for step, (atoms, words) in enumerate(cases):
        calculator.get_potential_energy(atoms)
        found = told(caplog)
        if words is None:
            assert found == [], step
        else:
            assert len(found) == 1 and any(w in found[0] for w in words.split("|")), (step, found)
        calculator.reset()


def test_a_bond_that_shrinks_by_small_steps_is_told_of_once(caplog) -> None:
    atoms = methanol()
    atoms.calc = MACECalculator("small")
    towards = atoms.positions[1] - atoms.positions[5]
    for _ in range(50):
        atoms.positions[5] += 0.012 * towards
        atoms.get_potential_energy()
    (found,) = told(caplog)
    assert "contacts shorter" in found


def test_a_trajectory_is_looked_at_seldom(caplog) -> None:
    atoms = methanol()
    atoms.calc = MACECalculator("small")
    looked: list[bool] = []
    genuine = structure_watch.geometry_problems

    def counted(*arguments, surroundings):
        looked.append(surroundings)
        return genuine(*arguments, surroundings=surroundings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure_watch, "geometry_problems", counted)
        speeds = np.random.default_rng(3).normal(size=(6, 3))
        atoms.set_momenta(speeds * np.sqrt(0.0257 * atoms.get_masses())[:, None])
        VelocityVerlet(atoms, 0.5 * fs).run(300)
        assert 1 <= sum(looked) <= 5 and len(looked) <= 40
        looked.clear()
        watch = StructureWatch(atoms.calc.archives[0])
        structures = [methanol() for _ in range(200)]
        for k, other in enumerate(structures):
            other.positions += k % 7
            watch(other.numbers, other.positions, other.cell.array, other.pbc)
        assert len(looked) == 200 and 20 < sum(looked) < 100
    assert told(caplog) == []


def test_what_ase_has_no_name_for_is_found_by_its_name() -> None:
    from mace_mm.evaluate.ase_results import Results

    results = Results({"energy": 1.0, "energy_std": 2.0})
    assert list(results) == ["energy"]
    assert results["energy_std"] == results.get("energy_std") == 2.0
    assert results.get("energy") == 1.0
    assert results.get("forces_std") is None and results.get("forces_std", 3.0) == 3.0
