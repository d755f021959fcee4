"""PySCF labels: core potentials, functionals and what is stored with a label."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from mace_mm.errors import ConfigError
from mace_mm.generation.generate import generate
from mace_mm.generation.labels.base import LabelError
from mace_mm.generation.labels.programs import label_frames
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.protocol import Protocol
from mace_mm.units import HARTREE_TO_EV

pytest.importorskip("pyscf")

HYDROGEN_IODIDE = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.609]]])


def _settings(method: str = "hf", basis: str = "def2-svp", **options: object) -> LabelSettings:
    return LabelSettings.model_validate(
        {"name": "d", "kind": "pyscf", "method": method, "basis": basis, "options": options}
    )


def test_a_basis_brings_its_core_potential() -> None:
    labels = label_frames(_settings(), np.array([53, 1]), HYDROGEN_IODIDE, 0)
    assert not labels.failures
    assert labels.energies[0] / HARTREE_TO_EV == pytest.approx(-297.2315, abs=2e-4)
    assert abs(labels.forces[0, 0, 2]) == pytest.approx(0.156, abs=0.002)
    # The atoms have the potential too: HI is bound by 2 to 4 eV against them at this level.
    bound = labels.atom_energies[53] + labels.atom_energies[1] - labels.energies[0]
    assert 2.0 < bound < 4.0


def test_iodomethane_has_the_force_of_a_bond_and_not_of_a_lost_core() -> None:
    angle = np.deg2rad(111.3)
    hydrogens = [
        (np.sin(angle) * np.cos(t), np.sin(angle) * np.sin(t), np.cos(angle))
        for t in np.deg2rad([0.0, 120.0, 240.0])
    ]
    positions = np.array([(0.0, 0.0, 0.0), (0.0, 0.0, 2.139), *(1.084 * np.array(hydrogens))])
    settings = _settings("b3lyp", density_fit=True, grid_level=1)
    settings = settings.model_copy(update={"atom_energies": {"H": -0.5, "C": -37.8, "I": -297.7}})
    labels = label_frames(settings, np.array([6, 53, 1, 1, 1]), positions[None], 0)
    assert labels.energies[0] / HARTREE_TO_EV == pytest.approx(-337.674, abs=2e-3)
    assert abs(labels.forces[0, 1, 2]) < 1.0


def test_a_potential_of_another_name_can_be_asked_for() -> None:
    settings = _settings(basis="ccecp-cc-pvdz", ecp="ccecp")
    numbers, frame = np.array([6, 8]), np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.13]]])
    labels = label_frames(settings, numbers, frame, 0)
    assert not labels.failures
    # Four and six electrons are left: CO has some -21 hartree then, and -112.7 with all 14.
    assert labels.energies[0] / HARTREE_TO_EV == pytest.approx(-21.3, abs=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (_settings(basis="ccecp-cc-pvdz"), "made for a core potential"),
        (_settings(basis="def2-svp", ecp="ccecp"), "for all electrons"),
        (_settings(basis="6-31g*"), "no basis 6-31g. for I"),
    ],
)
def test_a_basis_without_what_it_needs_is_refused(settings: LabelSettings, message: str) -> None:
    numbers = np.array([6, 8]) if "6-31g" not in str(settings.basis) else np.array([53, 1])
    with pytest.raises(LabelError, match=message):
        label_frames(settings, numbers, HYDROGEN_IODIDE, 0)


WATER = np.array([8, 1, 1])
BENT = np.array([[[0.0, 0.0, 0.160], [0.05, 0.720, -0.500], [0.0, -0.820, -0.430]]])


@pytest.mark.parametrize(
    ("method", "numbers", "frames", "charge"),
    [
        ("wb97m-d3bj", WATER, BENT, 0),  # Range-separated, kinetic energy density, dispersion.
        ("pbe0", WATER, BENT, 0),  # A global hybrid.
        ("blyp", np.array([8, 1]), BENT[:, :2], -1),  # No exact exchange; an ion.
        ("svwn", WATER, BENT, 0),  # A local functional.
        ("hse06", np.array([53, 1]), HYDROGEN_IODIDE, 0),  # Short range only; a core potential.
    ],
)
def test_fast_labels_are_those_of_pyscf(
    method: str, numbers: np.ndarray, frames: np.ndarray, charge: int
) -> None:
    if "d3bj" in method:
        pytest.importorskip("pyscf.dispersion")
    common = {"auxiliary_basis": "def2-universal-jkfit", "grid_level": 2}
    fast = label_frames(_settings(method, fast=True, **common), numbers, frames, charge)
    exact = label_frames(
        _settings(method, density_fit=True, conv_tol=1e-10, **common), numbers, frames, charge
    )
    assert not fast.failures and not exact.failures
    n_atoms = len(numbers)
    assert fast.energies[0] == pytest.approx(exact.energies[0], abs=5e-5 * n_atoms)
    np.testing.assert_allclose(fast.forces, exact.forces, atol=2e-3)
    assert fast.dipoles is not None and exact.dipoles is not None
    np.testing.assert_allclose(fast.dipoles, exact.dipoles, atol=1e-3)
    assert fast.seconds is not None and fast.seconds[0] > 0.0


def test_atoms_on_top_of_each_other_cost_one_line() -> None:
    """The functions of two hydrogens 0.001 Å apart are linearly dependent."""
    positions = BENT.copy()
    positions[0, 2] = positions[0, 1] + [0.0, 0.0, 1e-3]
    frames = np.concatenate([positions, BENT])
    for options in ({"fast": True, "grid_level": 0}, {"density_fit": True, "grid_level": 0}):
        labels = label_frames(_settings("pbe", "def2-tzvpd", **options), WATER, frames, 0)
        assert 1 not in labels.failures and np.isfinite(labels.energies[1])
        if 0 in labels.failures:
            assert "\n" not in labels.failures[0] and np.isnan(labels.energies[0])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("wb97x-d4", {}, "wB97X-V with D4"),
        ("b97-d3bj", {}, "B97-D"),
        ("pbe", {"functional": "pbe0"}, "takes pbe for pbe"),
        ("pbe-d3", {}, "dispersion corrections d3bj"),
        ("wb97m-v", {"fast": True}, "semilocal functionals"),
        ("hf", {"fast": True}, "semilocal functionals"),
        ("pbe", {"fast": True, "conv_tol": 1e-9}, "conv_tol"),
        ("pbe", {"fast": True, "density_fit": False}, "density_fit: false"),
    ],
)
def test_names_and_options_that_mean_something_else_are_refused(
    method: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        label_frames(_settings(method, **options), WATER, BENT, 0)


def test_the_evaluated_functional_is_stored_and_printed(tmp_path: Path) -> None:
    pytest.importorskip("pyscf.dispersion")
    name = "wb97x + d4:wb97x-2008"
    protocol = Protocol.model_validate(
        {
            "name": "water",
            "molecules": {"sources": [{"kind": "smiles", "smiles": {"water": "O"}}]},
            "conformers": {"count": 1},
            "sampling": {"duration_ps": 0.02, "frames_per_conformer": 2},
            "selection": {"count": 2},
            "cold": {"count": 0},
            "labels": [_settings("wb97x-d4", "sto-3g", functional=name, grid_level=0).model_dump()],
        }
    )
    report = generate(protocol, tmp_path)
    assert f"functional: {name}" in report.as_text()
    with h5py.File(tmp_path / "water-d.h5") as file:
        group = file["water"]
        assert group.attrs["functional"] == name
        assert group.attrs["grid"] == "PySCF level 0"
        assert group.attrs["core_potentials"] == "none"
        debye = 2.5417 * np.linalg.norm(group["scf_dipole"][()], axis=1)
        assert ((debye > 1.2) & (debye < 2.4)).all()
        assert (group["label_seconds"][()] > 0.0).all()
