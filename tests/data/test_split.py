"""Splits: the same molecule never on both sides, whatever it is called."""

import json

import numpy as np
import pytest

from mace_mm.data.formats.spice import SpiceFile, SpiceKeys
from mace_mm.data.frames import MemoryFrames
from mace_mm.data.labels import LabeledMolecule
from mace_mm.data.split import fingerprint, load_split, save_split, split_by_molecule
from mace_mm.errors import ConfigError, DataError
from mace_mm.graph.molecule import Molecule

pytest.importorskip("rdkit")
from rdkit import Chem  # noqa: E402


def frame(name, smiles="", numbers=None):
    if numbers is None:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    positions = np.arange(3.0 * len(numbers)).reshape(-1, 3)
    return LabeledMolecule(
        molecule=Molecule(atomic_numbers=np.array(numbers), positions=positions),
        energy=0.0,
        name=name,
        smiles=smiles,
    )


def part_of(split, source):
    found = {}
    for part, members in split.parts.items():
        for i in members:
            found[source.entries[i].name] = part
    return found


def mapped(smiles):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(molecule.GetNumAtoms() - atom.GetIdx())
    return Chem.MolToSmiles(molecule)


ALKANES = [frame(f"alkane {n}", "C" * n) for n in range(1, 30)]
HALVES = {"train": 0.5, "test": 0.5}


@pytest.mark.parametrize("seed", range(6))
def test_one_molecule_under_many_names_stays_on_one_side(seed):
    twins = [
        frame("a", "CC(=O)Nc1ccc(O)cc1"),
        frame("b", mapped("CC(=O)Nc1ccc(O)cc1")),
        frame("left", "C[C@H](N)C(=O)O"),
        frame("right", "C[C@@H](N)C(=O)O"),
    ]
    source = MemoryFrames(twins + ALKANES)
    where = part_of(split_by_molecule(source, HALVES, seed=seed), source)
    assert where["a"] == where["b"] and where["left"] == where["right"]
    assert set(where) == {e.name for e in source.entries} and set(where.values()) == set(HALVES)


@pytest.mark.parametrize("seed", range(6))
def test_without_smiles_the_formula_decides(seed):
    propanol = [1] * 8 + [6] * 3 + [8]
    frames = [
        frame("nameless", numbers=propanol),
        frame("1-propanol", "CCCO"),
        frame("2-propanol", "CC(C)O"),
        frame("unreadable", "C[nonsense", numbers=propanol),
    ]
    source = MemoryFrames(frames + ALKANES)
    where = part_of(split_by_molecule(source, HALVES, seed=seed), source)
    assert len({where[f.name] for f in frames}) == 1


def test_scaffold_and_formula_keep_more_together():
    frames = [
        frame("toluene", "Cc1ccccc1"),
        frame("phenol salt", "Oc1ccccc1.[Na+].[Cl-]"),
        frame("ethylbenzene", "CCc1ccccc1"),
        frame("o-xylene", "Cc1ccccc1C"),
    ]
    source = MemoryFrames(frames + ALKANES)
    apart = {"molecule": False, "scaffold": False, "formula": False}
    for seed in range(8):
        for by in apart:
            where = part_of(split_by_molecule(source, HALVES, seed=seed, by=by), source)
            if by == "scaffold":
                assert len({where[f.name] for f in frames}) == 1
            if by == "formula":
                assert where["ethylbenzene"] == where["o-xylene"]
            apart[by] |= where["toluene"] != where["ethylbenzene"]
    assert apart == {"molecule": True, "scaffold": False, "formula": True}


def test_fractions_seeds_and_order():
    rng = np.random.default_rng(0)
    frames = [f for f in ALKANES for _ in range(int(rng.integers(1, 30)))]
    source = MemoryFrames(frames)
    split = split_by_molecule(source, {"train": 0.6, "valid": 0.2, "test": 0.2})
    sizes = {part: len(split.frames(source, part)) for part in split.parts}
    assert sum(sizes.values()) == len(frames)
    for part, fraction in split.fractions.items():
        assert abs(sizes[part] / len(frames) - fraction) < 0.08
    names = {
        p: {f.name for f in map(split.frames(source, p).__getitem__, range(n))}
        for p, n in sizes.items()
    }
    assert not names["train"] & names["test"] and not names["train"] & names["valid"]

    backward = MemoryFrames(frames[::-1])
    again = split_by_molecule(backward, split.fractions)
    assert part_of(again, backward) == part_of(split, source)
    other = split_by_molecule(source, split.fractions, seed=1)
    assert part_of(other, source) != part_of(split, source)


def test_a_stored_split_belongs_to_its_data(tmp_path):
    source = MemoryFrames(ALKANES)
    split = split_by_molecule(source, seed=3)
    path = tmp_path / "split.json"
    save_split(path, split, source)
    assert load_split(path) == split
    assert json.loads(path.read_text())["parts"]["train"][0][1].startswith("alkane")
    with pytest.raises(DataError, match="made for other data"):
        split.frames(MemoryFrames(ALKANES[1:]), "train")
    with pytest.raises(ConfigError, match="not 'trian'"):
        split.frames(source, "trian")
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="not a stored split"):
        load_split(path)
    path.write_text('{"format": 99}')
    with pytest.raises(DataError, match="got 99"):
        load_split(path)


def test_what_cannot_be_split():
    source = MemoryFrames(ALKANES[:2])
    with pytest.raises(DataError, match="test would be empty"):
        split_by_molecule(source)
    with pytest.raises(ConfigError, match="sum to 1"):
        split_by_molecule(source, {"train": 0.5, "test": 0.4})
    with pytest.raises(ConfigError, match="by must be"):
        split_by_molecule(source, by="name")


def test_the_real_slice_splits(shared_dir):
    path = shared_dir / "data" / "spice" / "des-monomers.hdf5"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    source = SpiceFile(path, SpiceKeys(energy=None, gradient=None))
    split = split_by_molecule(source, by="scaffold")
    assert sum(len(members) for members in split.parts.values()) == 378
    assert split.fingerprint == fingerprint(source)
