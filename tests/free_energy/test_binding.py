"""Corrections of binding free energies: restraints, cycles, and the command's whole path."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit
from scipy.integrate import quad

from mace_mm.errors import ConfigError, DataError, InputError
from mace_mm.free_energy.analysis.cycles import Edge, find_cycles, fit_ligands
from mace_mm.free_energy.analysis.estimator import Estimate, kt_kj_mol
from mace_mm.free_energy.config import InputFiles
from mace_mm.free_energy.jobs.binding import binding_tables, cycle_closures, run_binding
from mace_mm.free_energy.jobs.binding_config import BindingConfig
from mace_mm.free_energy.jobs.binding_legs import binding_legs, binding_protocol
from mace_mm.free_energy.jobs.run_leg import run_leg
from mace_mm.free_energy.legs.restraints import (
    RESTRAINT_PARAMETER,
    STANDARD_VOLUME_NM3,
    BoreschSettings,
    bend,
    restrain,
    twist,
)
from mace_mm.free_energy.legs.schedule import restrained_schedule
from mace_mm.free_energy.systems.inputs import load_system
from mace_mm.settings import validated
from tests.support.free_energy_molecules import register, write_complex, write_molecule

FAST = {"timestep_fs": 1.0, "friction_per_ps": 20.0, "platform": "Reference", "seed": 5}


def _complex(tmp_path: Path, smiles: str = "CCO"):
    files, system = write_complex(smiles, tmp_path)
    return load_system(InputFiles.model_validate(files)), system


def _energy(force: openmm.Force, positions: np.ndarray, strength: float = 1.0):
    system = openmm.System()
    for _ in positions:
        system.addParticle(1.0)
    system.addForce(openmm.XmlSerializer.clone(force))
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
    )
    context.setPositions(positions)
    context.setParameter(RESTRAINT_PARAMETER, strength)
    state = context.getState(energy=True, forces=True)
    return (
        state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        np.array(state.getForces(asNumpy=True)._value),
    )


def test_a_restraint_is_zero_where_it_was_made_and_harmonic_around(tmp_path: Path) -> None:
    mm, _ = _complex(tmp_path)
    restraint = restrain(mm, BoreschSettings())
    assert set(restraint.atoms[3:]) <= set(mm.ligand)
    assert not set(restraint.atoms[:3]) & set(mm.ligand)
    force = restraint.force(periodic=False)
    energy, forces = _energy(force, mm.positions_nm)
    assert energy == pytest.approx(0.0, abs=1e-9)
    assert np.isfinite(forces).all() and np.abs(forces).max() < 1e-3
    generator = np.random.default_rng(0)
    for _ in range(5):
        moved = mm.positions_nm + generator.normal(scale=0.03, size=mm.positions_nm.shape)
        p = moved[list(restraint.atoms)]
        angles = np.array([bend(p[1:4]), bend(p[2:5])]) - restraint.angles_rad
        turns = np.array([twist(p[0:4]), twist(p[1:5]), twist(p[2:6])]) - restraint.dihedrals_rad
        turns = (turns + math.pi) % (2 * math.pi) - math.pi
        stretch = np.linalg.norm(p[2] - p[3]) - restraint.r0_nm
        by_hand = 0.5 * 4184.0 * stretch**2 + 0.5 * 41.84 * ((angles**2).sum() + (turns**2).sum())
        assert _energy(force, moved)[0] == pytest.approx(by_hand, rel=1e-6)
        assert _energy(force, moved, 0.25)[0] == pytest.approx(0.25 * by_hand, rel=1e-6)


def test_the_standard_state_agrees_with_quadrature(tmp_path: Path) -> None:
    mm, _ = _complex(tmp_path)
    restraint = restrain(mm, BoreschSettings())
    kt = kt_kj_mol(300.0)

    def well(strength: float, center: float, jacobian, low: float, high: float) -> float:
        def weight(x: float) -> float:
            return jacobian(x) * math.exp(-0.5 * strength * (x - center) ** 2 / kt)

        return quad(weight, low, high, points=[center], limit=200)[0]

    phase = well(4184.0, restraint.r0_nm, lambda r: r * r, 0.0, 3.0)
    for angle in restraint.angles_rad:
        phase *= well(41.84, angle, math.sin, 0.0, math.pi)
    phase *= well(41.84, 0.0, lambda _: 1.0, -math.pi, math.pi) ** 3
    exact = -kt * math.log(phase / (8.0 * math.pi**2 * STANDARD_VOLUME_NM3))
    # The formula leaves the widths of the angles out of their sines.
    assert restraint.standard_state_kj_mol(300.0) == pytest.approx(exact, abs=0.4)
    assert 10.0 < exact < 60.0


def test_a_ligand_without_a_protein_cannot_be_restrained(tmp_path: Path) -> None:
    mm = load_system(InputFiles.model_validate(write_molecule("CCO", tmp_path)))
    with pytest.raises(InputError, match="none fit among 0 residues"):
        restrain(mm, BoreschSettings())


def test_restrained_paths_begin_and_end_without_restraint() -> None:
    schedule = restrained_schedule((0, 0.5, 1), "m", (0, 0.2, 1), "r")
    assert [(s["m"], s["r"]) for s in schedule.parameters] == [
        (0, 0), (0, 0.2), (0, 1), (0.5, 1), (1, 1), (1, 0.2), (1, 0),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="both end points"):
        restrained_schedule((0, 1), "m", (0.1, 1), "r")


def _edge(first: str, second: str, value: float, error: float = 0.5) -> Edge:
    estimate = Estimate(value_kj_mol=value, error_kj_mol=error)
    return Edge(first=first, second=second, estimate=estimate)


def test_cycles_of_consistent_values_close_and_others_do_not() -> None:
    values = {"a": 0.0, "b": 3.0, "c": -1.0, "d": 7.0, "e": 2.0, "x": 0.0, "y": 5.0}
    pairs = ["ab", "cb", "ac", "cd", "da", "be", "xy"]
    edges = [_edge(i, j, values[j] - values[i]) for i, j in pairs]
    cycles = find_cycles(edges)
    # Edges - ligands + components = 7 - 7 + 2.
    assert len(cycles) == 2
    for cycle in cycles:
        assert cycle.closure.value_kj_mol == pytest.approx(0.0, abs=1e-12)
        assert cycle.closure.error_kj_mol == pytest.approx(0.5 * math.sqrt(len(cycle.ligands)))
    spoiled = [_edge("a", "b", 1.0), _edge("b", "c", 2.0), _edge("c", "a", 4.0)]
    (cycle,) = find_cycles(spoiled)
    assert set(cycle.ligands) == {"a", "b", "c"}
    assert abs(cycle.closure.value_kj_mol) == pytest.approx(7.0)
    # Against its direction an edge counts with the other sign.
    (cycle,) = find_cycles([*spoiled[:2], _edge("a", "c", 4.0)])
    assert abs(cycle.closure.value_kj_mol) == pytest.approx(1.0)


def test_ligands_are_fitted_to_their_edges() -> None:
    edges = [_edge("a", "b", 1.0), _edge("b", "c", 2.0), _edge("a", "c", 3.6, 1.0)]
    fitted = fit_ligands(edges)
    assert sum(e.value_kj_mol for e in fitted.values()) == pytest.approx(0.0, abs=1e-12)
    # Closure 0.6 is spread by variance: the edges take 1/6, 1/6 and 4/6 of it.
    apart = fitted["c"].value_kj_mol - fitted["a"].value_kj_mol
    assert apart == pytest.approx(3.6 - 0.6 * 4 / 6)
    with pytest.raises(DataError, match="in pieces"):
        fit_ligands([_edge("a", "b", 1.0), _edge("c", "d", 1.0)])
    with pytest.raises(DataError, match="above zero"):
        fit_ligands([_edge("a", "b", 1.0, 0.0)])


def _config(tmp_path: Path, **changes: object) -> BindingConfig:
    ligands, systems = [], []
    for name, smiles in (("methanol", "CO"), ("ethanol", "CCO"), ("ammonia", "N")):
        folder = tmp_path / name
        files, system = write_complex(smiles, folder)
        alone = write_molecule(smiles, folder)
        systems += [
            system, openmm.XmlSerializer.deserialize(Path(alone["system_xml"]).read_text())
        ]  # fmt: skip
        ligands.append(
            {
                "name": name,
                "complex": files,
                "solvent": alone,
                "force_field_kcal_mol": {"value": -5.0, "error": 0.3},
                "experiment_kcal_mol": {"value": -6.0, "error": 0.2},
            }
        )
    register("force-field", *systems)
    known = {"value": 1.0, "error": 0.2}
    edges = [
        {"first": first, "second": second, "force_field_kcal_mol": known}
        for first, second in (("methanol", "ethanol"), ("ethanol", "ammonia"))
    ] + [
        {"first": "methanol", "second": "ammonia",
         "force_field_kcal_mol": {"value": 2.5, "error": 0.2}}
    ]  # fmt: skip
    content = {
        "name": "hosts",
        "output": str(tmp_path / "out"),
        "ligands": ligands,
        "edges": edges,
        "solvent_environment": "vacuum",
        "potential": {"name": "force-field"},
        "dynamics": FAST,
        "windows": {"lambdas": [0, 1], "iterations": 22, "equilibration": 1, "steps": 4},
    }
    return validated(content | changes, BindingConfig, "test")


def test_binding_by_the_same_force_field_is_not_changed(tmp_path: Path) -> None:
    config = _config(tmp_path)
    result = run_binding(config)
    assert result is not None
    for estimate in result.corrections.values():
        assert estimate.value_kj_mol == pytest.approx(0.0, abs=1e-5)
    (cycle,) = cycle_closures(config)
    assert abs(cycle.closure.value_kcal_mol) == pytest.approx(0.5)
    ligands, edges, cycles = binding_tables(config, result)
    assert [row[0] for row in ligands.rows] == ["methanol", "ethanol", "ammonia"]
    assert ligands.rows[0][5] == "-5.00 ± 0.30"
    assert edges.rows[2][2:] == ("2.50 ± 0.20", "2.50 ± 0.20", "0.00 ± 0.28")
    assert cycles.rows[0][1].lstrip("-") == "0.50 ± 0.35"
    with open(config.output / "binding.csv") as file:
        assert len(list(csv.reader(file))) == 4
    content = json.loads((config.output / "result.json").read_text())
    assert content["converged"] is False and len(content["legs"]) == 6
    assert "Cycle closure" in (config.output / "report.html").read_text()


def test_a_leg_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    windows = {"lambdas": [0, 1], "iterations": 5, "equilibration": 1, "steps": 2}
    config = _config(tmp_path, windows=windows)
    with pytest.raises(DataError, match="at least 20 samples") as raised:
        run_binding(config)
    # Every leg was sampled, every one is named.
    for ligand in ("methanol", "ethanol", "ammonia"):
        for place in ("solvent", "complex"):
            assert f"{ligand}/{place}: " in str(raised.value)
            assert (config.output / ligand / place / "windows" / "energies.bin").stat().st_size


def test_a_restrained_complex_gives_the_same_correction(tmp_path: Path) -> None:
    # Weak enough for the few steps of this test.
    weak = {"distance_kj_mol_nm2": 40.0, "angle_kj_mol_rad2": 2.0, "lambdas": [0, 0.3, 1]}
    windows = {"lambdas": [0, 1], "iterations": 60, "equilibration": 3, "steps": 20}
    config = _config(tmp_path, restraint=weak, windows=windows)
    config = config.model_copy(update={"ligands": config.ligands[1:2], "edges": ()})
    legs = binding_legs(config)
    leg = legs["ethanol", "complex"]
    assert leg.schedule.names == ("lambda_interpolate", "lambda_restraint")
    assert leg.schedule.n_states == 6
    assert legs["ethanol", "solvent"].schedule.n_states == 2
    # The host of this test does not hold its guest by itself.
    ties = openmm.HarmonicBondForce()
    for one in (0, 1, 3):
        for two in (12, 13, 14):
            apart = np.linalg.norm(leg.positions_nm[one] - leg.positions_nm[two])
            ties.addBond(one, two, float(apart), 300.0)
    leg.system.addForce(ties)
    result = run_leg(leg, tmp_path / "run", binding_protocol(config))
    assert result is not None
    # On and off again over the same force field: what is won at one end is paid at the other.
    assert result.estimate.value_kj_mol == pytest.approx(0.0, abs=1e-6)
    profile = result.windows.profile_kj_mol
    assert profile[2] > 1.0 and profile[3] > 1.0


def test_ligands_that_differ_between_their_places_are_refused(tmp_path: Path) -> None:
    config = _config(tmp_path)
    methanol, ethanol, _ = config.ligands
    wrong = methanol.model_copy(update={"solvent": ethanol.solvent})
    with pytest.raises(InputError, match="same atoms in the same order in solvent and complex"):
        binding_legs(config.model_copy(update={"ligands": (wrong,), "edges": ()}))
    alone = methanol.model_copy(update={"complex": methanol.solvent})
    with pytest.raises(InputError, match="nothing but the ligand"):
        binding_legs(config.model_copy(update={"ligands": (alone,), "edges": ()}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": [{"first": "methanol", "second": "water",
                     "force_field_kcal_mol": {"value": 0, "error": 1}}]}, "an edge joins two of"),
        ({"windows": None}, "one of windows and switching"),
        ({"restraint": {}, "switching": {}}, "cannot be used with switching"),
        ({"ligands": []}, "ligands: "),
        ({"restraint": {"lambdas": [0, 0.5]}}, "both end points"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(tmp_path, **changes)
