"""extxyz: what ASE writes and reads is what we read and write."""

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mace_mm.data.formats.extxyz import ExtxyzFile, write_extxyz
from mace_mm.data.formats.extxyz_format import ExtxyzKeys
from mace_mm.data.labels import LabeledMolecule
from mace_mm.errors import DataError
from mace_mm.graph.molecule import Molecule

ASE_KEYS = ExtxyzKeys(energy="energy", forces="forces", stress="stress")
SMILES = r"[H:2]/[C:1]=[C:3]\[H:4]"


def frame(seed=0, periodic=False, **changes):
    rng = np.random.default_rng(seed)
    stress = rng.normal(size=(3, 3))
    settings = dict(
        molecule=Molecule(
            atomic_numbers=[6, 1, 17, 1],
            positions=rng.normal(size=(4, 3)) * 3,
            total_charge=-1,
            cell=np.eye(3) * 9 + rng.random((3, 3)) if periodic else None,
        ),
        energy=float(rng.normal()) - 1e4,
        forces=rng.normal(size=(4, 3)),
        stress=stress + stress.T if periodic else None,
        name=f"molecule {seed}",
        smiles=SMILES,
        subset='a "quoted" one',
        level_of_theory="PBE/def2-SVP",
    )
    return LabeledMolecule(**{**settings, **changes})


def same(one, two, tolerance=1e-9):
    assert (one.molecule.atomic_numbers == two.molecule.atomic_numbers).all()
    np.testing.assert_allclose(one.molecule.positions, two.molecule.positions, atol=tolerance)
    assert one.energy == two.energy
    for key in ("forces", "stress"):
        a, b = getattr(one, key), getattr(two, key)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, atol=tolerance)
    assert (one.molecule.cell is None) == (two.molecule.cell is None)
    if one.molecule.cell is not None:
        np.testing.assert_array_equal(one.molecule.cell, two.molecule.cell)


@pytest.mark.parametrize("periodic", [False, True])
def test_round_trip(tmp_path, periodic):
    path = tmp_path / "data.xyz"
    keys = ExtxyzKeys(stress="REF_stress")
    made = [frame(seed, periodic) for seed in range(5)]
    assert write_extxyz(path, made, keys) == 5
    source = ExtxyzFile(path, keys)
    for i in (4, 0, 2):
        same(source[i], made[i])
        assert source[i].smiles == SMILES and source[i].subset == 'a "quoted" one'
        assert source[i].name == f"molecule {i}" and source[i].molecule.total_charge == -1
        assert source[i].level_of_theory == "PBE/def2-SVP"
    assert len(source.entries) == 5 and source.entry_of_frame.tolist() == list(range(5))


@pytest.mark.parametrize("periodic", [False, True])
def test_ase_reads_what_we_write_and_we_what_ase_writes(tmp_path, periodic):
    path = tmp_path / "ours.xyz"
    made = frame(1, periodic)
    write_extxyz(path, [made], ASE_KEYS)
    atoms = ase.io.read(path)
    assert atoms.get_potential_energy() == made.energy
    np.testing.assert_allclose(atoms.get_forces(), made.forces, atol=1e-9)
    np.testing.assert_allclose(atoms.positions, made.molecule.positions, atol=1e-9)
    if periodic:
        np.testing.assert_allclose(atoms.get_stress(voigt=False), made.stress, atol=1e-9)
        np.testing.assert_allclose(atoms.cell[:], made.molecule.cell)
    assert atoms.pbc.all() == atoms.pbc.any() == periodic

    atoms = ase.Atoms("CHClH", made.molecule.positions)
    if periodic:
        atoms.set_cell(made.molecule.cell)
        atoms.pbc = True
    stress = made.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] if periodic else None
    atoms.calc = SinglePointCalculator(atoms, energy=made.energy, forces=made.forces, stress=stress)
    ase.io.write(tmp_path / "ases.xyz", atoms, format="extxyz")
    keys = ASE_KEYS if periodic else ExtxyzKeys(energy="energy", forces="forces")
    read = ExtxyzFile(tmp_path / "ases.xyz", keys)[0]
    same(read, made, 1e-7)
    assert read.name == "CH2Cl"


def test_real_files_agree_with_ase(shared_dir):
    keys = ExtxyzKeys(energy="energy", forces="forces", name="torsion_id")
    cases = {
        "acac/train_300K.xyz": keys,
        "torsions/theory_bm.extxyz": keys,
        "spice-labelled/dipeptides_test.xyz": ExtxyzKeys(),
    }
    for name, wanted in cases.items():
        path = shared_dir / "data" / name
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        source, atoms = ExtxyzFile(path, wanted), ase.io.read(path, ":")
        assert len(source) == len(atoms)
        for i in range(0, len(atoms), 10):
            read = source[i]
            np.testing.assert_array_equal(read.molecule.positions, atoms[i].positions)
            if "spice" in name:
                assert read.energy == atoms[i].info["REF_energy"]
                np.testing.assert_array_equal(read.forces, atoms[i].arrays["REF_forces"])
            else:
                assert read.energy == atoms[i].get_potential_energy()
                np.testing.assert_array_equal(read.forces, atoms[i].get_forces())
            # Written with a 50 Å box for pictures and pbc="F F F": a molecule in vacuum.
            assert read.molecule.cell is None


def test_missing_labels(tmp_path):
    path = tmp_path / "data.xyz"
    write_extxyz(path, [frame(0), frame(1, forces=None), frame(2, energy=None)])
    with pytest.raises(DataError, match="frame 1: no forces under the key 'REF_forces'"):
        ExtxyzFile(path)
    with pytest.raises(DataError, match="holds.*REF_energy"):
        ExtxyzFile(path, ExtxyzKeys(energy="energy"))
    source = ExtxyzFile(path, ExtxyzKeys(allow_missing=True))
    assert source[1].forces is None and source[2].energy is None and source[0].energy is not None
    source = ExtxyzFile(path, ExtxyzKeys(energy=None, forces=None))
    assert source[0].forces is None and source[0].energy is None


def test_unnamed_isomers_are_one_molecule_and_stay_together(tmp_path):
    path = tmp_path / "data.xyz"
    made = [frame(i, name="x", smiles="") for i in range(3)]
    write_extxyz(path, made, ExtxyzKeys(name=None))
    source = ExtxyzFile(path, ExtxyzKeys(name=None))
    assert [e.name for e in source.entries] == ["CH2Cl"] and source.entry_of_frame.tolist() == [
        0
    ] * 3


GOOD = """2
Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.5 pbc="F F F"
H 0.0 0.0 0.0 0.1 0.0 0.0
H 0.0 0.0 0.7 -0.1 0.0 0.0
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("REF_energy=-1.5", "REF_energy=nan", "energy must be finite"),
        ("REF_energy=-1.5", "REF_energy=low", "must be a number, got 'low'"),
        ("0.7 -0.1", "0.7 inf", "forces must be finite"),
        ("0.7 -0.1", "nan -0.1", "positions must be finite"),
        ("H 0.0 0.0 0.7", "Hx 0.0 0.0 0.7", "'Hx' is not the symbol"),
        ("-0.1 0.0 0.0", "-0.1 0.0", "atom 1 has 6 columns"),
        ("0.7 -0.1", "0.7 x", "column REF_forces"),
        ("pos:R:3", "pos:R", "triples"),
        ('pbc="F F F"', 'pbc="T T F" Lattice="9 0 0 0 9 0 0 0 9"', "periodic in all"),
        ('pbc="F F F"', 'pbc="T T T" Lattice="9 0 0 0 9 0 0"', "9 numbers, got 7"),
    ],
)
def test_a_bad_frame_costs_only_itself(tmp_path, old, new, message):
    path = tmp_path / "data.xyz"
    path.write_text(GOOD + GOOD.replace(old, new) + GOOD)
    with pytest.raises(DataError, match=f"frame 1: .*{message}"):
        ExtxyzFile(path)
    source = ExtxyzFile(path, strict=False)
    assert len(source) == 2 and source[1].energy == -1.5
    assert len(source.problems) == 1 and "frame 1" in source.problems[0]


@pytest.mark.parametrize(
    ("cut", "message"), [(12, "within the line"), (30, "after 1 of 2"), (70, "after 0 of 2")]
)
def test_a_truncated_file_is_noticed(tmp_path, cut, message):
    path = tmp_path / "data.xyz"
    path.write_text((GOOD + GOOD)[:-cut])
    with pytest.raises(DataError, match=message):
        ExtxyzFile(path)
    source = ExtxyzFile(path, strict=False)
    assert len(source) == 1 and len(source.problems) == 1
    # A file that lacks only its last line break is whole.
    path.write_text((GOOD + GOOD)[:-1])
    assert len(ExtxyzFile(path)) == 2


def test_not_extxyz(tmp_path):
    path = tmp_path / "data.xyz"
    path.write_bytes(b"\x89HDF garbage\n")
    with pytest.raises(DataError, match="expected a line with the number of atoms"):
        ExtxyzFile(path)
    with pytest.raises(DataError, match="no such file"):
        ExtxyzFile(tmp_path / "none.xyz")
