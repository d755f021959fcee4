"""Fine-tuning: heads that start equal, new isolated-atom energies, frozen parts, replay."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mace_mm.archive.archive import ArchiveMetadata, load_archive, make_archive, save_archive
from mace_mm.archive.open_model import open_model
from mace_mm.archive.select_head import select_head
from mace_mm.errors import ConfigError
from mace_mm.graph.batching import build_graph, collate
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.training.archive import compile_checkpoint, potential_of_checkpoint
from mace_mm.training.config_file import parse_config
from mace_mm.training.run.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint
from mace_mm.training.run.devices import make_fabric
from mace_mm.training.run.loop import TrainingLoop
from mace_mm.training.start.finetune import expand_heads
from mace_mm.training.start.grow import grow_hidden, widen_channels
from mace_mm.training.start.select_elements import select_elements
from mace_mm.training.start.setup import build_potential, prepare_frames
from mace_mm.training.train import base_potential
from tests.support.training_frames import ATOMIC_ENERGIES, make_frames, settings, write_frames


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint of a short run to fine-tune from."""
    folder = tmp_path_factory.mktemp("base")
    train(settings(folder, stages=[{"epochs": 3}]))
    return list_checkpoints(folder / "run")[-1]


def train(values: dict) -> Potential:
    config = parse_config(values)
    frames = prepare_frames(config)
    fabric = make_fabric(config.run, Path(config.output))
    loop = TrainingLoop(config, frames, fabric=fabric, base=base_potential(config))
    loop.run()
    return loop.potential


def tune_settings(folder: Path, base: Path, shift: float, **tune: object) -> dict:
    values = settings(folder, atomic_energies="fit", model=None)
    data = write_frames(folder / "new.xyz", 16, seed=3, shift=shift)
    values["data"]["train"] = [{"path": str(data)}]
    values["fine_tune"] = {"model": str(base), **tune}
    values["stages"] = [{"epochs": 1}]
    return values


def graphs(potential: Potential, n: int = 4):
    config = potential.network.config
    return collate(
        [build_graph(f.molecule, config.atomic_numbers, config.r_max) for f in make_frames(n)]
    )


def test_new_heads_start_where_the_old_one_is(base: Path) -> None:
    config = parse_config(
        {
            "output": "x",
            "data": {"train": [{"path": "x"}]},
            "stages": [{"epochs": 1}],
            "fine_tune": {"model": str(base)},
        }
    )
    old = base_potential(config)
    assert old is not None
    both = expand_heads(old, ("old", "new")).eval()
    graph = graphs(old)
    wanted = old(graph)
    for head in (0, 1):
        got = both(graph, torch.full((4,), head))
        torch.testing.assert_close(got.energy, wanted.energy, rtol=0, atol=1e-10)
        torch.testing.assert_close(got.forces, wanted.forces, rtol=0, atol=1e-10)
    one = select_head(both, "new")
    torch.testing.assert_close(one(graph).energy, wanted.energy, rtol=0, atol=1e-10)


def test_atomic_energies_move_to_the_new_level_of_theory(tmp_path, base: Path) -> None:
    config = parse_config(tune_settings(tmp_path, base, shift=2.5))
    frames = prepare_frames(config)
    potential = build_potential(config, frames, base_potential(config)).double().eval()
    offsets = []
    for i in range(len(frames.train.source)):
        frame = frames.train.source[i]
        c = potential.network.config
        energy = float(
            potential(build_graph(frame.molecule, c.atomic_numbers, c.r_max)).energy.detach()
        )
        offsets.append((frame.energy - energy) / frame.molecule.n_atoms)
    # Before the fit every atom was off by 2.5 eV.
    assert abs(np.mean(offsets)) < 0.02
    kept = build_potential(
        parse_config(tune_settings(tmp_path, base, shift=2.5, refit_atomic_energies=False)),
        frames,
        base_potential(config),
    )
    assert kept.atomic_energies.values[0].tolist() == list(ATOMIC_ENERGIES.values())


def test_frozen_parts_stay_and_the_rest_learns_also_after_a_restart(tmp_path, base: Path) -> None:
    values = tune_settings(tmp_path, base, 0.0, freeze=["embedding", "radial", "layers.0"])
    config = parse_config(values)
    start = {n: p.detach().clone() for n, p in base_potential(config).named_parameters()}
    train(values)
    # Continue from the first checkpoint: freezing is part of the settings, not of the file.
    for path in list_checkpoints(tmp_path / "run")[1:]:
        path.unlink()
    potential = train(values)
    for name, parameter in potential.named_parameters():
        frozen = ".embedding." in name or ".radial." in name or ".layers.0." in name
        assert torch.equal(parameter, start[name]) == frozen, name


def test_a_tuned_archive_tells_what_its_base_was_trained_on(tmp_path, base: Path, caplog) -> None:
    known = ArchiveMetadata(
        name="base",
        training_data="old frames",
        training_data_licence="MIT",
        total_charges=(0, 1),
        shortest_distances={"H-H": 0.1, "H-O": 3.0, "C-O": 1.1},
    )
    start = tmp_path / "base.pt"
    old = potential_of_checkpoint(load_checkpoint(base), None)
    save_archive(start, make_archive(old, known))
    values = tune_settings(tmp_path, start, 0.0, elements=["H", "O"])
    write_frames(tmp_path / "new.xyz", 8, molecules=("water",))
    values["data"] |= {"description": "new frames", "licence": "CC0"}
    train(values)
    domain = prepare_frames(parse_config(values)).domains["default"]
    checkpoint, output = list_checkpoints(tmp_path / "run")[-1], tmp_path / "tuned.pt"
    compile_checkpoint(checkpoint, output, domain=domain)
    found = load_archive(output).metadata
    assert found.training_data == "new frames; started from base (old frames)"
    assert found.training_data_licence == "CC0; of base: MIT"
    assert found.total_charges == (0, 1)
    own = domain.shortest_distances()
    assert found.shortest_distances == {"H-H": 0.1, "H-O": own["H-O"]}
    start.unlink()
    compile_checkpoint(checkpoint, output, domain=domain)
    found = load_archive(output).metadata
    assert "will not know what its base was trained on" in caplog.text
    assert found.total_charges == () and found.shortest_distances == {}


def test_replay_keeps_the_base_in_a_head_of_its_own(tmp_path, base: Path) -> None:
    values = tune_settings(tmp_path, base, shift=2.5)
    old = write_frames(tmp_path / "old.xyz", 12, seed=9)
    values["fine_tune"]["replay"] = [{"path": str(old), "head": "base", "max_frames": 8}]
    potential = train(values).eval()
    assert potential.network.config.heads == ("default", "base")
    graph = graphs(potential)
    with torch.enable_grad():
        new, replayed = (potential(graph, torch.full((4,), h)).energy.detach() for h in (0, 1))
    n_atoms = torch.bincount(graph.graph_index)
    difference = (new - replayed) / n_atoms
    torch.testing.assert_close(difference, torch.full_like(difference, 2.5), rtol=0, atol=0.3)
    found = latest_checkpoint(tmp_path / "run")
    assert found is not None and found.model_config["heads"] == ["default", "base"]


def test_elements_the_model_lacks_are_named(tmp_path) -> None:
    values = settings(tmp_path)
    values["data"]["train"] = [
        {"path": str(write_frames(tmp_path / "water.xyz", 8, molecules=("water",)))}
    ]
    values["atomic_energies"] = {"H": -13.0, "O": -2043.0}
    values["stages"] = [{"epochs": 1}]
    train(values)
    water = list_checkpoints(tmp_path / "run")[-1]
    other = tune_settings(tmp_path, water, 0.0)
    other["output"] = str(tmp_path / "other")
    with pytest.raises(ConfigError, match="elements the model lacks: C N; the model knows H O"):
        train(other)


def test_a_published_model_is_tuned_as_well(tmp_path, project_root) -> None:
    models = sorted((project_root / "tests").rglob("off_L0*.model"))
    if not models:
        pytest.skip("no published model beside the tests")
    values = tune_settings(tmp_path, models[0], shift=0.0)
    values["run"] = {**values["run"], "precision": "float32"}
    potential = train(values).double().eval()
    graph = graphs(potential)
    labels = torch.tensor([f.energy for f in make_frames(4)])
    with torch.enable_grad():
        off = (potential(graph).energy.detach() - labels) / torch.bincount(graph.graph_index)
    # The energies of this random network were tens of eV away from the labels.
    assert off.abs().max() < 2.0


@pytest.mark.parametrize(
    ("what", "hidden", "correlation"),
    [
        ("hidden_l_max", 0, (3, 3)),
        ("hidden_l_max", 1, (2, 2, 2)),
        ("channels", 0, (3, 3)),
        ("channels", 1, (2, 2, 2)),
        ("channels", 0, (2,)),
    ],
)
def test_a_network_grows_without_another_energy_and_can_learn(what, hidden, correlation) -> None:
    torch.manual_seed(0)
    config = MACEConfig(
        atomic_numbers=(1, 6, 7, 8),
        r_max=4.0,
        channels=8,
        hidden_l_max=hidden,
        l_max=3,
        correlation=correlation,
        avg_num_neighbors=5.0,
    )
    small = Potential(MACE(config)).eval()
    larger = {"hidden_l_max": (grow_hidden, hidden + 1), "channels": (widen_channels, 12)}
    grow, size = larger[what]
    large = grow(small, size).eval()
    assert getattr(large.network.config, what) == size
    graph = graphs(small)
    before, after = small(graph), large(graph)
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=1e-10)
    large.train().requires_grad_(True)
    large(graph).forces.square().sum().backward()
    rows = large.network.layers[-1].interaction.linear.weights[0].grad
    known = small.network.layers[-1].interaction.linear.weights[0]
    assert rows.size(0) > known.size(0) and rows.abs().sum(1).min() > 0


@pytest.mark.parametrize("model", ["small", "medium"])
def test_fewer_elements_have_the_same_energies(model: str) -> None:
    archive = open_model(model)
    few = select_elements(archive.potential, (8, 6, 1, 7)).eval()
    assert few.network.config.atomic_numbers == (1, 6, 7, 8)
    before, after = archive.potential(graphs(archive.potential)), few(graphs(few))
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match="some of the model's, H C N O: got H F"):
        select_elements(few, (1, 9))


def test_absent_elements_are_reported_or_left_out(tmp_path, base: Path, caplog) -> None:
    values = tune_settings(tmp_path, base, shift=0.0)
    write_frames(tmp_path / "new.xyz", 16, molecules=("water",))
    config = parse_config(values)
    build_potential(config, prepare_frames(config), base_potential(config))
    assert "no training frame has C, N" in caplog.text
    caplog.clear()
    values["fine_tune"]["elements"] = ["H", "O"]
    potential = train(values)
    assert potential.network.config.atomic_numbers == (1, 8)
    assert "no training frame" not in caplog.text


def test_a_run_starts_from_a_grown_network(tmp_path, base: Path) -> None:
    potential = train(tune_settings(tmp_path, base, shift=0.0, hidden_l_max=1, channels=32))
    known = latest_checkpoint(tmp_path / "run").model_config
    assert potential.network.config.hidden_l_max == known["hidden_l_max"] == 1
    assert potential.network.config.channels == known["channels"] == 32


def test_a_network_does_not_shrink(tmp_path, base: Path) -> None:
    values = tune_settings(tmp_path, base, shift=0.0, hidden_l_max=0)
    known = latest_checkpoint(base.parent).model_config
    grown = Potential(MACE(MACEConfig.from_dict({**known, "hidden_l_max": 1})))
    config = parse_config(values)
    with pytest.raises(ConfigError, match="wanted l = 0, got a network of 2 layers with l = 1"):
        build_potential(config, prepare_frames(config), grown)
    values["fine_tune"] = {"model": str(base), "channels": 8}
    config = parse_config(values)
    with pytest.raises(
        ConfigError,
        match="narrows networks of two layers.*16 channels .the readout.s. or more: got 8",
    ):
        build_potential(config, prepare_frames(config), base_potential(config))
