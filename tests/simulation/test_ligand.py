"""Ligands from SMILES, SD files and PDB files."""

from pathlib import Path

import numpy as np
import pytest
from openmm import app, unit
from rdkit import Chem

from mace_mm.errors import InputError
from mace_mm.simulation.ligand import load_ligand

pytestmark = pytest.mark.plain

PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"


def test_a_smiles_becomes_a_molecule_with_hydrogens_and_bonds() -> None:
    ligand = load_ligand(PARACETAMOL)
    assert ligand.n_atoms == 20
    assert ligand.smiles == Chem.CanonSmiles(PARACETAMOL)
    assert ligand.total_charge == 0
    elements = [atom.element.symbol for atom in ligand.topology.atoms()]
    assert (elements.count("C"), elements.count("H"), elements.count("N")) == (8, 9, 1)
    lengths = [
        np.linalg.norm(ligand.positions_nm[bond[0].index] - ligand.positions_nm[bond[1].index])
        for bond in ligand.topology.bonds()
    ]
    assert len(lengths) == 20
    assert min(lengths) > 0.09 and max(lengths) < 0.16
    assert len({atom.name for atom in ligand.topology.atoms()}) == 20


def test_the_structure_of_a_smiles_is_reproducible() -> None:
    first, second = (load_ligand(PARACETAMOL).positions_nm for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_an_sd_file_keeps_its_coordinates_and_charge(tmp_path: Path) -> None:
    built = load_ligand("C[NH3+]")
    path = tmp_path / "ion.sdf"
    with Chem.SDWriter(str(path)) as writer:
        writer.write(built.molecule)
    ligand = load_ligand(str(path))
    assert ligand.total_charge == 1
    assert ligand.name == "ion"
    np.testing.assert_allclose(ligand.positions_nm, built.positions_nm, atol=1e-5)


def test_a_pdb_file_is_read_without_bond_orders(tmp_path: Path) -> None:
    built = load_ligand("CO")
    path = tmp_path / "methanol.pdb"
    with path.open("w") as file:
        app.PDBFile.writeFile(built.topology, built.positions_nm * unit.nanometer, file)
    ligand = load_ligand(str(path))
    assert (ligand.name, ligand.n_atoms, ligand.smiles) == ("methanol", 6, None)
    np.testing.assert_allclose(ligand.positions_nm, built.positions_nm, atol=1e-4)
    assert ligand.topology.getNumBonds() == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.sdf", r"no such file: missing\.sdf"),
        ("C1CC", "neither a file that exists nor a SMILES"),
        ("", "neither a file"),
        ("CC.O", "holds 2"),
    ],
)
def test_what_is_no_ligand_is_refused(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_ligand(source)


def test_damaged_and_incomplete_files_are_refused(tmp_path: Path) -> None:
    def written(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    flat = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    with pytest.raises(InputError, match="no 3-D coordinates"):
        load_ligand(written("flat.sdf", flat + "$$$$\n"))
    bare = Chem.MolToMolBlock(Chem.RemoveHs(load_ligand("CCO").molecule))
    with pytest.raises(InputError, match="lacks 6 hydrogen atoms"):
        load_ligand(written("bare.sdf", bare + "$$$$\n"))
    with pytest.raises(InputError, match="no molecule"):
        load_ligand(written("text.sdf", "not a molecule"))
    with pytest.raises(InputError, match="is not an SD file"):
        load_ligand(written("empty.sdf", ""))
    with pytest.raises(InputError, match="is not a PDB file"):
        load_ligand(written("empty.pdb", "END\n"))
    with pytest.raises(InputError, match="a ligand file ends in"):
        load_ligand(written("ligand.xyz", "0\n"))
