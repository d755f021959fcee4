"""Pre-flight: physics finds wrong units, and every other fault is named with its frames."""

import dataclasses
import json

import h5py
import numpy as np
import pytest

from mace_mm import units
from mace_mm.data.check.check import check_data
from mace_mm.data.check.page import render_text, write_report
from mace_mm.data.check.units import check_units
from mace_mm.data.check.values import CheckSettings
from mace_mm.data.formats.sources import open_source
from mace_mm.data.formats.spice import SpiceFile, SpiceKeys
from mace_mm.data.frames import MemoryFrames
from mace_mm.data.labels import LabeledMolecule
from mace_mm.errors import ConfigError, DataError
from mace_mm.graph.molecule import Molecule

pytest.importorskip("rdkit")
from rdkit import Chem  # noqa: E402
from rdkit.Chem import AllChem  # noqa: E402

ATOMS = {1: -13.571964772646918, 6: -1030.5671648271828, 8: -2043.933693071156}
BINDING = {1: -2.9, 6: -6.2, 8: -3.4}
SMILES = ("CCO", "CC(=O)C", "COC", "CCCO", "CC=CC", "O=CO")
BOHR = units.BOHR_TO_ANGSTROM
HARTREE = units.HARTREE_TO_EV


def labelled(smiles, n=25, seed=7):
    """Shaken conformers with MMFF94 energies on top of all-electron atoms."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=seed)
    AllChem.MMFFOptimizeMolecule(molecule)
    properties = AllChem.MMFFGetMoleculeProperties(molecule)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    best = molecule.GetConformer().GetPositions()
    rng = np.random.default_rng(seed)
    offset = sum(ATOMS[int(z)] + BINDING[int(z)] for z in numbers)
    for _ in range(n):
        positions = best + rng.normal(scale=0.03, size=best.shape)
        for i, row in enumerate(positions):
            molecule.GetConformer().SetAtomPosition(i, row)
        field = AllChem.MMFFGetMoleculeForceField(molecule, properties)
        field.Initialize()
        gradient = np.array(field.CalcGrad()).reshape(-1, 3)
        yield LabeledMolecule(
            molecule=Molecule(atomic_numbers=numbers, positions=positions),
            energy=field.CalcEnergy() * units.KCAL_MOL_TO_EV + offset,
            forces=-gradient * units.KCAL_MOL_TO_EV,
            name=smiles,
            smiles=smiles,
        )


@pytest.fixture(scope="module")
def good():
    return [frame for smiles in SMILES for frame in labelled(smiles)]


def altered(frames, length=1.0, energy=1.0, forces=1.0, shift=None):
    made = []
    for frame in frames:
        molecule = dataclasses.replace(frame.molecule, positions=frame.molecule.positions * length)
        total = frame.energy
        if shift is not None:
            total -= sum(shift[int(z)] for z in molecule.atomic_numbers)
        made.append(
            dataclasses.replace(
                frame, molecule=molecule, energy=total * energy, forces=frame.forces * forces
            )
        )
    return made


def levels(report, check):
    return {f.level for f in report.findings if f.check == check}


def finding(report, check, level):
    return next(f for f in report.findings if (f.check, f.level) == (check, level))


def test_good_data_pass(good):
    report = check_data(MemoryFrames(good), CheckSettings(consistency=True))
    assert {f.level for f in report.findings} <= {"ok", "note"}, report.findings
    for quantity in ("length", "forces", "energy"):
        assert "ok" in levels(report, f"unit of {quantity}")
    assert levels(report, "consistency") == {"ok"}


WRONG = {
    "positions in bohr": (dict(length=1 / BOHR), "length", "looks like bohr"),
    "positions in nm": (dict(length=0.1), "length", "looks like nm"),
    "positions converted twice": (dict(length=BOHR), "length", "taken for bohr"),
    "forces in hartree/bohr": (dict(forces=BOHR / HARTREE), "forces", "looks like hartree/bohr"),
    "forces in hartree/Å": (dict(forces=1 / HARTREE), "forces", "looks like hartree/Å"),
    "forces in eV/bohr": (dict(forces=BOHR), "forces", "eV/bohr"),
    "forces 27.2 times too large": (dict(forces=HARTREE), "forces", "once more from hartree"),
    "forces 1.89 times too large": (dict(forces=1 / BOHR), "forces", "once more from bohr"),
    "forces in kcal/mol/Å": (dict(forces=1 / units.KCAL_MOL_TO_EV), "forces", "kcal/mol/Å"),
    "forces in kJ/mol/nm": (
        dict(forces=units.EV_PER_ANGSTROM_TO_KJ_MOL_NM),
        "forces",
        "kJ/mol/nm",
    ),
    "gradients": (dict(forces=-1.0), "forces", "sign is wrong"),
    "energies in hartree": (dict(energy=1 / HARTREE), "energy", "looks like hartree"),
    "energies converted twice": (dict(energy=HARTREE), "energy", "once more from hartree"),
    "energies in kcal/mol": (dict(energy=1 / units.KCAL_MOL_TO_EV), "energy", "kcal/mol"),
    "energies in kJ/mol": (dict(energy=units.EV_TO_KJ_MOL), "energy", "kJ/mol"),
    "energies 1.89 times too large": (dict(energy=1 / BOHR), "energy", "no common unit"),
    "everything in atomic units": (
        dict(length=1 / BOHR, energy=1 / HARTREE, forces=BOHR / HARTREE),
        "length",
        "bohr",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("kind", ["total", "formation", "unknown zero"])
def test_a_wrong_unit_is_found_and_named(good, case, kind):
    change, quantity, guess = WRONG[case]
    shift = {
        "total": None,
        "formation": ATOMS,
        # Neither totals nor formation energies: only the forces can tell the energy's unit.
        "unknown zero": {1: 3.0, 6: -300.0, 8: -40.0},
    }[kind]
    source = MemoryFrames(altered(good, **change, shift=shift))
    report = check_data(source)
    found = [f for f in report.findings if f.check.startswith("unit of") and f.level == "error"]
    named = [f for f in found if f.check == f"unit of {quantity}"]
    assert named and any(guess in f.text for f in named), report.findings
    # One mistake is not reported as another.
    assert {f.check for f in found} <= {f"unit of {q}" for q in _blamed(change)}


def _blamed(change):
    return {"length", "energy", "forces"} & set(change)


def test_all_three_are_named_at_once(good):
    source = MemoryFrames(altered(good, length=1 / BOHR, energy=1 / HARTREE, forces=BOHR / HARTREE))
    report = check_data(source)
    for quantity, guess in (("length", "bohr"), ("forces", "hartree/bohr"), ("energy", "hartree")):
        assert f"looks like {guess} (" in finding(report, f"unit of {quantity}", "error").text


def test_rigid_frames_do_not_tell_and_say_so():
    """Frozen molecules with tiny forces: no stretched bonds, no pairs to compare."""
    rng = np.random.default_rng(0)
    frames = []
    for k, smiles in enumerate(SMILES):
        frame = next(labelled(smiles, 1))
        frames.append(
            dataclasses.replace(
                frame, energy=-1.0 - k, forces=rng.normal(size=frame.forces.shape) * 1e-3
            )
        )
    report = check_data(MemoryFrames(frames))
    for quantity in ("forces", "energy"):
        assert "look for yourself" in finding(report, f"unit of {quantity}", "warning").text
    assert levels(report, "unit of length") == {"ok"}


@pytest.mark.parametrize(
    "name",
    [
        "spice/SPICE-1.1.4_n2.hdf5",
        "acac/train_300K.xyz",
        "3bpa/train_300K.xyz",
        "torsions/theory_bm.extxyz",
        "spice-labelled/pubchem_train.xyz",
        "spice-labelled/water_train.xyz",
        "spice-dipeptides/dipeptides_train.xyz",
    ],
)
def test_real_data_pass_and_fail_when_altered(shared_dir, name):
    """No false alarm on real labels of four levels of theory, and no miss by 1.89 either."""
    path = shared_dir / "data" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    keys = {} if "spice" in name else {"energy": "energy", "forces": "forces"}
    source = open_source(path, keys)
    report = check_data(source, CheckSettings(consistency=True))
    assert report.worst != "error", report.findings
    assert "ok" in levels(report, "unit of forces") and "ok" in levels(report, "unit of energy")
    frames = [source[i] for i in range(0, len(source), 1 + len(source) // 200)]
    for change in (
        dict(forces=BOHR),
        dict(forces=HARTREE),
        dict(energy=1 / HARTREE),
        dict(length=1 / BOHR),
        dict(forces=-1.0),
    ):
        groups = _grouped(MemoryFrames(altered(frames, **change)))
        verdicts = check_units(*groups)
        wrong = {v.quantity for v in verdicts if v.ok is False}
        assert wrong == set(change), (change, verdicts)


def _grouped(source):
    molecule = source.entry_of_frame
    return source, [np.flatnonzero(molecule == k) for k in range(len(source.entries))]


def test_outliers_contacts_and_net_forces_are_listed(good):
    frames = list(good)
    n_atoms = frames[3].molecule.n_atoms
    spike = frames[3].forces.copy()
    spike[0, 0] += 60.0
    frames[3] = dataclasses.replace(frames[3], forces=spike)
    frames[8] = dataclasses.replace(frames[8], energy=frames[8].energy + 5.0 * n_atoms)
    close = frames[11].molecule.positions.copy()
    close[1] = close[0] + 0.3
    frames[11] = dataclasses.replace(
        frames[11], molecule=dataclasses.replace(frames[11].molecule, positions=close)
    )
    report = check_data(MemoryFrames(frames))
    assert finding(report, "force outliers", "warning").frames == (3,)
    assert finding(report, "net force", "warning").frames == (3,)
    assert finding(report, "close contacts", "warning").frames == (11,)
    assert 8 in finding(report, "energies", "warning").frames
    default = CheckSettings()
    assert default.max_force == pytest.approx(51.422067, abs=1e-5)


def test_duplicates_in_any_orientation_and_order(good):
    frames = list(good[:20])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    order = np.random.default_rng(1).permutation(frames[0].molecule.n_atoms)

    def moved(frame, **changes):
        molecule = Molecule(
            atomic_numbers=frame.molecule.atomic_numbers[order],
            positions=(frame.molecule.positions @ rotation + 5.0)[order],
        )
        return dataclasses.replace(
            frame, molecule=molecule, forces=(frame.forces @ rotation)[order], **changes
        )

    frames.append(moved(frames[4]))
    frames.append(moved(frames[6], energy=frames[6].energy + 0.01, name="other"))
    report = check_data(MemoryFrames(frames))
    assert finding(report, "duplicates", "warning").frames == (20,)
    assert finding(report, "duplicates", "error").frames == (21,)


def test_shuffled_energies_are_inconsistent_with_the_forces(good):
    order = np.random.default_rng(0).permutation(25)
    frames = [
        dataclasses.replace(frame, energy=good[order[i]].energy)
        for i, frame in enumerate(good[:25])
    ]
    report = check_data(MemoryFrames(frames + good[25:]), CheckSettings(consistency=True))
    found = finding(report, "consistency", "error")
    assert set(found.frames) <= set(range(25)) and len(found.frames) > 5
    assert levels(check_data(MemoryFrames(frames)), "consistency") == set()


def test_missing_labels_and_mixed_levels_are_said(good):
    frames = [dataclasses.replace(f, level_of_theory="PBE") for f in good]
    frames[0] = dataclasses.replace(frames[0], forces=None)
    frames[1] = dataclasses.replace(frames[1], energy=None, level_of_theory="HF")
    report = check_data(MemoryFrames(frames))
    texts = [f.text for f in report.findings if f.check == "labels" and f.level == "warning"]
    assert len(texts) == 3 and "PBE (149), HF (1)" in texts[2]


def test_given_atomic_energies_are_used(good):
    settings = CheckSettings(atomic_energies={"default": ATOMS})
    report = check_data(MemoryFrames(good), settings)
    assert report.atomic_energies["default"] == ATOMS
    assert -5.0 < np.median(report.energy_residuals) < -3.0
    assert levels(report, "energies") == {"ok"}
    for factor in (1 / HARTREE, 0.97):
        other = {"default": {z: factor * energy for z, energy in ATOMS.items()}}
        report = check_data(MemoryFrames(good), CheckSettings(atomic_energies=other))
        assert "another method" in finding(report, "energies", "error").text
    with pytest.raises(DataError, match="lack C O"):
        check_data(MemoryFrames(good), CheckSettings(atomic_energies={"default": {1: 0.0}}))


def test_damaged_files_are_reported_not_raised(tmp_path):
    from mace_mm.data.formats.spice_writer import write_spice
    from tests.data.test_spice import conformers

    path = tmp_path / "data.hdf5"
    write_spice(path, [conformers(name, seed=k) for k, name in enumerate("abcd")])
    with h5py.File(path, "a") as file:
        del file["b"]["dft_total_energy"]
        file["c/conformations"][1, 0, 0] = np.nan
        file["d/dft_total_energy"][2] = np.nan
    report = check_data(SpiceFile(path, strict=False))
    errors = [f for f in report.findings if f.check == "readable"]
    assert [f.level for f in errors] == ["error", "error"]
    assert "'b'" in errors[0].text and errors[1].frames == (5, 10)
    assert "finite" in errors[1].text
    with pytest.raises(DataError, match="no frame to check.*no dataset nothing"):
        check_data(SpiceFile(path, SpiceKeys(energy="nothing"), strict=False))


def test_the_report_is_for_people_and_programs(good, tmp_path):
    frames = [dataclasses.replace(f, subset="a|b") for f in good]
    frames[0] = dataclasses.replace(frames[0], forces=frames[0].forces + 100.0)
    report = check_data(MemoryFrames(frames))
    text = render_text(report, "My data")
    assert "6 molecules, 150 frames" in text and "| +0 | 150 |" in text and "a\\|b" in text
    assert "| C | 150 |" in text and "force outliers" in text
    paths = write_report(tmp_path / "out", report, "My data")
    assert [p.name for p in paths] == ["report.md", "report.json", "report.png"]
    stored = json.loads(paths[1].read_text())
    assert stored["worst"] == report.worst
    outliers = next(f for f in stored["findings"] if f["check"] == "force outliers")
    assert outliers["frames"] == [0]
    assert paths[2].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and paths[2].stat().st_size > 10_000


def test_a_sample_is_enough_for_large_data(good):
    report = check_data(MemoryFrames(good), CheckSettings(max_frames=40, seed=1))
    assert report.scan.index.size == 40
    assert (
        report.scan.index
        == check_data(MemoryFrames(good), CheckSettings(max_frames=40, seed=1)).scan.index
    ).all()


def test_open_source_knows_endings_and_keys(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.hdf5"):
        open_source(tmp_path / "data.csv")
    with pytest.raises(ConfigError, match="unknown keys energies"):
        open_source(tmp_path / "data.xyz", {"energies": "e"})
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "data.xyz")
