"""The arithmetic behind the bundled model's labels and tables."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ase")
pytest.importorskip("scipy")


@pytest.fixture
def script(project_root, monkeypatch):
    """Import a module of recipes/ or benchmarks/ by name."""
    for folder in ("benchmarks/accuracy", "benchmarks/speed", "recipes/bundled_model"):
        monkeypatch.syspath_prepend(str(project_root / folder))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        file = str(getattr(sys.modules[name], "__file__", ""))
        if "/benchmarks/" in file or "/recipes/" in file:
            del sys.modules[name]


def ethanol() -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    positions = np.array(
        [
            [-1.23, -0.25, 0.0],
            [0.06, 0.54, 0.0],
            [1.15, -0.36, 0.0],
            [-2.08, 0.43, 0.0],
            [-1.28, -0.89, 0.88],
            [-1.28, -0.89, -0.88],
            [0.10, 1.18, 0.89],
            [0.10, 1.18, -0.89],
            [1.96, 0.15, 0.0],
        ]
    )
    return numbers, positions


def test_a_bond_correction_is_recovered_and_is_the_gradient_of_its_energy(script) -> None:
    module = script("bond_correction")
    numbers, start = ethanol()
    generator = np.random.default_rng(0)
    frames = start + generator.normal(scale=0.03, size=(60, *start.shape))
    pair = 6 * module.MAX_Z + 8
    truth = module.BondCorrection(
        {("element", 0): {pair: 0.3}, ("element", 1): {pair: -0.7, 1 * module.MAX_Z + 6: 0.4}}
    )
    fitted = module.fit_bond_correction((numbers, x, truth(numbers, x)[1]) for x in frames)
    test = start + generator.normal(scale=0.03, size=start.shape)
    np.testing.assert_allclose(fitted(numbers, test)[1], truth(numbers, test)[1], atol=0.03)
    energy, forces = fitted(numbers, test)
    step = np.zeros_like(test)
    step[2, 0] = 1e-5
    slope = (fitted(numbers, test + step)[0] - fitted(numbers, test - step)[0]) / 2e-5
    assert forces[2, 0] == pytest.approx(-slope, abs=1e-6)
    assert energy != 0.0
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-12)


def test_three_differences_give_three_error_variances(script) -> None:
    module = script("error_variances")
    generator = np.random.default_rng(1)
    truth = generator.normal(size=(4000, 3))
    sizes = np.array([0.1, 0.12, 0.2])
    methods = [truth + generator.normal(scale=s, size=truth.shape) for s in sizes]
    found = np.sqrt(module.three_cornered_hat(*methods))
    np.testing.assert_allclose(found, sizes, rtol=0.15)


def test_minima_of_a_curve_are_counted_with_their_depth(script) -> None:
    pytest.importorskip("h5py")
    module = script("benchmark_model")
    well = np.array([-2.0, -3.0, -2.5, -1.0, 0.0])
    assert module.minima(well, 0.05) == 1
    assert module.minima(np.array([3.0, 1.0, 0.5, 0.2, 0.0]), 0.05) == 1
    double = np.array([-2.0, -3.0, -1.0, -1.5, 0.0])
    assert module.minima(double, 0.05) == 2
    assert module.minima(double, 0.6) == 1


def test_averaged_labels_lie_between_those_of_the_file_and_of_the_model(script) -> None:
    pytest.importorskip("h5py")
    module = script("average_labels")
    from mace_mm.archive.open_model import open_model
    from mace_mm.data.labels import ConformerSet
    from mace_mm.evaluate.ase_calculator import MACECalculator

    numbers, start = ethanol()
    generator = np.random.default_rng(3)
    frames = start + generator.normal(scale=0.05, size=(3, *start.shape))
    model = np.array([evaluate(MACECalculator("small"), numbers, x)[0] for x in frames])
    forces = np.stack([evaluate(MACECalculator("small"), numbers, x)[1] for x in frames])
    change = generator.normal(size=3)
    labels = ConformerSet(
        name="ethanol",
        atomic_numbers=numbers,
        positions=frames,
        energies=model + 7.0 + change,
        forces=forces + 0.2,
    )
    water = replace(labels, name="water", subset="water")
    found, unchanged = module.average_with(open_model("small"), iter([labels, water]))
    np.testing.assert_allclose(found.energies - model, 0.5 * (change - change.mean()), atol=1e-4)
    np.testing.assert_allclose(found.forces, forces + 0.1, atol=1e-4)
    assert unchanged is water


def evaluate(calculator, numbers, positions) -> tuple[float, np.ndarray]:
    import ase

    atoms = ase.Atoms(numbers, positions, calculator=calculator)
    return atoms.get_potential_energy(), atoms.get_forces()


def test_a_squeezed_dimer_comes_close_and_keeps_its_molecules(script) -> None:
    pytest.importorskip("openmm")
    module = script("short_contacts")
    numbers, first = ethanol()
    x = np.concatenate([first, first + [0.0, 0.0, 4.5]])
    frames = module.squeeze(np.tile(numbers, 2), x, 6, np.random.default_rng(0))
    assert len(frames) == 6
    for y in frames:
        a, b = y[:9], y[9:]
        between = np.linalg.norm(a[:, None] - b[None], axis=-1).min()
        assert module.CLOSEST[0] - 0.05 < between < module.CLOSEST[1]
        for molecule in (a, b):
            np.testing.assert_allclose(
                np.linalg.norm(molecule[:, None] - molecule[None], axis=-1),
                np.linalg.norm(first[:, None] - first[None], axis=-1),
                atol=1e-9,
            )
    assert module.squeeze(numbers, first, 3, np.random.default_rng(0)) == []
