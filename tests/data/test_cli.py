"""mace-mm data: what it prints, writes, and how it ends."""

import json

import h5py
import numpy as np
import pytest

from mace_mm.cli.app import main
from mace_mm.data.formats.extxyz import ExtxyzFile, write_extxyz
from mace_mm.data.formats.sources import open_source
from mace_mm.data.formats.spice import SpiceFile
from tests.data.test_check import ATOMS, HARTREE, altered, labelled
from tests.data.test_fetch import CONTENT, release, server  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    frames = [frame for smiles in ("CCO", "COC", "CC=O") for frame in labelled(smiles, 20)]
    write_extxyz(folder / "good.xyz", frames)
    write_extxyz(folder / "hartree.xyz", altered(frames, energy=1 / HARTREE))
    (folder / "atoms.yaml").write_text("H: -13.571964772646918\nC: -1030.56\nO: -2043.93\n")
    return folder


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        output = capsys.readouterr()
        # Tables fold long cells: words are what counts.
        return code, " ".join(output.out.split()), " ".join(output.err.split())

    return call


def test_check_passes_good_data_and_writes_a_report(files, run, tmp_path):
    code, out, _ = run("data", "check", files / "good.xyz", "-o", tmp_path / "r", "--consistency")
    assert code == 0 and "3 molecules, 60 frames" in out and "unit of forces" in out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["worst"] in ("ok", "note") and (tmp_path / "r" / "report.png").is_file()


def test_check_fails_wrong_units_and_says_why(files, run):
    code, out, _ = run("data", "check", files / "hartree.xyz")
    assert code == 1 and "error" in out and "hartree" in out


def test_check_fails_on_warnings_when_asked(files, run, tmp_path):
    code, out, _ = run("data", "check", files / "good.xyz", "--max-force", "0.1")
    assert code == 0 and "force outliers" in out and "60 frames" in out
    code, _, _ = run(
        "data", "check", files / "good.xyz", "--max-force", "0.1", "--fail-on", "warning"
    )
    assert code == 1


def test_check_explains_missing_keys_and_bad_options(files, run):
    code, _, err = run("data", "check", files / "good.xyz", "--energy-key", "energy")
    assert code == 1 and "no energy under the key 'energy'" in err and "60 such items" in err
    code, _, err = run("data", "check", files / "good.xyz", "--fail-on", "never")
    assert code == 1 and "got 'never'" in err
    code, _, err = run("data", "check", files / "none.xyz")
    assert code == 1 and "no such file" in err
    (files / "bad.yaml").write_text("- 1\n")
    code, _, err = run("data", "check", files / "good.xyz", "--atomic-energies", files / "bad.yaml")
    assert code == 1 and "expected element: energy in eV" in err


def test_unlabelled_molecules_are_left_out_only_when_asked(files, run, tmp_path):
    path = tmp_path / "data.hdf5"
    run(
        "data", "convert", files / "good.xyz", "-o", path, "--atomic-energies", files / "atoms.yaml"
    )
    with h5py.File(path, "a") as file:
        del file["COC/dft_total_energy"]
    code, out, _ = run("data", "check", path)
    assert code == 1 and "no dataset dft_total_energy" in out
    code, out, _ = run("data", "check", path, "--skip-unlabelled")
    assert code == 0 and "1 unlabelled groups, for example COC" in out and "40 frames" in out


def test_convert_there_and_back(files, run, tmp_path):
    path = tmp_path / "data.hdf5"
    atoms = files / "atoms.yaml"
    code, out, _ = run(
        "data", "convert", files / "good.xyz", "-o", path, "--atomic-energies", atoms
    )
    assert code == 0 and "wrote 60 frames" in out
    before, after = ExtxyzFile(files / "good.xyz"), SpiceFile(path)
    assert sorted(e.name for e in before.entries) == [e.name for e in after.entries]
    with h5py.File(path) as file:
        total = file["CCO/dft_total_energy"][0] * HARTREE
        formation = file["CCO/formation_energy"][0] * HARTREE
    expected = total - 6 * ATOMS[1] - 2 * -1030.56 + 2043.93
    assert formation == pytest.approx(expected)
    for name in ("data.db", "data.extxyz"):
        code, _, _ = run("data", "convert", path, "-o", tmp_path / name)
        keys = {} if name.endswith("xyz") else {"energy": "energy"}
        again = open_source(tmp_path / name, keys)
        assert code == 0 and len(again) == 60
        np.testing.assert_allclose(again[7].forces, after[7].forces, atol=1e-9)
        assert again[7].smiles == after[7].smiles and again[7].energy == after[7].energy
    code, _, err = run("data", "convert", path, "-o", tmp_path / "data.db")
    assert code == 1 and "--overwrite replaces it" in err
    code, _, err = run("data", "convert", files / "good.xyz", "-o", tmp_path / "other.hdf5")
    assert code == 1 and "got neither" in err
    code, _, err = run("data", "convert", path, "-o", tmp_path / "data.csv")
    assert code == 1 and "must end in" in err


def test_split_is_written(files, run, tmp_path):
    path = tmp_path / "split.json"
    code, out, _ = run(
        "data", "split", files / "good.xyz", "-o", path, "--valid", "0.33", "--test", "0.33"
    )
    assert code == 0 and "train: 1 molecules, 20 frames" in out
    assert set(json.loads(path.read_text())["parts"]) == {"train", "valid", "test"}


def test_fetch_spice(server, run, tmp_path):  # noqa: F811
    wanted = release(server, name="SPICE-9.hdf5")
    path = tmp_path / "releases.yaml"
    path.write_text(f"'9': {{url: '{wanted.url}', checksum: '{wanted.checksum}'}}\n")
    code, out, _ = run("data", "fetch-spice", "9", "--releases", path, "-o", tmp_path)
    assert code == 0 and "checksum verified" in out
    assert (tmp_path / "SPICE-9.hdf5").read_bytes() == CONTENT
    code, out, _ = run("data", "fetch-spice", "list")
    assert code == 0 and "2.0.1" in out and "zenodo.org" in out
    code, _, err = run("data", "fetch-spice", "3.0")
    assert code == 1 and "known releases are 1.1.3, 1.1.4, 2.0.1" in err
