"""Isotopes that a SMILES string or a file names have their mass."""

from pathlib import Path

import openmm
import pytest
from openmm import unit
from rdkit import Chem

from mace_mm.errors import ConfigError, ElementError
from mace_mm.free_energy.systems.hydrogen_mass import repartition
from mace_mm.free_energy.systems.parametrize import _isotopes
from mace_mm.simulation.ligand import Ligand, load_ligand
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.simulate import simulate

DEUTERIUM, TRITIUM, CARBON_13, OXYGEN_18 = 2.014102, 3.016049, 13.003355, 17.999161


def masses_of_run(ligand: Ligand, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Masses of the System that `simulate` integrates."""
    from mace_mm.simulation import simulate as module

    systems: list[openmm.System] = []
    original = module.dynamics_result

    def keep(system, *arguments, **options):
        systems.append(system)
        return original(system, *arguments, **options)

    monkeypatch.setattr(module, "dynamics_result", keep)
    simulate(ligand, folder, RunSettings(steps=2, minimize_steps=0, log_interval=1))
    (system,) = systems
    return [
        system.getParticleMass(i).value_in_unit(unit.dalton)
        for i in range(system.getNumParticles())
    ]


@pytest.mark.parametrize(
    ("smiles", "heavy"),
    [
        ("[2H]C([2H])([2H])O", [DEUTERIUM] * 3),
        ("[13CH4]", [CARBON_13]),
        ("C[18OH]", [OXYGEN_18]),
        ("[3H]c1ccccc1", [TRITIUM]),
    ],
)
def test_a_smiles_names_isotopes(smiles, heavy, tmp_path, monkeypatch) -> None:
    ligand = load_ligand(smiles)
    assert list(ligand.isotope_masses.values()) == pytest.approx(heavy, abs=1e-6)
    assert Chem.CanonSmiles(ligand.smiles) == Chem.CanonSmiles(smiles)
    masses = masses_of_run(ligand, tmp_path, monkeypatch)
    natural = [atom.element.mass.value_in_unit(unit.dalton) for atom in ligand.topology.atoms()]
    for atom, mass in enumerate(masses):
        assert mass == pytest.approx(ligand.isotope_masses.get(atom, natural[atom]), abs=1e-6)


def test_an_sd_file_names_isotopes(shared_dir, tmp_path, monkeypatch) -> None:
    """Three deuterium atoms on the carbon of methanol."""
    path = shared_dir / "cases/isotopes/d3.sdf"
    masses = masses_of_run(load_ligand(str(path)), tmp_path, monkeypatch)
    assert sorted(masses)[:4] == pytest.approx([1.00795, *[DEUTERIUM] * 3], abs=1e-4)
    assert _isotopes(path) == pytest.approx({0: DEUTERIUM, 2: DEUTERIUM, 3: DEUTERIUM})


def test_elements_without_isotopes_keep_their_natural_mass() -> None:
    assert load_ligand("CCO").isotope_masses == {}


def test_deuterium_of_a_pdb_file(tmp_path, monkeypatch) -> None:
    lines = [
        "HETATM    1  O   HOH A   1       0.000   0.000   0.119  1.00  0.00           O",
        "HETATM    2  D1  HOH A   1       0.000   0.763  -0.477  1.00  0.00           D",
        "HETATM    3  D2  HOH A   1       0.000  -0.763  -0.477  1.00  0.00           D",
    ]
    (tmp_path / "heavy.pdb").write_text("\n".join([*lines, "END", ""]))
    ligand = load_ligand(str(tmp_path / "heavy.pdb"))
    masses = masses_of_run(ligand, tmp_path / "run", monkeypatch)
    assert masses[1:] == pytest.approx([DEUTERIUM] * 2, abs=1e-3)


def test_isotopes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ElementError, match="no isotope of C with mass number 99"):
        load_ligand("[99CH4]")


def test_a_run_is_not_continued_with_other_isotopes(tmp_path) -> None:
    settings = RunSettings(steps=2, minimize_steps=0, log_interval=1, checkpoint_interval=1)
    simulate(load_ligand("[13CH4]"), tmp_path, settings)
    longer = RunSettings(steps=4, minimize_steps=0, log_interval=1, checkpoint_interval=1)
    with pytest.raises(ConfigError, match="isotopes"):
        simulate(load_ligand("C"), tmp_path, longer, resume=True)
    assert simulate(load_ligand("[13CH4]"), tmp_path, longer, resume=True).result.step == 4


def test_heavier_hydrogens_do_not_make_deuterium_lighter() -> None:
    ligand = load_ligand("[2H]C")
    system = openmm.System()
    for atom in ligand.topology.atoms():
        system.addParticle(ligand.isotope_masses.get(atom.index, atom.element.mass))
    (heavy,) = ligand.isotope_masses
    repartition(ligand.topology, system, tuple(range(5)), 1.5)
    assert system.getParticleMass(heavy)._value == pytest.approx(DEUTERIUM, abs=1e-6)
    total = sum(system.getParticleMass(i)._value for i in range(5))
    assert total == pytest.approx(12.01078 + 3 * 1.007947 + DEUTERIUM, abs=1e-3)
