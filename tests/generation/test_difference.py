"""Labels minus xTB, and the sum of xTB and a network that learned them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from openmmml import MLPotential
from rdkit import Chem

from mace_mm.archive.archive import ArchiveMetadata, make_archive, save_archive
from mace_mm.cli.app import main
from mace_mm.data.formats.extxyz import ExtxyzFile, write_extxyz
from mace_mm.data.formats.spice import SpiceFile
from mace_mm.data.labels import LabeledMolecule
from mace_mm.errors import ArchiveError, ConfigError, DataError, GeometryError
from mace_mm.evaluate.ase_calculator import MACECalculator
from mace_mm.free_energy.legs.direct import decoupled_force
from mace_mm.generation.frames.forces import make_forces
from mace_mm.generation.labels.base import LabelError
from mace_mm.generation.labels.difference import DifferenceCalculator, XTBBaseline
from mace_mm.generation.labels.programs import label_frames
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.protocol import ForceSettings
from mace_mm.graph.molecule import Molecule
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.simulation.ligand import load_ligand
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.simulate import ModelChoice, simulate

pytest.importorskip("tblite")

WATER = np.array([8, 1, 1])
POSITIONS = np.array([[0.0, 0.0, 0.160], [0.05, 0.720, -0.500], [0.0, -0.820, -0.430]])


def xtb(method: str, numbers: np.ndarray, positions: np.ndarray, charge: int = 0):
    settings = LabelSettings(name="x", kind="tblite", method=method, options={"accuracy": 1e-3})
    labels = label_frames(settings, numbers, positions[None], charge)
    return labels.energies[0], labels.forces[0]


def run(*arguments: str | Path) -> None:
    """Run the command line, which ends without an error."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert not end.value.code


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks with random weights, one for each method."""
    folder, paths = tmp_path_factory.mktemp("models"), []
    for seed, method in enumerate(("GFN2-xTB", "GFN1-xTB")):
        torch.manual_seed(seed)
        config = MACEConfig(atomic_numbers=(1, 8), r_max=4.0, channels=4, l_max=2, correlation=(2,))
        metadata = ArchiveMetadata(
            name="m", level_of_theory=f"random minus {method}", total_charges=(-1, 0)
        )
        paths.append(folder / f"{method}.pt")
        potential = Potential(MACE(config), torch.tensor([-13.6, -2041.8]))
        save_archive(paths[-1], make_archive(potential, metadata))
    return paths


def test_a_difference_and_its_method_are_the_labels_again(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    labelled = [
        LabeledMolecule(
            molecule=Molecule(
                atomic_numbers=numbers,
                positions=POSITIONS[: len(numbers)] + rng.normal(0, 0.05, (len(numbers), 3)),
                total_charge=charge,
            ),
            energy=rng.normal(-2000.0),
            forces=rng.normal(size=(len(numbers), 3)),
            name=name,
            level_of_theory="PBE/def2-SVP",
        )
        for name, numbers, charge in (("water", WATER, 0), ("hydroxide", WATER[:2], -1)) * 2
    ]
    write_extxyz(tmp_path / "a.xyz", labelled)
    run("data", "difference", tmp_path / "a.xyz", "-o", tmp_path / "b.xyz")
    assert "wrote 4 frames minus GFN2-xTB" in " ".join(capsys.readouterr().out.split())
    found = ExtxyzFile(tmp_path / "b.xyz")
    assert len(found) == 4
    for frame, label in zip((found[i] for i in range(4)), labelled, strict=True):
        molecule = frame.molecule
        charge = round(label.molecule.total_charge)
        energy, forces = xtb("GFN2-xTB", molecule.atomic_numbers, molecule.positions, charge)
        assert frame.level_of_theory == "PBE/def2-SVP minus GFN2-xTB"
        assert frame.energy + energy == pytest.approx(label.energy, abs=1e-4)
        np.testing.assert_allclose(frame.forces + forces, label.forces, atol=1e-4)


def test_the_sum_is_the_network_plus_its_method(archives: list[Path]) -> None:
    atoms = Atoms(WATER, POSITIONS)
    sums = []
    for path, method in zip(archives, ("GFN2-xTB", "GFN1-xTB"), strict=True):
        atoms.calc = MACECalculator(path, precision="double", difference=True)
        energy, forces = xtb(method, WATER, POSITIONS)
        sums.append((atoms.get_potential_energy() + energy, atoms.get_forces() + forces))
        atoms.calc = DifferenceCalculator(path, precision="double")
        assert atoms.get_potential_energy() == pytest.approx(sums[-1][0], abs=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), sums[-1][1], atol=1e-5)
        assert "energy_std" not in atoms.calc.implemented_properties
    atoms.calc = DifferenceCalculator(archives, precision="double")
    (e0, f0), (e1, f1) = sums
    assert atoms.get_potential_energy() == pytest.approx((e0 + e1) / 2, abs=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), (f0 + f1) / 2, atol=1e-5)
    assert atoms.calc.results["energy_std"] == pytest.approx(abs(e0 - e1) / 2**0.5, abs=1e-6)
    np.testing.assert_allclose(
        atoms.calc.results["forces_std"], np.abs(f0 - f1) / 2**0.5, atol=1e-5
    )


def test_the_forces_are_minus_the_slope_of_the_energy(archives: list[Path]) -> None:
    atoms = Atoms(WATER, POSITIONS)
    atoms.calc = DifferenceCalculator(archives, precision="double")
    forces, step = atoms.get_forces(), 1e-3
    for atom, axis in ((0, 2), (1, 1)):
        energies = []
        for sign in (1, -1):
            atoms.positions = POSITIONS
            atoms.positions[atom, axis] += sign * step
            energies.append(atoms.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-3)


def test_the_charge_reaches_xtb(archives: list[Path]) -> None:
    atoms = Atoms(WATER[:2], POSITIONS[:2], info={"charge": -1})
    atoms.calc = MACECalculator(archives[0], precision="double", difference=True)
    network = atoms.get_potential_energy()
    atoms.calc = DifferenceCalculator(archives[0], precision="double")
    energy, _ = xtb("GFN2-xTB", WATER[:2], POSITIONS[:2], -1)
    assert atoms.get_potential_energy() == pytest.approx(network + energy, abs=1e-6)


def test_a_protocol_samples_and_labels_with_the_sum(archives: list[Path], tmp_path: Path) -> None:
    archives = [Path(shutil.copy(path, tmp_path)) for path in archives]
    options = {"model": [str(path) for path in archives]}
    protocol = {
        "name": "sum",
        "molecules": {"sources": [{"kind": "smiles", "smiles": {"water": "O"}}]},
        "conformers": {"count": 2},
        "sampling": {
            "force": {"kind": "ase", "calculator": "difference", "options": options},
            "temperature_k": 50,
            "duration_ps": 0.01,
            "frames_per_conformer": 5,
        },
        "selection": {"count": 10},
        "cold": {"count": 0},
        "labels": [
            {
                "name": "sum",
                "kind": "ase",
                "program": "difference",
                "method": "PBE by difference",
                "options": options,
                "atom_energies": {"H": -0.5, "O": -75.0},
            }
        ],
        "execution": {"kind": "local", "workers": 0},
    }

    def generated() -> list[LabeledMolecule]:
        (tmp_path / "sum.yaml").write_text(yaml.safe_dump(protocol))
        run("generate", tmp_path / "sum.yaml", "-o", tmp_path / "out")
        source = SpiceFile(tmp_path / "out" / "sum-sum.h5")
        return [source[i] for i in range(len(source))]

    network, frames = archives[0].read_bytes(), generated()
    assert len(frames) == 10 and frames[3].level_of_theory == "PBE by difference"
    atoms = Atoms(frames[3].molecule.atomic_numbers, frames[3].molecule.positions)
    atoms.calc = DifferenceCalculator(archives)
    assert frames[3].energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    np.testing.assert_allclose(frames[3].forces, atoms.get_forces(), atol=1e-3)
    # Another network in the same file: no frame and no label of the old one is kept.
    archives[0].write_bytes(archives[1].read_bytes())
    again = generated()[3]
    assert np.abs(again.molecule.positions - frames[3].molecule.positions).max() > 1e-3
    protocol["sampling"]["force"] = {"kind": "mmff94"}
    before = generated()[3]
    archives[0].write_bytes(network)
    after = generated()[3]
    np.testing.assert_array_equal(after.molecule.positions, before.molecule.positions)
    assert abs(after.energy - before.energy) > 1.0


def test_dynamics_that_xtb_cannot_follow_cost_one_conformer(archives: list[Path]) -> None:
    settings = ForceSettings(
        kind="ase", calculator="difference", options={"model": str(archives[0])}
    )
    forces = make_forces(settings, Chem.AddHs(Chem.MolFromSmiles("O")), POSITIONS)
    together = POSITIONS[[0, 1, 1]]
    with pytest.raises(GeometryError, match="difference during the dynamics: tblite"):
        forces(together)


def test_what_is_no_difference_is_refused(
    archives: list[Path], project_root: Path, tmp_path: Path, capsys
) -> None:
    with pytest.raises(ConfigError, match="learned a difference"):
        DifferenceCalculator(project_root / "mace_mm" / "models" / "small.pt")
    with pytest.raises(ConfigError, match="at least one model"):
        DifferenceCalculator([])
    for output, problem in (("a.h5", "as .xyz or .extxyz"), ("a.xyz", "exists; --overwrite")):
        (tmp_path / "a.xyz").touch()
        with pytest.raises(SystemExit):
            main(["data", "difference", str(tmp_path / "a.xyz"), "-o", str(tmp_path / output)])
        assert problem in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ConfigError, match="GFN2-xTB, GFN1-xTB"):
        XTBBaseline("GFN9-xTB")
    atoms = Atoms(WATER, POSITIONS, cell=np.eye(3) * 9, pbc=True)
    atoms.calc = DifferenceCalculator(archives[0])
    with pytest.raises(LabelError, match="periodic"):
        atoms.get_forces()
    molecule = Molecule(atomic_numbers=WATER, positions=POSITIONS)
    with pytest.raises(DataError, match="water: a difference wants energy and forces"):
        XTBBaseline("GFN2-xTB").subtracted(
            LabeledMolecule(molecule=molecule, energy=1.0, name="water")
        )


def test_a_difference_is_not_simulated(archives: list[Path], tmp_path: Path) -> None:
    path, water = archives[0], load_ligand("O")
    water_force = MLPotential("mace", modelPath=str(path)).createSystem
    tries = [
        lambda: MACECalculator(path),
        lambda: water_force(water.topology),
        lambda: simulate(water, tmp_path, RunSettings(), ModelChoice(path=path)),
        lambda: decoupled_force(water.topology, [0], model=path, periodic=False),
    ]
    for attempt in tries:
        with pytest.raises(ArchiveError, match="'random minus GFN2-xTB': GFN2-xTB has to be added"):
            attempt()
    assert not any(tmp_path.iterdir())
