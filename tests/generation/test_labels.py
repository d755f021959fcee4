"""Labels against the programs called directly, and what happens when a calculation fails."""

from pathlib import Path

import numpy as np
import pytest

from mace_mm.data.formats.spice import SpiceFile
from mace_mm.errors import ConfigError, DataError
from mace_mm.generation.labels.base import FrameLabels, LabelError
from mace_mm.generation.labels.programs import label_frames
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.units import HARTREE_TO_EV

WATER = np.array([8, 1, 1])
FRAMES = np.array(
    [
        [[0.0, 0.0, 0.117], [0.0, 0.757, -0.469], [0.0, -0.757, -0.469]],
        [[0.0, 0.0, 0.160], [0.05, 0.720, -0.500], [0.0, -0.820, -0.430]],
    ]
)
GFN2 = LabelSettings(name="gfn2", kind="tblite", method="GFN2-xTB")


def _check_forces(settings: LabelSettings, labels: FrameLabels, tolerance: float) -> None:
    """Central differences of the energy, of the second frame."""
    step = 1e-3
    for atom, axis in ((0, 2), (1, 1)):
        shifted = np.stack([FRAMES[1], FRAMES[1]])
        shifted[:, atom, axis] += [step, -step]
        up, down = label_frames(settings, WATER, shifted, 0).energies
        slope = (up - down) / (2 * step)
        assert labels.forces[1, atom, axis] == pytest.approx(-slope, abs=tolerance)


def test_tblite_labels_are_those_of_its_own_ase_calculator() -> None:
    tblite = pytest.importorskip("tblite.ase")
    from ase import Atoms

    labels = label_frames(GFN2, WATER, FRAMES, 0)
    for i, positions in enumerate(FRAMES):
        atoms = Atoms(numbers=WATER, positions=positions)
        atoms.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0)
        # ASE converts with its own CODATA: a relative 1e-7 or so between the two.
        assert labels.energies[i] == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
        np.testing.assert_allclose(labels.forces[i], atoms.get_forces(), rtol=1e-5, atol=2e-4)
    _check_forces(GFN2, labels, 2e-3)
    assert labels.atom_energies[8] / HARTREE_TO_EV == pytest.approx(-3.767606950, abs=1e-6)
    assert labels.provenance["programs"].startswith("tblite ")


def test_any_ase_calculator_labels_by_name_and_needs_atom_energies() -> None:
    pytest.importorskip("tblite")
    direct = label_frames(GFN2, WATER, FRAMES, 0)
    settings = LabelSettings(
        name="a",
        kind="ase",
        program="tblite.ase:TBLite",
        options={"method": "GFN2-xTB", "verbosity": 0},
        atom_energies={"H": -0.4, "O": -3.8},
    )
    labels = label_frames(settings, WATER, FRAMES, 0)
    np.testing.assert_allclose(labels.energies, direct.energies, rtol=1e-6)
    np.testing.assert_allclose(labels.forces, direct.forces, atol=2e-4)
    assert labels.atom_energies == {1: -0.4 * HARTREE_TO_EV, 8: -3.8 * HARTREE_TO_EV}
    with pytest.raises(ValueError, match="wants atom_energies"):
        LabelSettings(name="a", kind="ase", program="tblite")
    unknown = LabelSettings(name="a", kind="ase", program="nothing", atom_energies={})
    with pytest.raises(ConfigError, match="one of"):
        label_frames(unknown, WATER, FRAMES, 0)
    few = settings.model_copy(update={"atom_energies": {"H": -0.4}})
    with pytest.raises(LabelError, match="wants O"):
        label_frames(few, WATER, FRAMES, 0)


def test_a_committee_of_archives_labels_with_its_standard_deviation(project_root: Path) -> None:
    from mace_mm.evaluate.ase_calculator import MACECalculator

    model = str(project_root / "mace_mm" / "models" / "small.pt")
    settings = LabelSettings(
        name="m",
        kind="ase",
        program="mace",
        options={"model": [model, model], "precision": "double"},
        atom_energies={"H": -0.5, "O": -75.0},
    )
    labels = label_frames(settings, WATER, FRAMES, 0)
    from ase import Atoms

    atoms = Atoms(numbers=WATER, positions=FRAMES[1])
    atoms.calc = MACECalculator(model, precision="double")
    assert labels.energies[1] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(labels.forces[1], atoms.get_forces(), atol=1e-6)
    assert labels.energy_std is not None and labels.force_std is not None
    np.testing.assert_allclose(labels.energy_std, 0.0, atol=1e-6)
    np.testing.assert_allclose(labels.force_std, 0.0, atol=1e-6)


def test_charge_reaches_the_program() -> None:
    tblite = pytest.importorskip("tblite.ase")
    from ase import Atoms

    hydroxide, positions = np.array([8, 1]), np.array([[[0.0, 0, 0], [0, 0, 0.97]]])
    labels = label_frames(GFN2, hydroxide, positions, -1)
    atoms = Atoms(numbers=hydroxide, positions=positions[0])
    atoms.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0, charge=-1)
    assert labels.energies[0] == pytest.approx(atoms.get_potential_energy(), rel=1e-6)


def test_a_failed_frame_has_a_reason_and_no_number() -> None:
    pytest.importorskip("tblite")
    settings = GFN2.model_copy(update={"options": {"max-iter": 6}})
    # The stretched frame needs more cycles than the relaxed one.
    stretched = FRAMES[0] * np.array([1.0, 4.0, 4.0])
    labels = label_frames(settings, WATER, np.stack([stretched, FRAMES[0]]), 0)
    failed = {i: reason for i, reason in labels.failures.items()}
    assert failed and all("not converged" in reason for reason in failed.values())
    for i in range(2):
        assert np.isfinite(labels.energies[i]) == (i not in failed)
        assert np.isfinite(labels.forces[i]).all() == (i not in failed)


def test_labels_cannot_be_built_with_a_silent_hole() -> None:
    with pytest.raises(DataError, match="frame 1"):
        FrameLabels(
            energies=np.array([1.0, np.nan]),
            forces=np.zeros((2, 3, 3)),
            atom_energies={},
            provenance={},
        )


@pytest.mark.parametrize(
    ("method", "basis"), [("hf", "6-31g*"), ("wb97x", "6-31g*"), ("wb97m-d3bj", "def2-svp")]
)
def test_pyscf_labels_are_those_of_pyscf(method: str, basis: str) -> None:
    pytest.importorskip("pyscf")
    if "d3bj" in method:
        pytest.importorskip("pyscf.dispersion")
    from pyscf import dft, gto, scf

    numbers, length = np.array([1, 1]), 0.80
    frames = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, z]] for z in (length, 0.801, 0.799)])
    settings = LabelSettings(name="d", kind="pyscf", method=method, basis=basis)
    labels = label_frames(settings, numbers, frames, 0)
    molecule = gto.M(atom=f"H 0 0 0; H 0 0 {length}", basis=basis, verbose=0)
    field = scf.RHF(molecule) if method == "hf" else dft.RKS(molecule, xc=method)
    # PySCF's bohr is of another CODATA: 1e-9 of a length.
    assert labels.energies[0] == pytest.approx(field.kernel() * HARTREE_TO_EV, abs=1e-6)
    slope = (labels.energies[1] - labels.energies[2]) / 0.002
    assert labels.forces[0, 1, 2] == pytest.approx(-slope, abs=2e-3)
    atom = gto.M(atom="H 0 0 0", basis=basis, spin=1, verbose=0)
    hydrogen = scf.UHF(atom) if method == "hf" else dft.UKS(atom, xc=method)
    assert labels.atom_energies[1] == pytest.approx(hydrogen.kernel() * HARTREE_TO_EV, abs=1e-6)
    assert ("pyscf-dispersion" in labels.provenance["programs"]) == ("d3bj" in method)


def test_pyscf_reports_what_does_not_converge_and_refuses_what_it_does_not_know() -> None:
    pytest.importorskip("pyscf")
    settings = LabelSettings(
        name="d", kind="pyscf", method="hf", basis="sto-3g", options={"max_cycle": 1}
    )
    settings = settings.model_copy(update={"atom_energies": {"H": -0.5, "O": -74.0}})
    labels = label_frames(settings, WATER, FRAMES, 0)
    assert set(labels.failures) == {0, 1}
    assert "not converged" in labels.failures[0]
    for wrong in ({"basis": "no-such-basis"}, {"method": "no-such-functional"}):
        with pytest.raises(ConfigError, match="does not know"):
            label_frames(settings.model_copy(update=wrong), WATER, FRAMES, 0)
    with pytest.raises(ConfigError, match="takes the options"):
        label_frames(settings.model_copy(update={"options": {"a": 1}}), WATER, FRAMES, 0)


def test_qcengine_runs_a_program_that_is_installed_and_names_one_that_is_not() -> None:
    qcengine = pytest.importorskip("qcengine")
    pytest.importorskip("dftd3")
    from mace_mm.errors import DependencyError

    settings = LabelSettings(
        name="q",
        kind="qcengine",
        program="s-dftd3",
        method="pbe",
        options={"level_hint": "d3bj"},
        atom_energies={"H": 0.0, "O": 0.0},
    )
    labels = label_frames(settings, WATER, FRAMES, 0)
    from dftd3.interface import DispersionModel, RationalDampingParam

    bohr = FRAMES[1] / 0.529177210903
    result = DispersionModel(WATER, bohr).get_dispersion(
        RationalDampingParam(method="pbe"), grad=True
    )
    assert labels.energies[1] == pytest.approx(result["energy"] * HARTREE_TO_EV, rel=1e-9)
    expected = -result["gradient"] * HARTREE_TO_EV / 0.529177210903
    # QCElemental rounds positions to 1e-8 bohr.
    np.testing.assert_allclose(labels.forces[1], expected, atol=1e-10)
    assert "s-dftd3" in labels.provenance["programs"]
    if "psi4" not in qcengine.list_available_programs():
        with pytest.raises(DependencyError, match="does not find 'psi4'"):
            label_frames(settings.model_copy(update={"program": "psi4"}), WATER, FRAMES, 0)


@pytest.fixture(scope="module")
def ani(shared_dir: Path) -> LabelSettings:
    pytest.importorskip("torchani")
    pytest.importorskip("huggingface_hub")
    return LabelSettings(name="ani", kind="ani", path=shared_dir / "data/ani-2x/ani-2x_8x.info")


def test_ani_committee_agrees_with_torchani_and_its_own_slope(
    ani: LabelSettings, shared_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torchani import neurochem

    labels = label_frames(ani, WATER, FRAMES, 0)
    folder = shared_dir / "data/ani-2x"
    monkeypatch.setattr(neurochem, "neurochem_dir", lambda: folder)
    model = neurochem.load_model_from_info_file(folder / "ani-2x_8x.info").double()
    numbers = torch.tensor(WATER).repeat(2, 1)
    positions = torch.tensor(FRAMES, requires_grad=True)
    energies = model((numbers, positions)).energies
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    np.testing.assert_allclose(labels.energies, energies.detach() * HARTREE_TO_EV, atol=2e-4)
    np.testing.assert_allclose(labels.forces, -gradient * HARTREE_TO_EV, atol=2e-4)
    assert labels.energy_std is not None and labels.force_std is not None
    assert labels.energy_std.shape == (2,)
    assert (labels.energy_std > 0.0).all()
    assert labels.force_std.shape == FRAMES.shape
    assert labels.provenance["committee_members"] == "4"


def test_ani_refuses_what_it_was_not_made_for(ani: LabelSettings) -> None:
    with pytest.raises(LabelError, match="neutral"):
        label_frames(ani, WATER, FRAMES, 1)
    with pytest.raises(LabelError, match="no networks for Br"):
        label_frames(ani, np.array([35, 1]), FRAMES[:, :2], 0)


def test_our_sign_and_unit_of_the_gradient_are_those_of_real_spice_labels(
    shared_dir: Path,
) -> None:
    """A rough method on real frames must correlate with their labels, with slope about one."""
    pytest.importorskip("tblite")
    file = SpiceFile(shared_dir / "data/spice/SPICE-1.1.4_n2.hdf5")
    entry = next(
        file.conformers(i) for i, e in enumerate(file.entries) if e.atomic_numbers.size > 10
    )
    labels = label_frames(GFN2, entry.atomic_numbers, entry.positions[:8], int(entry.total_charge))
    assert entry.forces is not None
    ours, theirs = labels.forces.ravel(), entry.forces[:8].ravel()
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95
    assert float(ours @ theirs / (theirs @ theirs)) == pytest.approx(1.0, abs=0.15)


def test_qcengine_refuses_programs_that_cannot_label() -> None:
    pytest.importorskip("qcengine")
    for program in ("rdkit", "openmm"):
        settings = LabelSettings(
            name="q", kind="qcengine", program=program, method="mmff94", atom_energies={"H": 0.0}
        )
        with pytest.raises(ConfigError, match="cannot come from QCEngine"):
            label_frames(settings, WATER, FRAMES, 0)


def test_tblite_under_ase_states_charge_and_spin() -> None:
    pytest.importorskip("tblite")
    from ase import Atoms
    from ase.calculators.calculator import InputError

    from mace_mm.generation.labels.calculators import make_calculator

    hydroxide, positions = np.array([8, 1]), np.array([[[0.0, 0, 0], [0, 0, 0.97]]])
    settings = LabelSettings(
        name="a",
        kind="ase",
        program="tblite",
        options={"verbosity": 0},
        atom_energies={"H": -0.4, "O": -3.8},
    )
    # One calculator, an ion, a molecule and the ion again: each with its own charge.
    for numbers, frames, charge in (
        (hydroxide, positions, -1),
        (WATER, FRAMES[:1], 0),
        (hydroxide, positions, -1),
    ):
        labels = label_frames(settings, numbers, frames, charge)
        direct = label_frames(GFN2, numbers, frames, charge)
        np.testing.assert_allclose(labels.energies, direct.energies, rtol=1e-6)

    def energy(atoms: Atoms, **options: object) -> float:
        atoms.calc = make_calculator("tblite", {"verbosity": 0, **options})
        return float(atoms.get_potential_energy())

    oxygen = Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.21]])
    oxygen.set_initial_charges([-0.25, -0.25])
    with pytest.raises(InputError, match="integer, got -0.5"):
        energy(oxygen)
    oxygen.set_initial_charges([0.0, 0.0])
    with pytest.raises(InputError, match="spin_polarization"):
        energy(oxygen, multiplicity=3)
    # With the energy of spins the triplet is the ground state, as it is.
    assert energy(oxygen, multiplicity=3, spin_polarization=1.0) < energy(oxygen)
    with pytest.raises(InputError, match="16 electrons"):
        energy(oxygen, multiplicity=2)
    slab = Atoms("O2", positions=oxygen.positions, cell=[10, 10, 10], pbc=[True, True, False])
    with pytest.raises(InputError, match="periodicity"):
        energy(slab)
