"""The choice of the engine: which one runs, why, and that both give the same numbers."""

import gc
import logging

import numpy as np
import pytest
import torch

from mace_mm.archive.open_model import open_model
from mace_mm.errors import BackendError, GeometryError
from mace_mm.evaluate import engine_check
from mace_mm.evaluate.build import build_evaluator
from mace_mm.evaluate.engines import NativeEvaluator, ReferenceEvaluator
from mace_mm.kernels import ops
from mace_mm.simulation.benchmark.timing import make_system
from tests.support.openmm_systems import METHANOL, WATER

needs_engine = pytest.mark.skipif(ops.ENGINE is None, reason="no compiled engine here")
CELL = torch.tensor([[6.0, 0, 0], [1.0, 5.0, 0], [-0.5, 0.7, 7.0]], dtype=torch.float64)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mace_mm" / "checked"


@needs_engine
@pytest.mark.parametrize("periodic", [(False,) * 3, (True,) * 3, (True, False, True)])
@pytest.mark.parametrize("precision, tolerance", [("single", 1e-5), ("double", 1e-9)])
def test_engines_give_the_same(precision, tolerance, periodic):
    numbers, positions = METHANOL
    x, pbc = torch.tensor(positions, dtype=torch.float64), torch.tensor(periodic)
    cell = CELL * pbc.unsqueeze(1)
    native, reference = (
        build_evaluator(open_model(), numbers, precision=precision, engine=engine)(x, cell, pbc)
        for engine in ("native", "reference")
    )
    # Single precision is measured against the exact result, not against another rounding.
    exact = build_evaluator(open_model(), numbers, precision="double", engine="reference")
    wanted = exact(x, cell, pbc)
    for found in (native, reference):
        assert torch.allclose(found.energy, wanted.energy, rtol=0, atol=20 * tolerance)
        assert torch.allclose(found.forces.double(), wanted.forces, rtol=0, atol=20 * tolerance)
        assert torch.allclose(found.stress.double(), wanted.stress, rtol=0, atol=tolerance)
        assert torch.allclose(found.node_energies, wanted.node_energies, atol=20 * tolerance)
    assert [v.shape for v in native] == [v.shape for v in reference]


@needs_engine
def test_the_native_engine_is_the_default_and_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="mace_mm"):
        evaluator = build_evaluator(open_model(), WATER[0])
    assert isinstance(evaluator, NativeEvaluator)
    assert f"engine native ({ops.ENGINE.instruction_set}), single precision" in caplog.text
    evaluator = build_evaluator(open_model(), WATER[0], engine="reference")
    assert isinstance(evaluator, ReferenceEvaluator)


def test_without_a_compiled_engine_the_reference_runs_and_says_so(caplog, monkeypatch):
    monkeypatch.setattr(ops, "ENGINE", None)
    with caplog.at_level(logging.WARNING, logger="mace_mm"):
        evaluator = build_evaluator(open_model(), WATER[0])
    assert isinstance(evaluator, ReferenceEvaluator)
    assert "many times slower" in caplog.text and "was not compiled" in caplog.text
    with pytest.raises(BackendError, match="was not compiled"):
        build_evaluator(open_model(), WATER[0], engine="native")


@needs_engine
def test_an_engine_that_disagrees_is_not_used(cache, caplog, monkeypatch):
    monkeypatch.setattr(engine_check, "TOLERANCES", {"single": 1e-12, "double": 1e-20})
    with caplog.at_level(logging.WARNING, logger="mace_mm"):
        evaluator = build_evaluator(open_model(), WATER[0])
    assert isinstance(evaluator, ReferenceEvaluator)
    assert "disagree by" in caplog.text
    with pytest.raises(BackendError, match="disagree by"):
        build_evaluator(open_model(), WATER[0], engine="native")
    assert not cache.exists()


@needs_engine
def test_a_model_is_checked_once_on_a_machine(cache, monkeypatch):
    build_evaluator(open_model(), WATER[0])
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(engine_check, "_cluster", lambda elements: pytest.fail("checked again"))
    build_evaluator(open_model(), WATER[0])


@needs_engine
def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert isinstance(build_evaluator(open_model(), WATER[0]), NativeEvaluator)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_what_both_engines_refuse(engine):
    if engine == "native" and ops.ENGINE is None:
        pytest.skip("no compiled engine here")
    numbers, positions = METHANOL
    evaluator = build_evaluator(open_model(), numbers, engine=engine)
    x = torch.tensor(np.array(positions), dtype=torch.float64)
    open_ = torch.zeros(3, dtype=torch.bool)
    broken = x.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(GeometryError, match="positions must be finite; those of atom 3 are not"):
        evaluator(broken, torch.zeros(3, 3).double(), open_)
    broken = x.clone()
    broken[2] = broken[5]
    with pytest.raises(GeometryError, match="atoms (2 and 5|5 and 2) coincide: 0.0* Å apart"):
        evaluator(broken, torch.zeros(3, 3).double(), open_)
    thin = torch.diag(torch.tensor([20.0, 0.3, 20.0], dtype=torch.float64))
    with pytest.raises(GeometryError, match="at least 0.5 Å thick, this one is 0.3"):
        evaluator(x, thin, ~open_)
    assert torch.isfinite(evaluator(x, torch.zeros(3, 3).double(), open_).energy).all()
    with pytest.raises(BackendError, match="skin must be a length"):
        build_evaluator(open_model(), numbers, skin=-1.0)


@needs_engine
@pytest.mark.parametrize("n_atoms", [27, 192])
@pytest.mark.parametrize("precision, tolerance", [("single", 5e-6), ("double", 1e-10)])
def test_trained_weights_keep_the_precision_that_is_promised(n_atoms, precision, tolerance):
    system = make_system(n_atoms)
    box = torch.tensor(system.cell) if system.cell.any() else torch.zeros(0).double()
    archive, numbers = open_model(), system.numbers.tolist()
    exact = build_evaluator(archive, numbers, precision="double", engine="reference")
    native = build_evaluator(archive, numbers, precision=precision, engine="native")
    # Frame 0 has small forces, where rounding shows most.
    for frame in torch.tensor(system.frames[[0, 7]]):
        (energy, forces) = native.in_units(frame, box, 1.0, 1.0)
        (wanted_energy, wanted) = exact.in_units(frame, box, 1.0, 1.0)
        assert float((forces - wanted).abs().max() / wanted.abs().max()) < tolerance
        assert float((energy[1] - wanted_energy[1]).abs() / n_atoms) < 0.2 * tolerance


@needs_engine
def test_what_the_engine_keeps_goes_with_its_evaluator():
    # States of forces that OpenMM owned stay until their place in memory is used again.
    ops.ENGINE.library.mm_forget(None)
    system = make_system(27)
    evaluator = build_evaluator(open_model(), system.numbers.tolist(), engine="native")
    evaluator.in_units(torch.tensor(system.frames[0]), torch.zeros(0).double(), 1.0, 1.0)
    assert ops.ENGINE.library.mm_state_count() == 1
    del evaluator
    gc.collect()
    assert ops.ENGINE.library.mm_state_count() == 0
