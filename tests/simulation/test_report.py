"""The analysis and the report of a run."""

import base64
import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import openmm
import pytest
from matplotlib import image
from openmm import unit
from scipy.spatial.transform import Rotation

from mace_mm.errors import DataError, InputError
from mace_mm.simulation.ligand import Ligand, load_ligand
from mace_mm.simulation.report.analysis import bond_lengths, heavy_atoms, rmsd
from mace_mm.simulation.report.page import write_report
from mace_mm.simulation.run.dynamics import run_dynamics
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.simulate import RunSummary, read_summary

pytestmark = pytest.mark.plain


def test_rmsd_ignores_rotation_and_translation() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(7, 3))
    turns = Rotation.random(5, rng=2).as_matrix()
    moved = np.einsum("fij,aj->fai", turns, reference) + rng.normal(size=(5, 1, 3))
    np.testing.assert_allclose(rmsd(moved, reference), 0.0, atol=1e-7)


def test_rmsd_agrees_with_an_explicit_superposition() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(size=(9, 3))
    # The last frame is a mirror image: a reflection must not count as a rotation.
    frames = np.concatenate([rng.normal(size=(4, 9, 3)), -reference[None]])
    expected = []
    for frame in frames:
        x, y = frame - frame.mean(axis=0), reference - reference.mean(axis=0)
        turn, _ = Rotation.align_vectors(x, y)
        expected.append(np.sqrt(((x - turn.apply(y)) ** 2).sum(axis=1).mean()))
    np.testing.assert_allclose(rmsd(frames, reference), expected, rtol=1e-6)
    assert rmsd(frames, reference)[-1] > 0.1


def test_rmsd_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match=r"\(1, 2, 3\) and \(3, 3\)"):
        rmsd(np.zeros((1, 2, 3)), np.zeros((3, 3)))


def test_bond_lengths_are_sorted_by_pair_of_elements() -> None:
    ligand = load_ligand("CO")
    lengths = bond_lengths(ligand.positions_nm[None], ligand.topology)
    assert {name: values.size for name, values in lengths.items()} == {"C-H": 3, "C-O": 1, "O-H": 1}
    assert lengths["C-O"][0] == pytest.approx(1.41, abs=0.05)
    assert heavy_atoms(ligand.topology).tolist() == [0, 1]


def springs(ligand: Ligand) -> openmm.System:
    """Harmonic bonds that keep a molecule in its shape."""
    system = openmm.System()
    for atom in ligand.topology.atoms():
        system.addParticle(atom.element.mass)
    force = openmm.HarmonicBondForce()
    x = ligand.positions_nm
    for i in range(ligand.n_atoms):
        for j in range(i):
            force.addBond(i, j, float(np.linalg.norm(x[i] - x[j])), 1e5)
    system.addForce(force)
    return system


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    ligand = load_ligand("CC(=O)Nc1ccc(O)cc1", "<paracetamol>")
    settings = RunSettings(steps=300, friction_per_ps=20.0, platform="Reference")
    result = run_dynamics(springs(ligand), ligand.topology, ligand.positions_nm, folder, settings)
    summary = RunSummary(
        ligand=ligand.name,
        smiles=ligand.smiles,
        n_atoms=ligand.n_atoms,
        model="springs",
        level_of_theory="Hooke",
        model_sha256="0" * 64,
        precision="double",
        force="HarmonicBondForce",
        settings=settings,
        result=result,
    )
    (folder / "run.json").write_text(json.dumps(asdict(summary)))
    return folder


def test_the_summary_reads_back(run_folder: Path) -> None:
    summary = read_summary(run_folder)
    assert summary.settings == RunSettings(steps=300, friction_per_ps=20.0, platform="Reference")
    assert summary.result.completed


def test_the_report_holds_its_pictures_and_facts(run_folder: Path) -> None:
    page = write_report(run_folder).read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 5
    for picture in pictures:
        pixels = image.imread(io.BytesIO(base64.b64decode(picture)), format="png")
        assert pixels.shape[0] > 200 and pixels.shape[1] > 400
        assert pixels[..., :3].std() > 0.01, "an empty picture"
    for fact in ("springs", "Hooke", "0.150 ps in 300 steps", "ns/day", "&lt;paracetamol&gt;"):
        assert fact in page
    assert "<paracetamol>" not in page
    assert "Stopped at step" not in page
    # Everything is inside the one file.
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_stopped_run_says_so(run_folder: Path, tmp_path: Path) -> None:
    for file in run_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    summary = json.loads((tmp_path / "run.json").read_text())
    summary["result"] |= {"completed": False, "step": 120}
    (tmp_path / "run.json").write_text(json.dumps(summary))
    assert "Stopped at step 120 of 300" in write_report(tmp_path).read_text()


@pytest.mark.parametrize("name", ["run.json", "log.csv", "trajectory.dcd", "topology.pdb"])
def test_a_missing_or_damaged_file_is_an_error(run_folder: Path, tmp_path: Path, name: str) -> None:
    for file in run_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        write_report(tmp_path)
    if name != "topology.pdb":
        (tmp_path / name).write_text("{}")
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            write_report(tmp_path)


def test_a_trajectory_cut_short_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    for file in run_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (tmp_path / "trajectory.dcd").read_bytes()
    (tmp_path / "trajectory.dcd").write_bytes(content[:-10])
    with pytest.raises(DataError, match="frames need"):
        write_report(tmp_path)


def test_positions_keep_their_unit(run_folder: Path) -> None:
    ligand = load_ligand("CC(=O)Nc1ccc(O)cc1")
    topology = openmm.app.PDBFile(str(run_folder / "topology.pdb"))
    start = topology.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    assert rmsd(start[None], ligand.positions_nm)[0] < 1e-3
