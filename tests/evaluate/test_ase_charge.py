"""Charge and spin in ASE: info and initial charges, looked at again when they change."""

import dataclasses

import ase
import numpy as np
import pytest

from mace_mm import MACECalculator
from mace_mm.archive.open_model import open_model
from mace_mm.errors import ChargeError, ConfigError
from tests.support.mixed_systems import molecule_of

pytestmark = pytest.mark.plain


def atoms_of(smiles: str, **info: object) -> ase.Atoms:
    """A molecule without any word about its charge but those given."""
    made = molecule_of(smiles)
    numbers = [atom.GetAtomicNum() for atom in made.GetAtoms()]
    return ase.Atoms(numbers, made.GetConformer().GetPositions(), info=info)


def formal_charges(smiles: str) -> list[int]:
    return [atom.GetFormalCharge() for atom in molecule_of(smiles).GetAtoms()]


@pytest.fixture
def calculator() -> MACECalculator:
    return MACECalculator()


def knowing(*charges: int, **options: bool) -> MACECalculator:
    archive = open_model()
    metadata = dataclasses.replace(archive.metadata, total_charges=charges)
    return MACECalculator(dataclasses.replace(archive, metadata=metadata), **options)


@pytest.mark.parametrize("key", ["charge", "total_charge"])
def test_a_charge_in_info_is_compared(calculator, key) -> None:
    atoms = atoms_of("CC(=O)[O-]", **{key: -1})
    with pytest.raises(ChargeError, match=rf'is -1 e \(atoms.info\["{key}"\]=-1\)'):
        calculator.get_potential_energy(atoms)
    charged = knowing(0, -1)
    assert np.isfinite(charged.get_potential_energy(atoms))
    assert charged.warnings == []
    allowed = MACECalculator(allow_unknown_charge=True)
    assert np.isfinite(allowed.get_potential_energy(atoms))
    assert len(allowed.warnings) == 1 and "total charge is -1 e" in allowed.warnings[0]


def test_initial_charges_are_compared(calculator) -> None:
    for smiles in ("[O-]C(=O)C(=O)[O-]", "C[NH3+]", "C[N+](C)(C)C"):
        atoms = atoms_of(smiles)
        charges = formal_charges(smiles)
        atoms.set_initial_charges(charges)
        with pytest.raises(ChargeError, match=rf"initial charges sum to \{sum(charges):+.3f}"):
            calculator.get_potential_energy(atoms)
        # The same spread over all atoms, as a program of partial charges does.
        atoms.set_initial_charges(np.full(len(atoms), sum(charges) / len(atoms)))
        with pytest.raises(ChargeError, match="initial charges sum to"):
            calculator.get_potential_energy(atoms)
    atoms = atoms_of("CCO")
    atoms.set_initial_charges(np.linspace(-0.3, 0.3, len(atoms)))
    calculator.get_potential_energy(atoms)
    assert calculator.warnings == []


def test_info_is_looked_at_again_when_it_changes(calculator) -> None:
    atoms = atoms_of("CO")
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    for _ in range(2):
        with pytest.raises(ChargeError):
            atoms.get_potential_energy()
    atoms.info["charge"] = 0
    assert atoms.get_potential_energy() == energy
    atoms.info["spin"] = 3
    with pytest.raises(ConfigError, match=r'closed shells, got atoms.info\["spin"\]=3'):
        atoms.get_forces()
    del atoms.info["spin"]
    atoms.set_initial_charges([0, 0, 0, 0, 0, 1])
    with pytest.raises(ChargeError):
        atoms.get_potential_energy()


@pytest.mark.parametrize("key", ["spin", "multiplicity", "spin_multiplicity", "total_spin"])
def test_spins_other_than_of_closed_shells_are_refused(calculator, key) -> None:
    for value in (None, 0, 1, 1.0):
        assert np.isfinite(calculator.get_potential_energy(atoms_of("CO", **{key: value})))
    for value in (2, 3):
        with pytest.raises(ConfigError, match=key):
            calculator.get_potential_energy(atoms_of("CO", **{key: value}))


def test_what_is_no_charge_and_what_disagrees_is_refused() -> None:
    calculator = knowing(0, -1)
    with pytest.raises(ConfigError, match="must be a charge in e, got 'minus'"):
        calculator.get_potential_energy(atoms_of("CO", charge="minus"))
    with pytest.raises(ChargeError, match="contradictory"):
        calculator.get_potential_energy(atoms_of("CO", charge=0, total_charge=-1))
    assert np.isfinite(calculator.get_potential_energy(atoms_of("CO", charge="0")))


def test_every_member_of_a_committee_must_know_the_charge() -> None:
    archives = [knowing(0, -1).archives[0], open_model()]
    atoms = atoms_of("CC(=O)[O-]", charge=-1)
    with pytest.raises(ChargeError):
        MACECalculator(archives).get_potential_energy(atoms)
    committee = MACECalculator(archives, allow_unknown_charge=True)
    assert np.isfinite(committee.get_potential_energy(atoms))


def test_separated_charges_are_named(calculator) -> None:
    atoms = atoms_of("[NH3+]CC(=O)[O-]")
    calculator.get_potential_energy(atoms)
    assert any("charged groups on N 0 (+1), C 2 (-1)" in w for w in calculator.warnings)
    atoms.set_initial_charges(formal_charges("[NH3+]CC(=O)[O-]"))
    calculator.get_potential_energy(atoms)
    assert any("initial charges on N 0 (+1), O 4 (-1)" in w for w in calculator.warnings)
    for smiles in ("C[N+](=O)[O-]", "C[N+](C)(C)[O-]", "C=[N+]=[N-]"):
        atoms = atoms_of(smiles)
        calculator.get_potential_energy(atoms)
        assert not any("charge" in w for w in calculator.warnings)
        atoms.set_initial_charges(formal_charges(smiles))
        calculator.get_potential_energy(atoms)
        assert not any("charge" in w for w in calculator.warnings)


def test_acids_are_told_from_distances(calculator) -> None:
    """Oxalate has an even number of electrons, in a cell or not."""
    atoms = atoms_of("[O-]C(=O)C(=O)[O-]")
    calculator.get_potential_energy(atoms)
    assert "no hydrogen on the acid group at C 1, C 3" in calculator.warnings[0]
    atoms.set_cell([9.0, 9.0, 9.0])
    atoms.pbc = True
    atoms.positions += 4.6 - atoms.positions[1]
    atoms.wrap()
    again = MACECalculator()
    again.get_potential_energy(atoms)
    assert "no hydrogen on the acid group at C 1, C 3" in again.warnings[0]


def test_molecules_across_the_edge_of_a_slab_keep_their_bonds(calculator) -> None:
    """Acetic acid, its carbonyl in the next image along the periodic directions."""
    atoms = atoms_of("CC(=O)O")
    atoms.set_cell(np.diag([9.0, 9.0, 0.0]))
    atoms.pbc = (True, True, False)
    atoms.positions -= atoms.positions[1] - [0.1, 0.1, 0.0]
    inside = np.arange(len(atoms)) % 2 == 0
    atoms.positions[inside, :2] += 9.0
    calculator.get_potential_energy(atoms)
    assert calculator.warnings == []
    atoms.pbc = (False, False, False)
    again = MACECalculator()
    again.get_potential_energy(atoms)
    assert again.warnings != []
