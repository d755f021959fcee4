"""PDB files as users have them: equal names, no hydrogens, boxes that are none, several models."""

from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit
from rdkit import Chem

from mace_mm.cli.app import main
from mace_mm.errors import InputError
from mace_mm.free_energy.config import InputFiles
from mace_mm.free_energy.systems.inputs import load_system
from mace_mm.identity.hydrogens import atoms_without_hydrogens
from mace_mm.identity.pairs import bonds_by_distance
from mace_mm.openmm.pdb_file import read_pdb
from mace_mm.simulation.ligand import load_ligand
from tests.support.free_energy_molecules import write_molecule

BOX = "CRYST1{:9.3f}{:9.3f}{:9.3f}  90.00  90.00  90.00 P 1           1\n"


def write(
    path: Path, smiles: str, *, names: str | None = None, drop: str = "", head: str = ""
) -> Path:
    """A molecule without CONECT lines; ``names`` renames all hydrogens, ``drop`` an element."""
    ligand = load_ligand(smiles)
    with path.open("w") as file:
        app.PDBFile.writeFile(ligand.topology, ligand.positions_nm * unit.nanometer, file)
    lines = []
    for line in path.read_text().splitlines(keepends=True):
        element = line[76:78].strip()
        if line.startswith(("CONECT", "REMARK", "CRYST1")) or (element and element == drop):
            continue
        if names is not None and element == "H":
            line = f"{line[:12]} {names:<3}{line[16:]}"
        lines.append(line)
    path.write_text(head + "".join(lines))
    return path


@pytest.mark.parametrize("smiles", ["CCO", "CC(C)(C)c1ccccc1", "N"])
def test_atoms_with_equal_names_are_all_read(smiles, tmp_path) -> None:
    want = load_ligand(smiles)
    ligand = load_ligand(str(write(tmp_path / "a.pdb", smiles, names="H")))
    assert ligand.n_atoms == want.n_atoms
    np.testing.assert_allclose(ligand.positions_nm, want.positions_nm, atol=1e-4)
    assert len({atom.name for atom in ligand.topology.atoms()}) == want.n_atoms

    def bonds(of) -> set[frozenset[int]]:
        return {frozenset((b[0].index, b[1].index)) for b in of.topology.bonds()}

    assert bonds(ligand) == bonds(want)


def test_more_atoms_of_one_name_than_there_are_digits(tmp_path) -> None:
    line = "HETATM{:5d}  H   UNL     1    {:8.3f}{:8.3f}   0.000  1.00  0.00           H\n"
    text = "".join(line.format(k + 1, 3.0 * (k % 50), 3.0 * (k // 50)) for k in range(1500))
    (tmp_path / "gas.pdb").write_text(text)
    structure = read_pdb(tmp_path / "gas.pdb")
    assert len({atom.name for atom in structure.topology.atoms()}) == 1500


def test_residues_without_numbers_of_their_own_are_refused(tmp_path) -> None:
    """Numbered names would give amino acids and water bonds that they do not have."""
    water = "HETATM{:5d}  {:<3} HOH A   1    {:8.3f}{:8.3f}   0.000  1.00  0.00           {}\n"
    lines = [
        water.format(3 * k + j + 1, name, 3.0 * k + x, y, name[0])
        for k in range(3)
        for j, (name, x, y) in enumerate([("O", 0, 0), ("H1", 0.96, 0), ("H2", -0.24, 0.93)])
    ]
    (tmp_path / "water.pdb").write_text("".join(lines))
    with pytest.raises(InputError, match=r"HOH \(line 1\) are called O"):
        load_ligand(str(tmp_path / "water.pdb"))


@pytest.mark.parametrize("smiles", ["CCO", "c1ccccc1", "CC#N", "CN", "CS", "C1CCC1", "O"])
def test_a_molecule_without_hydrogens_is_refused(smiles, tmp_path) -> None:
    path = write(tmp_path / "bare.pdb", smiles, drop="H")
    with pytest.raises(InputError, match=r"bare.pdb lacks hydrogen atoms: .* of LIG"):
        load_ligand(str(path))


def test_a_few_missing_hydrogens_are_noticed(tmp_path) -> None:
    """Those on carbon, as united atoms leave them out."""
    path = write(tmp_path / "all.pdb", "CCO")
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "few.pdb").write_text("".join(line for line in lines if " H1 " not in line))
    with pytest.raises(InputError, match="lacks hydrogen atoms: C1 of LIG must"):
        load_ligand(str(tmp_path / "few.pdb"))


@pytest.mark.parametrize(
    "smiles",
    ["ClC(Cl)(Cl)Cl", "FC(F)=C(F)F", "N#CC#N", "CC(=O)O", "C#CC", "c1ccsc1",
     "CS(=O)(=O)N", "C=C=C", "c1ccncc1", "C[N+](=O)[O-]", "OP(=O)(O)O", "CN=[N+]=[N-]"],
)  # fmt: skip
def test_molecules_that_are_whole_are_not_completed(smiles) -> None:
    ligand = load_ligand(smiles)
    numbers = np.array([atom.element.atomic_number for atom in ligand.topology.atoms()])
    positions = ligand.positions_nm * 10.0
    bonds = bonds_by_distance(numbers, positions)
    assert atoms_without_hydrogens(numbers, bonds, positions) == []


@pytest.mark.parametrize(
    ("numbers", "places"),
    [([8, 6, 8], [-1.16, 0.0, 1.16]), ([16, 6, 16], [-1.55, 0.0, 1.55]), ([6, 8], [0.0, 1.13])],
    ids=["CO2", "CS2", "CO"],
)
def test_small_molecules_without_hydrogen_are_whole(numbers, places) -> None:
    positions = np.outer(places, [1.0, 0.0, 0.0])
    bonds = bonds_by_distance(np.array(numbers), positions)
    assert len(bonds) == len(numbers) - 1
    assert atoms_without_hydrogens(numbers, bonds, positions) == []


def test_hot_and_large_molecules_are_not_completed(shared_dir) -> None:
    frames = np.load(shared_dir / "data/rmd17/rmd17_aspirin_train_01.npz")
    numbers = frames["nuclear_charges"]
    for positions in frames["coords"][::20]:
        bonds = bonds_by_distance(numbers, positions)
        assert atoms_without_hydrogens(numbers, bonds, positions) == []
    supplier = Chem.SDMolSupplier(str(shared_dir / "data/tyk2/ligands.sdf"), removeHs=False)
    for molecule in supplier:
        numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
        positions = molecule.GetConformer().GetPositions()
        bonds = bonds_by_distance(numbers, positions)
        assert atoms_without_hydrogens(numbers, bonds, positions) == []


@pytest.mark.parametrize("edges", [(1, 1, 1), (0, 0, 0), (0, 10, 10)])
def test_a_box_that_stands_for_none_is_none(edges, tmp_path) -> None:
    path = write(tmp_path / "a.pdb", "CCO", head=BOX.format(*edges))
    ligand = load_ligand(str(path))
    assert ligand.topology.getPeriodicBoxVectors() is None
    assert ligand.box_in_words == "" and ligand.warnings == ()


def test_a_molecule_that_sees_its_own_image_is_told_of(tmp_path, caplog) -> None:
    ligand = load_ligand(str(write(tmp_path / "a.pdb", "CCO", head=BOX.format(5, 5, 5))))
    assert ligand.box_in_words == " in a periodic box of 5.0 x 5.0 x 5.0 Å"
    (warning,) = ligand.warnings
    assert "within 2.5 Å of its own image" in warning and warning in caplog.text
    far = load_ligand(str(write(tmp_path / "b.pdb", "CCO", head=BOX.format(40, 40, 40))))
    assert far.warnings == () and far.box_in_words
    # Wrapped atom by atom into the box it is the same molecule.
    lines = (tmp_path / "b.pdb").read_text().splitlines(keepends=True)
    moved = [
        f"{x[:30]}{float(x[30:38]) % 40.0:8.3f}{x[38:]}" if x.startswith("HETATM") else x
        for x in lines
    ]
    (tmp_path / "c.pdb").write_text("".join(moved))
    assert load_ligand(str(tmp_path / "c.pdb")).warnings == ()


@pytest.mark.parametrize("edge", [0.5, 2.0])
def test_a_molecule_that_does_not_fit_into_its_box_is_refused(edge, tmp_path, capsys) -> None:
    path = write(tmp_path / "a.pdb", "CCO", head=BOX.format(edge, edge, edge))
    with pytest.raises(InputError, match="it does not fit in"):
        load_ligand(str(path))
    with pytest.raises(SystemExit) as end:
        main(["simulate", str(path), "-o", str(tmp_path / "run")])
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_of_several_models_and_locations_one_is_read_and_said(tmp_path) -> None:
    lines = write(tmp_path / "a.pdb", "CCO").read_text().splitlines(keepends=True)
    atoms = "".join(line for line in lines if line.startswith("HETATM"))
    (tmp_path / "models.pdb").write_text(
        "".join(f"MODEL     {k:4d}\n{atoms}ENDMDL\n" for k in (1, 2, 3)) + "END\n"
    )
    ligand = load_ligand(str(tmp_path / "models.pdb"))
    assert ligand.n_atoms == 9 and "holds 3 models" in ligand.warnings[0]
    first, *others = atoms.splitlines(keepends=True)
    both = [f"{first[:16]}{place}{first[17:]}" for place in "AB"]
    (tmp_path / "places.pdb").write_text("".join([*both, *others]))
    ligand = load_ligand(str(tmp_path / "places.pdb"))
    assert ligand.n_atoms == 9 and "1 alternative locations" in ligand.warnings[0]


def test_what_is_no_pdb_file_is_refused(tmp_path) -> None:
    (tmp_path / "text.pdb").write_text("not a molecule\n")
    with pytest.raises(InputError, match="text.pdb is not a PDB file: no line"):
        read_pdb(tmp_path / "text.pdb")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_pdb(tmp_path)
    broken = write(tmp_path / "a.pdb", "CCO").read_text().replace("0.", "x.", 3)
    (tmp_path / "broken.pdb").write_text(broken)
    with pytest.raises(InputError, match="broken.pdb is not a PDB file that OpenMM can read"):
        read_pdb(tmp_path / "broken.pdb")


def test_free_energies_read_the_same_files(tmp_path) -> None:
    """The PDB file beside a System: equal names, no box, no hydrogens on the ligand."""
    files = write_molecule("CCO", tmp_path)
    bare = write(tmp_path / "same.pdb", "CCO", names="H", head=BOX.format(1, 1, 1))
    mm = load_system(InputFiles(system_xml=files["system_xml"], pdb=bare))
    assert len(mm.ligand) == 9 and mm.box_nm is None
    system = openmm.System()
    for _ in range(3):
        system.addParticle(12.0)
    (tmp_path / "united.xml").write_text(openmm.XmlSerializer.serialize(system))
    united = write(tmp_path / "united.pdb", "CCO", drop="H")
    with pytest.raises(InputError, match="the ligand lacks hydrogen atoms"):
        load_system(InputFiles(system_xml=tmp_path / "united.xml", pdb=united))


def test_a_box_that_no_cutoff_fits_into_is_refused(tmp_path) -> None:
    files = write_molecule("CCO", tmp_path)
    system = openmm.XmlSerializer.deserialize(Path(files["system_xml"]).read_text())
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(0.9)
    system.setDefaultPeriodicBoxVectors(*(np.eye(3) * 2.0))
    (tmp_path / "pme.xml").write_text(openmm.XmlSerializer.serialize(system))
    for head, box in (("", 2.0), (BOX.format(1, 1, 1), 2.0), (BOX.format(25, 25, 25), 2.5)):
        pdb = write(tmp_path / "box.pdb", "CCO", head=head)
        mm = load_system(InputFiles(system_xml=tmp_path / "pme.xml", pdb=pdb))
        np.testing.assert_allclose(mm.box_nm, np.eye(3) * box)
    pdb = write(tmp_path / "small.pdb", "CCO", head=BOX.format(9, 9, 9))
    with pytest.raises(InputError, match="twice as wide as the cutoff of 0.9 nm.* got 0.9 nm"):
        load_system(InputFiles(system_xml=tmp_path / "pme.xml", pdb=pdb))
