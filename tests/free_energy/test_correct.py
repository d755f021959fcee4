"""Corrections from a force field to a potential behind OpenMM-ML's interface: known answers."""

import json
import math
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from scipy.integrate import quad

from mace_mm.archive.archive import ArchiveMetadata, make_archive, save_archive
from mace_mm.errors import ConfigError
from mace_mm.free_energy.analysis.estimator import estimate_mbar, kt_kj_mol
from mace_mm.free_energy.config import CorrectionConfig, Potential
from mace_mm.free_energy.jobs.correct import correction_leg, place_in_environment, run_correction
from mace_mm.free_energy.sampling.samples import collect
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Windows
from mace_mm.model import potential as network
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.settings import validated
from tests.support.free_energy_molecules import register, write_molecule

TEMPERATURE_K = 300.0
FAST = {"timestep_fs": 1.0, "friction_per_ps": 20.0, "platform": "Reference", "seed": 11}
WATER = {"edge_nm": 1.3, "cutoff_nm": 0.6}


def config_of(files: dict[str, str], output: Path, **changes: object) -> CorrectionConfig:
    content = {
        "name": "test",
        "output": str(output),
        "input": files,
        "solvent": WATER,
        "potential": {"name": "force-field"},
        "conditions": {"temperature_k": TEMPERATURE_K},
        "dynamics": FAST,
        "windows": {"lambdas": [0, 0.5, 1], "iterations": 40, "equilibration": 2, "steps": 20},
        "switching": None,
    }
    return validated(content | changes, CorrectionConfig, "test")


@pytest.mark.parametrize("environment", ["vacuum", "water"])
def test_the_same_force_field_at_both_ends_is_no_correction(
    tmp_path: Path, environment: str
) -> None:
    short = {"lambdas": [0, 1], "iterations": 22, "equilibration": 2, "steps": 5}
    config = config_of(
        write_molecule("CO", tmp_path),
        tmp_path / "out",
        environment=environment,
        windows=short,
        switching={"switches": 6, "steps": 10, "updates": 5, "equilibration": 1, "stretch": 5},
        dynamics=FAST | {"platform": "CPU", "platform_properties": {"Threads": "1"}},
    )
    mm = place_in_environment(config.input, environment, config.solvent)
    register("force-field", mm.system)
    result = run_correction(config)
    assert result is not None
    # PME is computed in single precision.
    tolerance = 1e-6 if environment == "vacuum" else 2e-2
    for name, estimate in result.methods.items():
        assert abs(estimate.value_kj_mol) <= tolerance + 2.0 * estimate.error_kj_mol, name
        assert estimate.error_kj_mol < tolerance, name


def _free_energy_of_a_bond(length_nm: float, strength: float, kt: float) -> float:
    """-kT ln ∫ r² exp(-k (r - r0)²/2kT) dr, by quadrature."""
    width = math.sqrt(kt / strength)

    def weight(r: float) -> float:
        return r * r * math.exp(-0.5 * ((r - length_nm) / width) ** 2)

    low, high = max(0.0, length_nm - 12 * width), length_nm + 12 * width
    return -kt * math.log(quad(weight, low, high, points=[length_nm])[0])


def _stiffened(system: openmm.System, factor: float, stretch_nm: float) -> openmm.System:
    changed = openmm.XmlSerializer.clone(system)
    for force in changed.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for index in range(force.getNumBonds()):
                i, j, length, strength = force.getBondParameters(index)
                force.setBondParameters(
                    index, i, j, length._value + stretch_nm, factor * strength._value
                )
    return changed


def _bond_of(system: openmm.System) -> tuple[float, float]:
    force = next(f for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))
    _, _, length, strength = force.getBondParameters(0)
    return length._value, strength._value


def test_the_correction_to_another_force_field_covers_its_answer_in_95_percent_of_repeats(
    tmp_path: Path,
) -> None:
    files = write_molecule("Cl", tmp_path)
    config = config_of(files, tmp_path / "out")
    mm = place_in_environment(config.input, "vacuum", config.solvent)
    other = _stiffened(mm.system, 1.6, 0.004)
    register("force-field", other)
    kt = kt_kj_mol(TEMPERATURE_K)
    exact = _free_energy_of_a_bond(*_bond_of(other), kt) - _free_energy_of_a_bond(
        *_bond_of(mm.system), kt
    )
    leg = correction_leg(config)
    windows = Windows(lambdas=(0, 0.5, 1), iterations=60, equilibration=3, steps=30)
    repeats, deviations = 40, []
    for repeat in range(repeats):
        np.random.seed(repeat)  # of openmmtools' exchanges
        seeded = config.dynamics.model_copy(update={"seed": repeat + 1, "friction_per_ps": 50.0})
        journal = run_windows(leg, tmp_path / str(repeat), windows, seeded)
        samples = collect(leg.schedule, TEMPERATURE_K, [journal], windows.equilibration)
        estimate = estimate_mbar(samples)
        deviations.append((estimate.value_kj_mol - exact) / estimate.error_kj_mol)
    # 38 of 40 are expected; fewer than 34 would happen once in 70 runs of honest errors.
    assert np.sum(np.abs(deviations) <= 1.96) >= 34, deviations
    assert 0.6 < np.std(deviations) < 1.4, deviations
    assert abs(np.mean(deviations)) < 0.6, deviations


def test_a_run_leaves_results_pictures_and_tables(tmp_path: Path) -> None:
    config = config_of(
        write_molecule("CO", tmp_path),
        tmp_path / "out",
        switching={"switches": 8, "steps": 10, "updates": 5, "equilibration": 1, "stretch": 10},
    )
    mm = place_in_environment(config.input, "vacuum", config.solvent)
    register("force-field", _stiffened(mm.system, 1.1, 0.0005))
    stages: list[tuple[str, int, int]] = []
    result = run_correction(config, lambda *stage: stages.append(stage))
    assert result is not None
    assert stages[-1] == ("switches", 18, 18)
    content = json.loads((config.output / "result.json").read_text())
    assert set(content["methods"]) == {
        "MBAR", "BAR", "TI", "switching, BAR", "switching, Crooks",
    }  # fmt: skip
    assert content["converged"] is result.verdict.converged
    assert len(content["windows"]["overlap"]) == 3
    page = (config.output / "report.html").read_text()
    assert "data:image/png;base64," in page and "independent" in page
    assert (config.output / "test.png").read_bytes().startswith(b"\x89PNG")
    from alchemlyb.parsing.parquet import extract_u_nk

    assert len(extract_u_nk(str(config.output / "u_nk.parquet"), TEMPERATURE_K)) == 120
    # Finished: a second call only reads.
    again = run_correction(config)
    assert again is not None and again.estimate == result.estimate
    other = config.potential.model_copy(update={"options": {"mlLongRange": False}})
    with pytest.raises(ConfigError, match="holds a run with origin"):
        run_correction(config.model_copy(update={"potential": other}))


def test_another_model_in_the_same_file_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    origins = []
    for seed in (1, 2):
        config = MACEConfig(atomic_numbers=(1, 6, 8), r_max=4.0, channels=4)
        torch.manual_seed(seed)
        save_archive(
            path, make_archive(network.Potential(MACE(config)), ArchiveMetadata(name="test"))
        )
        settings = config_of(write_molecule("CO", tmp_path), tmp_path / "out")
        model = Potential(model=str(path))
        origins.append(correction_leg(settings.model_copy(update={"potential": model})).origin)
    assert origins[0] != origins[1]


def test_water_is_put_around_a_molecule(tmp_path: Path) -> None:
    config = config_of(write_molecule("CO", tmp_path), tmp_path / "out", environment="water")
    leg = correction_leg(config.model_copy(update={"potential": Potential()}))
    assert leg.pressure_bar == 1.01325
    n_waters = (leg.system.getNumParticles() - 6) // 3
    # 33.4 waters a cubic nanometer, less those that the molecule displaces.
    assert 55 <= n_waters <= 74
    waters = leg.positions_nm[6:].reshape(-1, 3, 3)
    apart = leg.positions_nm[:6, None] - waters[None, :, 0]
    apart -= 1.3 * np.round(apart / 1.3)
    assert np.linalg.norm(apart, axis=2).min() >= 0.24
    masses = sum(leg.system.getParticleMass(i)._value for i in range(6))
    assert masses == pytest.approx(32.04, abs=0.01)
    assert leg.system.getNumConstraints() == 3 * n_waters


def test_all_methods_agree_on_a_real_ligand(shared_dir: Path, tmp_path: Path) -> None:
    # Acetamide from GAFF to the bundled model, in vacuum.
    files = {"freesolv": str(shared_dir / "data/freesolv"), "molecule": "acetamide"}
    config = config_of(
        files,
        tmp_path / "out",
        potential={"name": "mace"},
        windows={"lambdas": [0, 0.5, 1], "iterations": 100, "equilibration": 10, "steps": 40},
        switching={"switches": 40, "steps": 60, "updates": 20, "equilibration": 8, "stretch": 60},
        dynamics=FAST | {"friction_per_ps": 10.0},
    )
    np.random.seed(5)  # of openmmtools' exchanges
    result = run_correction(config)
    assert result is not None
    mbar = result.methods["MBAR"]
    assert mbar.error_kj_mol < 1.0
    for name, limit in (("BAR", 2.0), ("TI", 2.0), ("switching, BAR", 3.5)):
        other = result.methods[name]
        apart = abs(other.value_kj_mol - mbar.value_kj_mol)
        assert apart <= limit * math.hypot(other.error_kj_mol, mbar.error_kj_mol), name
