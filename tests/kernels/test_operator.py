"""The operator in eager code and TorchScript: state, copies, units, errors."""

import copy
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from mace_mm.evaluate.fold import fold
from mace_mm.kernels import ops
from mace_mm.kernels.evaluation_form import pack, unpack
from mace_mm.kernels.ops import energy_forces
from tests.support.engine_systems import LAYOUTS, NO_CELL, TRICLINIC, make_potential, structure

pytestmark = pytest.mark.plain


class Step(torch.nn.Module):
    """What a simulation compiles: positions in nm to energy and forces in kJ/mol."""

    def __init__(self, form: torch.Tensor, species: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("model", form)
        self.register_buffer("state", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("species", species)

    def forward(self, positions: torch.Tensor, cell: torch.Tensor):
        found = torch.ops.mace_mm.energy_forces(
            positions, self.species, cell, self.model, self.state, 0.5, 1, 10.0, 96.5
        )
        return found[0][0], found[1]


@pytest.fixture(scope="module")
def system():
    folded = fold(make_potential(LAYOUTS["scalars"]))
    positions, species = structure(24, TRICLINIC)
    return folded.form, positions, species


def fresh() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int64)


def test_eager_units_and_types(system) -> None:
    form, positions, species = system
    base = energy_forces(positions, species, TRICLINIC, form, fresh())
    nm = energy_forces(
        positions / 10, species.int(), TRICLINIC / 10, form, fresh(), length=10.0, energy=96.5
    )
    assert torch.allclose(nm.energies, base.energies * 96.5, rtol=1e-12)
    assert torch.allclose(nm.forces, base.forces * 965, rtol=1e-5, atol=1e-5)
    assert torch.allclose(nm.virial, base.virial * 96.5, rtol=1e-5, atol=1e-5)
    single = energy_forces(positions.float(), species, TRICLINIC.float(), form, fresh())
    assert single.forces.dtype == torch.float32 and base.forces.dtype == torch.float64
    assert torch.allclose(single.forces.double(), base.forces, atol=1e-4)
    spread = torch.stack([positions, positions], dim=2)[:, :, 0]  # not contiguous
    again = energy_forces(spread, species, TRICLINIC.t().contiguous().t(), form, fresh())
    assert torch.equal(again.forces, base.forces)
    assert float(base.node_energies.sum()) == pytest.approx(float(base.energies[0]), rel=1e-14)


def test_a_box_that_is_tried_and_given_back(system) -> None:
    # What a Monte Carlo barostat does: the list survives, the image vectors of the trial must not.
    form, positions, species = system
    state = fresh()
    before = energy_forces(positions, species, TRICLINIC, form, state)
    for scale in (1.002, 1.0, 0.999, 1.0):
        now = energy_forces(positions * scale, species, TRICLINIC * scale, form, state)
        want = energy_forces(positions * scale, species, TRICLINIC * scale, form, fresh())
        assert torch.allclose(now.energies, want.energies, rtol=1e-9)
        assert torch.allclose(now.forces, want.forces, rtol=0, atol=1e-5)
    assert torch.allclose(now.energies, before.energies, rtol=1e-9)


def test_script_save_load_and_copies_keep_their_own_state(system) -> None:
    form, positions, species = system
    scripted = torch.jit.script(Step(form, species))
    stored = io.BytesIO()
    torch.jit.save(scripted, stored)
    stored.seek(0)
    modules = [scripted, torch.jit.load(stored), copy.deepcopy(scripted)]
    modules.append(torch.jit.freeze(scripted.eval()))
    nm, box = positions / 10, TRICLINIC / 10
    energy, forces = modules[0](nm, box)
    moved = nm + 0.3
    for module in modules:
        for x in (nm, moved, nm):
            other, same = module(x, box)
            assert float(other) == pytest.approx(float(energy), rel=1e-9)
            assert torch.allclose(same, forces, atol=2e-2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"positions": torch.zeros(3, 2)}, "positions must be"),
        ({"positions": torch.full((24, 3), float("nan"))}, "not finite|must be finite"),
        ({"positions": torch.zeros(24, 3)}, "coincide|on top of each other"),
        ({"species": torch.full((24,), 7)}, "species"),
        ({"species": torch.zeros(5, dtype=torch.int64)}, "species must be"),
        ({"cell": torch.zeros(2, 3)}, "cell must be"),
        ({"cell": torch.ones(3, 3)}, "volume"),
        ({"model": torch.zeros(200, dtype=torch.uint8)}, "evaluation form"),
    ],
)
def test_bad_input_is_refused(system, change: dict, message: str) -> None:
    if ops.ENGINE is None:
        pytest.skip("no compiled engine here")
    form, positions, species = system
    arguments = {"positions": positions, "species": species, "cell": NO_CELL, "model": form}
    with pytest.raises(RuntimeError, match=message):
        energy_forces(**{**arguments, **change}, state=fresh())
    short = form[:-64].clone()
    with pytest.raises(RuntimeError, match="damaged"):
        energy_forces(positions, species, NO_CELL, short, fresh())


@pytest.mark.parametrize("path", [(0, 1, 1), (0, 4, 4), (1, 0, 1)])
def test_paths_that_the_layer_cannot_have_are_refused(system, path: tuple[int, ...]) -> None:
    if ops.ENGINE is None:
        pytest.skip("no compiled engine here")
    form, positions, species = system
    tensors = unpack(form)
    tensors["paths.0"] = tensors["paths.0"].clone()
    tensors["paths.0"][0] = torch.tensor(path)
    with pytest.raises(RuntimeError, match="impossible path"):
        energy_forces(positions, species, NO_CELL, pack(tensors), fresh())


def test_fake_tensors_have_the_right_shapes(system) -> None:
    form, positions, species = system
    exported = torch.export.export(Step(form, species), (positions / 10, TRICLINIC / 10))
    energy, forces = exported.module()(positions / 10, TRICLINIC / 10)
    want = Step(form, species)(positions / 10, TRICLINIC / 10)
    assert torch.equal(forces, want[1]) and torch.equal(energy, want[0])


@pytest.mark.parametrize("engine", ["reference", "portable"])
def test_environment_variable_chooses_the_engine(engine: str) -> None:
    code = """
        import torch
        from tests.support.engine_systems import LAYOUTS, NO_CELL, make_potential, structure
        from mace_mm.evaluate.fold import fold
        from mace_mm.kernels import ops
        form = fold(make_potential(LAYOUTS["vectors"]), precision="double").form
        x, species = structure(9, None)
        found = ops.energy_forces(x, species, NO_CELL, form, torch.zeros(1))
        print(getattr(ops.ENGINE, "instruction_set", None), repr(float(found.energies[1])))
    """
    name, energy = run_python(code, MACE_MM_INSTRUCTION_SET=engine).split()
    assert name == ("None" if engine == "reference" else engine)
    form = fold(make_potential(LAYOUTS["vectors"]), precision="double").form
    x, species = structure(9, None)
    here = energy_forces(x, species, NO_CELL, form, fresh())
    assert float(energy) == pytest.approx(float(here.energies[1]), rel=1e-11)


def run_python(code: str, **environment: str) -> str:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
