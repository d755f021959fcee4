"""The ligand that nobody named: the one molecule that is neither water nor an ion."""

from pathlib import Path

import openmm
import pytest
import yaml
from openmm import app

from mace_mm.cli.app import main
from mace_mm.errors import InputError
from mace_mm.free_energy.config import InputFiles
from mace_mm.free_energy.systems.inputs import load_system
from mace_mm.free_energy.systems.ligand_choice import is_solvent, molecules, select_ligand
from tests.support.free_energy_molecules import crude_molecule, write_complex
from tests.support.mixed_systems import add_molecule, molecule_of, solvated


def rename(topology: app.Topology, *names: str) -> app.Topology:
    for residue, name in zip(topology.residues(), names, strict=True):
        residue.name = name
    return topology


def together(*smiles: str) -> tuple[app.Topology, openmm.System, list[list[int]]]:
    topology, system, _ = crude_molecule(smiles[0])
    atoms = [list(range(topology.getNumAtoms()))]
    for other in smiles[1:]:
        first = topology.getNumAtoms()
        add_molecule(molecule_of(other), topology, system)
        atoms.append(list(range(first, topology.getNumAtoms())))
    return topology, system, atoms


def without_bonds(topology: app.Topology) -> app.Topology:
    bare = app.Topology()
    chain = bare.addChain()
    for residue in topology.residues():
        made = bare.addResidue(residue.name, chain)
        for atom in residue.atoms():
            bare.addAtom(atom.name, atom.element, made)
    return bare


@pytest.mark.parametrize("ion", ["CLA", "SOD", "POT", "ZN", "Cl-", "IOD"])
@pytest.mark.parametrize("water", ["SPC", "OPC", "T3P", "TIP4P", "WAT", "XYZ"])
def test_ions_and_waters_are_known_by_composition(ion, water) -> None:
    topology, system, (ligand, _, _, _) = together("CCO", "[Cl-]", "O", "O")
    rename(topology, "LIG", ion, water, water)
    for known in (topology, without_bonds(topology)):
        assert list(select_ligand(known, system, None)) == ligand


@pytest.mark.parametrize("water", ["amber14/tip3pfb.xml", "amber14/tip4pew.xml", "tip5p.xml"])
def test_waters_with_sites_are_waters(water) -> None:
    topology, system, _, (ligand,) = solvated(["CCO"], water, edge=1.5)
    for residue in topology.residues():
        residue.name = "T4P" if residue.name == "HOH" else residue.name
    assert list(select_ligand(topology, system, None)) == ligand
    found = molecules(topology, system)
    assert [is_solvent(molecule) for molecule in found] == [True] * (len(found) - 1) + [False]
    assert {len(molecule) for molecule in found[:-1]} == {3 if "tip3" in water else len(found[0])}


def test_several_molecules_are_an_error_that_names_them() -> None:
    topology, system, _ = together("CCO", "CC(=O)[O-]", "O")
    rename(topology, "LIG", "ACT", "HOH")
    with pytest.raises(InputError, match=r"2 molecules are there \(LIG 1 \(9 atoms\), ACT 2 \(7 "):
        select_ligand(topology, system, None)
    assert len(select_ligand(topology, system, "ACT")) == 7
    topology, system, _ = together("O", "O", "[Cl-]")
    with pytest.raises(InputError, match="no molecule is there: name its residue"):
        select_ligand(topology, system, None)
    assert len(select_ligand(topology, system, (0, 1, 2))) == 3


@pytest.mark.parametrize("smiles", ["O", "[Cl-]", "CCO"])
def test_what_is_alone_is_the_ligand(smiles) -> None:
    topology, system, (atoms,) = together(smiles)
    assert list(select_ligand(topology, system, None)) == atoms


def test_a_ligand_of_several_residues_is_one_molecule() -> None:
    topology, system, (ligand, _) = together("CCCO", "O")
    split = app.Topology()
    chain = split.addChain()
    residues = [split.addResidue(name, chain) for name in ("AAA", "BBB", "HOH")]
    # The atoms of a residue stand together: the first four, the others, water.
    atoms = [
        split.addAtom(a.name, a.element, residues[2 if a.index not in ligand else a.index > 3])
        for a in topology.atoms()
    ]
    for bond in topology.bonds():
        split.addBond(atoms[bond[0].index], atoms[bond[1].index])
    assert list(select_ligand(split, system, None)) == ligand


def test_chloride_called_cla_and_water_called_spc(shared_dir: Path) -> None:
    folder = shared_dir / "cases/default-ligand"
    mm = load_system(InputFiles(system_xml=folder / "system.xml", pdb=folder / "system.pdb"))
    names = [atom.residue.name for atom in mm.topology.atoms() if atom.index in mm.ligand]
    assert names == ["LIG"] * 9


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_the_command_asks_for_a_name(plan, tmp_path, capsys) -> None:
    files, _ = write_complex("CO", tmp_path)
    del files["ligand"]
    content = {
        "name": "x",
        "output": str(tmp_path / "out"),
        "input": files,
        "environment": "as_given",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as end:
        main(["correct", str(tmp_path / "run.yaml"), *plan])
    assert end.value.code == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "2 molecules are there (HST 1 (12 atoms), LIG 2 (6 atoms))" in message
    assert not (tmp_path / "out").exists()
