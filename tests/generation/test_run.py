"""A whole dataset: from SMILES to SPICE's layout, whatever is killed on the way."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from mace_mm.data.formats.spice import SpiceFile
from mace_mm.errors import BackendError, DataError
from mace_mm.generation.generate import Step, generate
from mace_mm.generation.protocol import Protocol
from mace_mm.units import HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM

pytest.importorskip("tblite")


def _protocol(**changes: object) -> Protocol:
    content: dict[str, object] = {
        "name": "test",
        "seed": 11,
        "molecules": {
            "sources": [
                {
                    "kind": "smiles",
                    "subset": "few",
                    "smiles": {"water": "O", "ethanol": "CCO", "formamide": "NC=O"},
                }
            ]
        },
        "conformers": {"count": 2},
        "sampling": {"duration_ps": 0.1, "frames_per_conformer": 3},
        "selection": {"count": 4},
        "cold": {"count": 2, "duration_ps": 0.05},
        "dimers": [{"count": 2, "orientations": 1, "distances": [2.0, 3.0, 4.0]}],
        "clusters": [{"count": 1, "n_solvent": [2, 3], "packings": 1}],
        "labels": [{"name": "gfn2", "kind": "tblite", "method": "GFN2-xTB"}],
    }
    return Protocol.model_validate({**content, **changes})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_result_is_a_spice_file_with_its_protocol(tmp_path: Path) -> None:
    protocol = _protocol()
    report = generate(protocol, tmp_path)
    path = tmp_path / "test-gfn2.h5"
    file = SpiceFile(path)
    entries = {entry.name: file.conformers(i) for i, entry in enumerate(file.entries)}
    assert set(entries) >= {"water", "ethanol", "formamide"}
    assert len(entries) == 6
    assert entries["ethanol"].n_frames == 6
    assert report.frames["scan"] == 6
    assert entries["ethanol"].level_of_theory == "GFN2-xTB"
    with h5py.File(path) as h5:
        assert yaml.safe_load(h5.attrs["protocol"])["seed"] == 11
        group = h5["ethanol"]
        assert "tblite " in group.attrs["programs"]
        assert set(group) >= {
            "smiles",
            "subset",
            "atomic_numbers",
            "conformations",
            "formation_energy",
            "dft_total_energy",
            "dft_total_gradient",
        }
        assert list(group["frame_origin"]) == [b"hot"] * 4 + [b"cold"] * 2
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["datasets"]["gfn2"]["frames"] == len(file)
    # Cold frames are colder than hot ones: their mean energy is lower.
    energies = entries["ethanol"].energies
    assert energies is not None
    assert energies[4:].mean() < energies[:4].mean()


def test_worker_processes_make_the_same_bytes(tmp_path: Path) -> None:
    generate(_protocol(), tmp_path / "here")
    execution = {"kind": "local", "workers": 2}
    generate(_protocol(execution=execution), tmp_path / "there")
    name = "test-gfn2.h5"
    assert _digest(tmp_path / "here" / name) == _digest(tmp_path / "there" / name)


def test_an_item_does_not_depend_on_its_company(tmp_path: Path) -> None:
    generate(_protocol(dimers=[], clusters=[]), tmp_path / "three")
    source = {"kind": "smiles", "subset": "few", "smiles": {"ethanol": "OCC"}}
    alone = _protocol(molecules={"sources": [source]}, dimers=[], clusters=[])
    generate(alone, tmp_path / "one")
    with (
        h5py.File(tmp_path / "three" / "test-gfn2.h5") as three,
        h5py.File(tmp_path / "one" / "test-gfn2.h5") as one,
    ):
        for key in ("conformations", "dft_total_energy", "dft_total_gradient"):
            np.testing.assert_array_equal(one["ethanol"][key][()], three["ethanol"][key][()])


def test_steps_go_on_from_each_other_and_redo_only_what_changed(tmp_path: Path) -> None:
    report = generate(_protocol(), tmp_path, until=Step.SAMPLE)
    assert report.speeds["sampling"]["items"] == 6
    assert not (tmp_path / "test-gfn2.h5").exists()
    report = generate(_protocol(), tmp_path)
    assert report.speeds["sampling"]["items"] == 0
    assert report.speeds["label gfn2"]["items"] == 6
    labels = [{"name": "gfn1", "kind": "tblite", "method": "GFN1-xTB"}]
    report = generate(_protocol(labels=labels), tmp_path)
    assert report.speeds["sampling"]["items"] == 0
    assert report.speeds["label gfn1"]["items"] == 6


def test_a_damaged_record_is_made_again_with_a_line_in_the_report(tmp_path: Path) -> None:
    generate(_protocol(), tmp_path)
    before = _digest(tmp_path / "test-gfn2.h5")
    record = sorted((tmp_path / "work" / "frames").glob("*/*.npz"))[0]
    record.write_bytes(record.read_bytes()[:-100])
    report = generate(_protocol(), tmp_path)
    assert report.speeds["sampling"]["items"] == 1
    assert any("damaged" in note.reason for note in report.notes)
    assert _digest(tmp_path / "test-gfn2.h5") == before


def test_two_drivers_do_not_work_in_one_folder(tmp_path: Path) -> None:
    from mace_mm.generation.report import Report
    from mace_mm.generation.work.workplace import open_workplace

    with (
        open_workplace(tmp_path, _protocol(), Report(name="test")),
        pytest.raises(BackendError, match="another process"),
    ):
        generate(_protocol(), tmp_path)


def test_no_label_is_no_dataset(tmp_path: Path) -> None:
    # One SCF cycle converges nothing.
    labels = [{"name": "bad", "kind": "tblite", "method": "GFN2-xTB", "options": {"max-iter": 1}}]
    with pytest.raises(DataError, match="no frame of test has a label bad"):
        generate(_protocol(labels=labels), tmp_path)
    assert not list(tmp_path.glob("*.h5"))
    assert "not converged" in (tmp_path / "report.txt").read_text()


def test_an_existing_scheduler_or_any_cluster_class_can_be_used(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    generate(_protocol(), tmp_path / "here")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        address = {"kind": "address", "address": cluster.scheduler_address}
        generate(_protocol(execution=address), tmp_path / "address")
    named = {
        "kind": "cluster",
        "cluster": "distributed:LocalCluster",
        "options": {"n_workers": 0, "threads_per_worker": 1, "dashboard_address": ":0"},
        "workers": 1,
    }
    generate(_protocol(execution=named), tmp_path / "cluster")
    digests = {_digest(tmp_path / k / "test-gfn2.h5") for k in ("here", "address", "cluster")}
    assert len(digests) == 1
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(BackendError, match="no Dask scheduler"),
    ):
        generate(
            _protocol(execution={"kind": "address", "address": "tcp://127.0.0.1:1"}),
            tmp_path / "nowhere",
        )


def test_an_extxyz_test_set_keeps_its_formulas_out(tmp_path: Path) -> None:
    water = "3\nProperties=species:S:1:pos:R:3\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"
    (tmp_path / "held_out.xyz").write_text(water)
    molecules = {
        "sources": [{"kind": "smiles", "smiles": {"water": "O", "ethanol": "CCO"}}],
        "exclude_formulas_of": [str(tmp_path / "held_out.xyz")],
    }
    report = generate(_protocol(molecules=molecules, dimers=[], clusters=[]), tmp_path / "out")
    assert [e.name for e in SpiceFile(tmp_path / "out" / "test-gfn2.h5").entries] == ["ethanol"]
    assert "the formula H2O occurs in held_out.xyz" in report.rejections[0].reason


def test_labels_beyond_a_limit_are_set_aside_in_a_file_of_their_own(tmp_path: Path) -> None:
    report = generate(_protocol(dataset={"max_gradient": 0.05}), tmp_path)
    kept = SpiceFile(tmp_path / "test-gfn2.h5")
    aside = SpiceFile(tmp_path / "test-gfn2-set-aside.h5")
    limit = 0.05 * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
    for file, above in ((kept, False), (aside, True)):
        for i in range(len(file)):
            assert (np.abs(file[i].forces).max() > limit) == above
    counted = report.datasets["gfn2"]
    assert (counted["frames"], counted["frames set aside"]) == (len(kept), len(aside))
    generate(_protocol(), tmp_path)
    assert not (tmp_path / "test-gfn2-set-aside.h5").exists()


def test_the_committed_sample_is_what_its_protocol_makes(
    project_root: Path, tmp_path: Path
) -> None:
    """Two of its molecules again, on whatever processor this is: the same frames to 1e-3 Å."""
    sample = project_root / "examples" / "generate" / "sample.h5"
    file = SpiceFile(sample)
    assert len(file) == 300
    with h5py.File(sample) as h5:
        content = yaml.safe_load(h5.attrs["protocol"])
    content["molecules"]["sources"] = content["molecules"]["sources"][:1]
    content |= {"dimers": [], "clusters": []}
    generate(Protocol.model_validate(content), tmp_path)
    index = [entry.name for entry in file.entries].index("water")
    again = SpiceFile(tmp_path / "sample-gfn2.h5").conformers(0)
    stored = file.conformers(index)
    np.testing.assert_allclose(again.positions, stored.positions, atol=1e-3)
    np.testing.assert_allclose(again.forces, stored.forces, atol=0.05)


def test_columns_types_and_units_are_those_of_a_real_spice_file(
    shared_dir: Path, tmp_path: Path
) -> None:
    generate(_protocol(), tmp_path)
    with (
        h5py.File(shared_dir / "data/spice/SPICE-1.1.4_n2.hdf5") as real,
        h5py.File(tmp_path / "test-gfn2.h5") as ours,
    ):
        theirs, group = real["103147721"], ours["ethanol"]
        columns = ["atomic_numbers", "conformations", "dft_total_energy", "dft_total_gradient"]
        for key in (*columns, "formation_energy", "smiles", "subset"):
            assert group[key].dtype == theirs[key].dtype, key
            assert group[key].ndim == theirs[key].ndim, key
            assert group[key].attrs.get("units") == theirs[key].attrs.get("units"), key
