"""SPICE's layout: the real slice reads right, what is written equals it, damage is named."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mace_mm import units
from mace_mm.data.formats.spice import SpiceFile, SpiceKeys
from mace_mm.data.formats.spice_writer import append_spice, write_spice
from mace_mm.data.labels import ConformerSet
from mace_mm.data.smiles import atomic_numbers_from_smiles, charge_from_smiles
from mace_mm.errors import DataError

UNLABELLED = SpiceKeys(energy=None, gradient=None)


def conformers(name="water", n=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    settings = dict(
        name=name,
        atomic_numbers=[8, 1, 1],
        positions=rng.normal(size=(n, 3, 3)),
        energies=-2080.0 + rng.normal(size=n),
        forces=rng.normal(size=(n, 3, 3)),
        formation_energies=-10.0 + rng.normal(size=n),
        smiles="[O:1]([H:2])[H:3]",
        subset="test",
        level_of_theory="none",
    )
    return ConformerSet(**{**settings, **changes})


@pytest.fixture
def real(shared_dir):
    path = shared_dir / "data" / "spice" / "SPICE-1.1.4_n2.hdf5"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def test_the_real_slice_reads_in_our_units(real):
    source = SpiceFile(real)
    assert len(source) == 55 and [e.name for e in source.entries] == ["103147721", "C#C.[Na+]"]
    with h5py.File(real) as file:
        group = file["103147721"]
        frame = source[7]
        assert frame.energy == group["dft_total_energy"][7] * units.HARTREE_TO_EV
        expected = group["conformations"][7].astype(float) * units.BOHR_TO_ANGSTROM
        np.testing.assert_array_equal(frame.molecule.positions, expected)
        expected = -group["dft_total_gradient"][7] * (27.211386245988 / 0.529177210903)
        np.testing.assert_allclose(frame.forces, expected, rtol=1e-6)
        np.testing.assert_array_equal(frame.molecule.atomic_numbers, group["atomic_numbers"][()])
    assert frame.molecule.total_charge == 1 and "PubChem" in frame.subset
    assert source[54].name == "C#C.[Na+]" and source[54].molecule.total_charge == 1
    assert frame.level_of_theory == "wB97M-D3(BJ)/def2-TZVPPD"


def test_forces_of_the_real_slice_point_downhill(real):
    """Sign and unit of the gradient by physics: dE along a short step is -F·dr."""
    scan = SpiceFile(real).conformers(1)
    flat = scan.positions.reshape(scan.n_frames, -1)
    distance = np.linalg.norm(flat[:, None] - flat, axis=-1)
    i, j = np.nonzero((distance > 0) & (distance < 0.15))
    step = scan.positions[j] - scan.positions[i]
    work = -0.5 * np.einsum("nax,nax->n", scan.forces[i] + scan.forces[j], step)
    np.testing.assert_allclose(work, scan.energies[j] - scan.energies[i], rtol=0.15)
    assert work.size == 8


def test_what_is_written_looks_like_the_real_slice(real, tmp_path):
    source = SpiceFile(real)
    path = tmp_path / "copy.hdf5"
    assert write_spice(path, [source.conformers(0), source.conformers(1)]) == 2
    with h5py.File(real) as old, h5py.File(path) as new:
        assert list(old) == list(new)
        for name in new:
            for key in ("smiles", "subset", "atomic_numbers", "conformations", "formation_energy"):
                assert key in new[name]
            for key, dataset in new[name].items():
                other = old[name][key]
                assert dataset.dtype == other.dtype and dataset.shape == other.shape, key
                assert dict(dataset.attrs) == dict(other.attrs), key
                if dataset.dtype.kind == "f":
                    np.testing.assert_allclose(dataset[()], other[()], rtol=3e-7, atol=1e-9)
                else:
                    assert (dataset[()] == other[()]).all()
    again = SpiceFile(path)
    np.testing.assert_allclose(again[3].forces, source[3].forces, rtol=1e-6, atol=1e-6)


def test_unlabelled_spice_files_and_teachers(shared_dir):
    for name, n_frames, n_atoms in (("des-monomers", 18900, 5), ("water", 1000, 90)):
        path = shared_dir / "data" / "spice" / f"{name}.hdf5"
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        source = SpiceFile(path, UNLABELLED)
        frame = source[0]
        assert len(source) == n_frames and frame.molecule.n_atoms == n_atoms
        assert frame.energy is None and frame.forces is None
        # Nanometers became Å: no two atoms closer than a bond, neighbors no farther than one.
        positions = frame.molecule.positions
        distance = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(n_atoms)
        assert 0.8 < distance.min() < 1.3
    path = shared_dir / "data" / "teacher" / "teacher.h5"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    keys = SpiceKeys(energy="aimnet_energy", gradient="aimnet_gradient", skip_unlabelled=True)
    source = SpiceFile(path, keys)
    assert len(source) == 60825 and len(source.unlabelled) > 500
    with pytest.raises(DataError, match="no dataset aimnet_energy"):
        SpiceFile(path, SpiceKeys(energy="aimnet_energy", gradient="aimnet_gradient"))


def test_round_trip_keeps_everything(tmp_path):
    path = tmp_path / "data.hdf5"
    extra = {"energy_std": (np.arange(4.0), "hartree"), "converged": (np.ones(4, bool), "")}
    made = conformers(
        total_charge=-1, extra=extra, attributes={"sampler": "MMFF94", "seed": 3}, smiles=""
    )
    write_spice(path, [made], attributes={"protocol": "yaml"})
    read = SpiceFile(path).conformers(0)
    np.testing.assert_allclose(read.positions, made.positions, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(read.energies, made.energies, rtol=1e-15)
    np.testing.assert_allclose(read.forces, made.forces, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(read.formation_energies, made.formation_energies, rtol=1e-14)
    assert (read.total_charge, read.level_of_theory, read.subset) == (-1, "none", "test")
    with h5py.File(path) as file:
        group = file["water"]
        assert group["energy_std"].attrs["units"] == "hartree"
        assert "units" not in group["converged"].attrs
        assert group.attrs["sampler"] == "MMFF94" and file.attrs["protocol"] == "yaml"


def test_other_loaders_of_spice_find_what_they_read(tmp_path):
    """The way public loaders access a release: names, types, shapes and atomic units."""
    path = tmp_path / "data.hdf5"
    made = conformers()
    write_spice(path, [made])
    with h5py.File(path) as file:
        (name, group), *rest = file.items()
        assert name == "water" and not rest
        assert group["smiles"][0].decode() == group["smiles"].asstr()[0] == "[O:1]([H:2])[H:3]"
        assert group["subset"][0].decode() == "test"
        types = {
            "atomic_numbers": (np.int16, (3,), None),
            "conformations": (np.float32, (4, 3, 3), "bohr"),
            "formation_energy": (np.float64, (4,), "hartree"),
            "dft_total_energy": (np.float64, (4,), "hartree"),
            "dft_total_gradient": (np.float32, (4, 3, 3), "hartree/bohr"),
        }
        for key, (kind, shape, unit) in types.items():
            assert (group[key].dtype, group[key].shape) == (kind, shape)
            assert group[key].attrs.get("units") == unit
        hartree, bohr = 27.211386245988, 0.529177210903
        gradient = group["dft_total_gradient"][()]
        np.testing.assert_allclose(gradient, -made.forces / (hartree / bohr), rtol=1e-6)
        np.testing.assert_allclose(group["conformations"][()], made.positions / bohr, rtol=1e-6)
        np.testing.assert_allclose(group["dft_total_energy"][()], made.energies / hartree)


def test_formation_energy_is_the_total_minus_the_atoms(tmp_path):
    path = tmp_path / "data.hdf5"
    made = conformers(formation_energies=None)
    atoms = {1: -13.5, 8: -2040.0}
    write_spice(path, [made], atomic_energies=atoms)
    read = SpiceFile(path).conformers(0)
    np.testing.assert_allclose(read.formation_energies, made.energies + 2067.0)
    with pytest.raises(DataError, match="got neither"):
        write_spice(path, [made])
    with pytest.raises(DataError, match="lack O"):
        write_spice(path, [made], atomic_energies={1: 0.0})
    # The failures left the good file as it was, and nothing else.
    assert len(SpiceFile(path)) == 4 and list(tmp_path.iterdir()) == [path]


def test_append_adds_all_or_nothing(tmp_path):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers("a")])
    assert append_spice(path, [conformers("b"), conformers("c")]) == 2
    before = path.read_bytes()
    with pytest.raises(DataError, match="'b' occurs twice"):
        append_spice(path, [conformers("d"), conformers("b")])
    with pytest.raises(DataError, match="finite"):
        append_spice(path, [conformers("e", energies=np.full(4, np.nan))])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert [e.name for e in SpiceFile(path).entries] == ["a", "b", "c"]


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from tests.data.test_spice import conformers
from mace_mm.data.formats.spice_writer import append_spice
for i in range(100000):
    append_spice({path!r}, [conformers(str(i), n=400, seed=i)])
"""


@pytest.mark.parametrize("delay", [0.3, 0.7, 1.1])
def test_a_killed_writer_leaves_a_whole_file(tmp_path, delay):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers("first", n=400)])
    code = KILLED.format(tests=str(Path(__file__).parents[2]), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code])
    before = path.stat().st_size
    while process.poll() is None and path.stat().st_size == before:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -9
    source = SpiceFile(path)
    names = [entry.name for entry in source.entries]
    assert sorted(names) == sorted(["first", *map(str, range(len(names) - 1))]) and len(names) > 1
    assert all(np.isfinite(source[i].energy) for i in range(len(source)))


FULL_DISK = """
import resource, sys
sys.path.insert(0, {tests!r})
from tests.data.test_spice import conformers
from mace_mm.data.formats.spice_writer import append_spice
from mace_mm.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    append_spice({path!r}, [conformers("big", n=20000)])
except DataError as error:
    print("DataError", error)
"""


def test_a_full_disk_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers("first")])
    before = path.read_bytes()
    code = FULL_DISK.format(tests=str(Path(__file__).parents[2]), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "DataError" in done.stdout and "could not be written" in done.stdout, done.stderr
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_damage_is_named(tmp_path):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers(name, n=500) for name in "abc"])
    whole = path.read_bytes()
    with pytest.raises(DataError, match="no such file"):
        SpiceFile(tmp_path / "missing.hdf5")
    for keep in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match="truncated or damaged"):
            SpiceFile(path)
    path.write_text("not HDF5 at all" * 100)
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        SpiceFile(path)


def damage_unit(group):
    group["conformations"].attrs["units"] = "furlong"


def damage_no_unit(group):
    del group["dft_total_energy"].attrs["units"]


def damage_missing(group):
    del group["smiles"]


def damage_shape(group):
    gradient = group["dft_total_gradient"][:, :2]
    del group["dft_total_gradient"]
    group["dft_total_gradient"] = gradient


def damage_frames(group):
    energy = group["dft_total_energy"][:-1]
    del group["dft_total_energy"]
    group["dft_total_energy"] = energy


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_unit, "units 'furlong'"),
        (damage_no_unit, "no attribute units"),
        (damage_missing, "no dataset smiles"),
        (damage_shape, "must have shape"),
        (damage_frames, "must have shape"),
    ],
)
def test_a_damaged_group_costs_only_itself(tmp_path, damage, message):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers(name) for name in "abc"])
    with h5py.File(path, "a") as file:
        damage(file["b"])
    with pytest.raises(DataError, match=f"group 'b'.*{message}"):
        SpiceFile(path)
    source = SpiceFile(path, strict=False)
    assert [e.name for e in source.entries] == ["a", "c"] and len(source) == 8
    assert len(source.problems) == 1 and "'b'" in source.problems[0]


def test_a_group_without_conformations_is_listed(tmp_path):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers(name) for name in "abc"])
    with h5py.File(path, "a") as file:
        for key in ("conformations", "dft_total_energy", "dft_total_gradient"):
            attributes = dict(file["b"][key].attrs)
            del file["b"][key]
            file["b"].create_dataset(key, data=np.zeros(0)).attrs.update(attributes)
    source = SpiceFile(path)
    assert source.empty == ["b"] and [e.name for e in source.entries] == ["a", "c"]
    assert len(source) == 8 and not source.problems


def test_a_frame_that_is_not_finite_is_named(tmp_path):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers()])
    with h5py.File(path, "a") as file:
        file["water/dft_total_gradient"][2, 1, 0] = np.nan
    source = SpiceFile(path)
    assert np.isfinite(source[1].forces).all()
    with pytest.raises(DataError, match="water: forces must be finite; row 1"):
        source[2]


def test_a_source_travels_to_workers_and_forgets_old_groups(tmp_path):
    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers(name, n=50, seed=ord(name)) for name in "abcdef"])
    source = SpiceFile(path, cache_bytes=30_000)
    expected = [source[i].energy for i in range(300)]
    assert source._held <= 30_000
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    order = np.random.default_rng(0).permutation(300)
    assert [copy[int(i)].energy for i in order] == [expected[i] for i in order]
    source.close()
    assert source[299].energy == expected[299]
    with pytest.raises(IndexError):
        source[300]


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [
        ("[O:1]([H:2])[H:3]", 0),
        ("[H:3][C:1]#[C:2][H:4].[Na+:5]", 1),
        ("[N+:1]([H:2])([H:3])([H:4])[C:5][C:6](=[O:7])[O-:8]", 0),
        ("[Ca+2:1].[Cl-:2]", 1),
        ("[Mg++:1].[O--:2].[S-2:3]", -2),
        ("CC(=O)[O-]", -1),
        ("[C@@H:1](F)(Cl)Br", 0),
        ("", 0),
    ],
)
def test_charges_stand_in_the_smiles(smiles, charge):
    assert charge_from_smiles(smiles) == charge


def test_atomic_numbers_stand_in_the_smiles():
    smiles = "[H:3][C:1]#[C@@:2][Cl:4].[Na+:5].[n:6]"
    assert atomic_numbers_from_smiles(smiles).tolist() == [6, 6, 1, 17, 11, 7]
    with pytest.raises(DataError, match="does not map every atom"):
        atomic_numbers_from_smiles("CCO")
