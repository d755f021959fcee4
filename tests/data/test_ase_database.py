"""ASE databases: what ASE stores we read, what we store ASE reads."""

import pickle

import ase
import ase.db
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mace_mm.data.formats.ase_database import AseDatabase, AseKeys, write_ase_database
from mace_mm.errors import DataError
from tests.data.test_extxyz import frame, same

STRESS = AseKeys(stress="stress")


@pytest.mark.parametrize("ending", ["db", "json"])
@pytest.mark.parametrize("periodic", [False, True])
def test_round_trip(tmp_path, ending, periodic):
    path = tmp_path / f"data.{ending}"
    made = [frame(seed, periodic, name=str(1000 + seed)) for seed in range(4)]
    assert write_ase_database(path, made) == 4
    source = AseDatabase(path, STRESS)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    for i in (3, 0, 1):
        same(source[i], made[i])
        same(copy[i], made[i])
        assert source[i].name == str(1000 + i) and source[i].smiles == made[i].smiles
        assert source[i].molecule.total_charge == -1
        assert source[i].level_of_theory == "PBE/def2-SVP"
    assert len(source.entries) == 4 and list(tmp_path.glob("partial*")) == []
    row = ase.db.connect(str(path)).get(id=2)
    assert row.energy == made[1].energy
    np.testing.assert_array_equal(row.forces, made[1].forces)


def test_rows_of_ase_with_labels_of_any_name(tmp_path):
    path = tmp_path / "data.db"
    atoms = ase.Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    forces = np.arange(9.0).reshape(3, 3)
    with ase.db.connect(str(path)) as database:
        atoms.calc = SinglePointCalculator(atoms, energy=-7.0, forces=forces)
        database.write(atoms, dft_energy=-9.0, data={"dft_forces": -forces})
        atoms.calc = None
        database.write(atoms, dft_energy=-10.0, data={"dft_forces": forces})
    keys = AseKeys(energy="dft_energy", forces="dft_forces")
    source = AseDatabase(path, keys)
    assert [source[i].energy for i in range(2)] == [-9.0, -10.0]
    np.testing.assert_array_equal(source[0].forces, -forces)
    assert source[0].name == "H2O" and source.entry_of_frame.tolist() == [0, 0]
    with pytest.raises(DataError, match="row 2: no label under the key 'energy'.*dft_energy"):
        AseDatabase(path)
    source = AseDatabase(path, strict=False)
    assert len(source) == 1 and len(source.problems) == 1
    assert len(AseDatabase(path, AseKeys(allow_missing=True))) == 2


def test_damaged_databases(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        AseDatabase(tmp_path / "none.db")
    for name in ("data.db", "data.json"):
        path = tmp_path / name
        path.write_bytes(b"SQLite or not" * 100)
        with pytest.raises(DataError, match="not a readable ASE database"):
            AseDatabase(path)
    path = tmp_path / "cut.db"
    write_ase_database(path, [frame(seed) for seed in range(50)])
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(DataError, match="cut.db"):
        source = AseDatabase(path)
        [source[i] for i in range(50)]
