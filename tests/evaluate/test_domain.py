"""Warnings about what a model was not trained for."""

import logging
import tarfile

import ase
import numpy as np
import pytest
from openmm import app
from openmmml import MLPotential

from mace_mm.archive.open_model import open_model
from mace_mm.errors import RunStoppedError
from mace_mm.evaluate.ase_calculator import MACECalculator
from mace_mm.evaluate.domain.limits import bonding_problems, geometry_problems
from mace_mm.simulation.ligand import ligand_from_smiles, load_ligand
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.simulate import read_summary, simulate
from mace_mm.units import NM_TO_ANGSTROM
from tests.support.openmm_systems import METHANOL, WATER

NEUTRAL = ["CCO", "C[N+](=O)[O-]", "CS(=O)(=O)N", "FC(F)Cl", "C[N+](C)(C)[O-]", "CC#N", "c1ccsc1"]


def topology_warnings(topology: app.Topology, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        MLPotential("mace").createSystem(topology)
    return [r.getMessage() for r in caplog.records if "outside" in r.getMessage()]


@pytest.mark.parametrize("smiles", NEUTRAL)
def test_neutral_molecules_pass_without_a_word(smiles: str, caplog) -> None:
    ligand = ligand_from_smiles(smiles)
    assert topology_warnings(ligand.topology, caplog) == []
    numbers = [a.element.atomic_number for a in ligand.topology.atoms()]
    assert geometry_problems(open_model(), numbers, ligand.positions_nm * NM_TO_ANGSTROM) == []


@pytest.mark.parametrize(
    ("smiles", "word"),
    [
        ("[CH3]", "odd number of electrons"),
        ("[NH3+]CC(=O)[O-]", "formal charges on N 0"),
    ],
)
def test_radicals_and_zwitterions_are_named(smiles: str, word: str, caplog) -> None:
    (*_, last) = topology_warnings(ligand_from_smiles(smiles).topology, caplog)
    assert word in last or word in caplog.text


def test_a_charged_center_is_found_from_bonds_alone() -> None:
    ammonium = [7, 1, 1, 1, 1]
    found = bonding_problems(ammonium, [(0, i) for i in range(1, 5)])
    assert any("N 0" in p for p in found) and any("odd number" in p for p in found)


def test_two_ions_are_found_although_all_electrons_together_are_even() -> None:
    """Chloride and hydroxide: 18 + 10 electrons as ions, 17 and 9 as the model sees them."""
    (found,) = bonding_problems([17, 8, 1], [(1, 2)])
    assert "2 of 2 molecules" in found


def test_a_charge_that_was_given_is_counted() -> None:
    hydroxide = ([8, 1], [(0, 1)])
    assert bonding_problems(*hydroxide)
    assert bonding_problems(*hydroxide, total_charge=-1) == []


def test_the_calculator_tells_of_short_contacts_and_lonely_atoms_once(caplog) -> None:
    numbers, positions = METHANOL
    squeezed = positions.copy()
    squeezed[1] = positions[0] + 0.6 * (positions[1] - positions[0])
    atoms = ase.Atoms([*numbers, 17, 1], np.vstack([squeezed, [[60, 0, 0], [90, 0, 0]]]))
    atoms.calc = MACECalculator()
    with caplog.at_level(logging.WARNING):
        atoms.get_potential_energy()
        atoms.positions[2] += 0.01
        atoms.get_potential_energy()
    text = [r.getMessage() for r in caplog.records]
    assert sum("C 0, O 1" in t and "shorter" in t for t in text) == 1
    assert sum("Cl 6, H 7" in t and "no neighbor" in t for t in text) == 1


def test_contacts_across_the_box_count() -> None:
    numbers, positions = WATER
    archive = open_model()
    assert geometry_problems(archive, numbers, positions, np.diag([12.0, 12.0, 12.0])) == []
    (found,) = geometry_problems(archive, numbers, positions, np.diag([12.0, 1.85, 12.0]))
    assert "shorter" in found


def test_a_run_that_starts_from_a_clash_says_so(tmp_path, caplog) -> None:
    ligand = ligand_from_smiles("CO")
    ligand.positions_nm[1] = 0.7 * ligand.positions_nm[1] + 0.3 * ligand.positions_nm[0]
    # Two steps of the minimizer tear the molecule, and the run ends before its first step.
    with caplog.at_level(logging.WARNING), pytest.raises(RunStoppedError, match="C1–O1.*broke"):
        simulate(ligand, tmp_path, RunSettings(steps=2, minimize_steps=2))
    assert "C 0, O 1" in caplog.text
    assert any("C 0, O 1" in warning for warning in read_summary(tmp_path).warnings)


def test_freesolv_molecules_are_inside(shared_dir, tmp_path, caplog) -> None:
    """Neutral organic molecules near their minima."""
    with tarfile.open(shared_dir / "data" / "freesolv" / "sdffiles.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    model = open_model()
    named = []
    for path in sorted(tmp_path.rglob("*.sdf"))[::16]:
        ligand = load_ligand(str(path))
        atoms = list(ligand.topology.atoms())
        numbers = [a.element.atomic_number for a in atoms]
        # Some of these files write a nitro group as N([O-])[O-], a dianion.
        if ligand.total_charge or not set(numbers) <= set(model.config.atomic_numbers):
            continue
        bonds = [(b.atom1.index, b.atom2.index) for b in ligand.topology.bonds()]
        charges = [a.formalCharge for a in atoms]
        found = bonding_problems(numbers, bonds, 0, charges)
        found += geometry_problems(model, numbers, ligand.positions_nm * NM_TO_ANGSTROM)
        if found:
            named.append((path.stem, found))
    assert named == []
