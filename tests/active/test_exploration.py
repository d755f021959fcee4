"""Walks of active learning: they sample their temperature and end before a molecule is another."""

import warnings

import numpy as np
import pytest
from ase import Atoms

from mace_mm.active.exploration import Walk, walk_until_uncertain
from mace_mm.bundled_models import bundled_path
from mace_mm.evaluate.ase_calculator import MACECalculator
from mace_mm.identity.reference import make_identity
from mace_mm.identity.watch import MoleculeWatch
from mace_mm.simulation.ligand import ligand_from_smiles

pytestmark = pytest.mark.plain


@pytest.fixture(scope="module")
def ethanol() -> Atoms:
    ligand = ligand_from_smiles("CCO")
    symbols = [atom.element.symbol for atom in ligand.topology.atoms()]
    atoms = Atoms(symbols, 10.0 * ligand.positions_nm)
    uncertainty = bundled_path("small").with_suffix(".uncertainty")
    atoms.calc = MACECalculator("small", uncertainty=uncertainty)
    return atoms


def walk(atoms: Atoms, **changes: float) -> Walk:
    settings: dict = {"temperature_k": 300.0, "timestep_fs": 0.5, "n_steps": 40, "check_every": 5}
    return walk_until_uncertain(atoms, threshold=1e9, seed=[1], **(settings | changes))


def test_a_walk_that_tears_its_molecule_ends_with_the_frame_before(ethanol: Atoms) -> None:
    watch = MoleculeWatch(make_identity(ethanol.numbers, [], ethanol.positions))
    torn = walk(ethanol, timestep_fs=5.0)
    assert torn.uncertain and torn.destroyed is not None
    assert "broke" in torn.destroyed
    assert torn.n_steps < 40
    assert watch.look(torn.positions) == []
    quiet = walk(ethanol)
    assert not quiet.uncertain and quiet.destroyed is None and quiet.n_steps == 40
    assert np.abs(quiet.positions - ethanol.positions).max() > 0.01


def test_the_center_of_mass_is_not_held(ethanol: Atoms) -> None:
    """ASE's correction for that heats small molecules, and warns of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        moved = walk(ethanol, n_steps=20).positions
    shift = ethanol.get_masses() @ (moved - ethanol.positions) / ethanol.get_masses().sum()
    assert np.linalg.norm(shift) > 1e-3
