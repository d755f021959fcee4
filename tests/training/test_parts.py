"""The parts of training one by one: settings, losses, schedules, averages, early stopping."""

import dataclasses

import numpy as np
import pytest
import torch
import yaml

from mace_mm.active.config import read_active_config
from mace_mm.data.dataset import GraphDataset
from mace_mm.data.formats.extxyz import write_extxyz
from mace_mm.data.frames import MemoryFrames
from mace_mm.errors import ConfigError, DataError
from mace_mm.model.potential import Prediction
from mace_mm.training.config import LossConfig, ScheduleConfig, TrainingConfig
from mace_mm.training.config_file import example_yaml, parse_config, read_config
from mace_mm.training.frames import (
    TrainBatch,
    WeightedDataset,
    collate_train,
    gather,
    make_train_loader,
)
from mace_mm.training.run.averaging import WeightAverage
from mace_mm.training.run.loss import Loss, count_labels
from mace_mm.training.run.optimizer import learning_rate
from mace_mm.training.run.progress import Progress
from mace_mm.training.start.setup import build_potential, prepare_frames
from tests.support.training_frames import make_frames, settings, write_frames


def batch_of(n_frames: int, weights: np.ndarray | None = None, **labels: bool) -> TrainBatch:
    graphs = GraphDataset(
        MemoryFrames(make_frames(n_frames)), elements=(1, 6, 7, 8), cutoff=4.0, dtype=torch.float64
    )
    weights = np.ones(n_frames) if weights is None else weights
    dataset = WeightedDataset(graphs, weights)
    return collate_train([dataset[i] for i in range(n_frames)])


def test_repeated_frames_in_batches_of_their_own(tmp_path) -> None:
    for name in ("a", "b"):
        write_frames(tmp_path / f"{name}.xyz", 5)
    values = settings(tmp_path)
    own = {"path": str(tmp_path / "b.xyz"), "repeat": 3, "own_batches": True, "weight": 0.5}
    values["data"] = {
        "train": [{"path": str(tmp_path / "a.xyz")}, own],
        "validation": [{"path": str(tmp_path / "a.xyz")}],
        "batch_size": 4,
    }
    config = parse_config(values)
    frames = gather(config.data.train, config.data, seed=1)
    assert len(frames.source) == 20 and frames.weights.tolist() == [1.0] * 5 + [0.5] * 15
    _, sampler = make_train_loader(
        frames,
        config.data,
        elements=(1, 6, 7, 8),
        cutoff=4.0,
        heads=("default",),
        dtype=torch.float64,
        seed=1,
        shuffle=True,
    )
    files = [{i >= 5 for i in batch} for batch in sampler]
    assert sorted(map(len, files)) == [1] * 6


@pytest.mark.parametrize("by", ["frame", "molecule"])
def test_frames_that_are_train_only_are_not_set_aside(tmp_path, by) -> None:
    for name, n in (("a", 12), ("b", 20)):
        frames = [
            dataclasses.replace(f, subset=name, name=f"{i}") for i, f in enumerate(make_frames(n))
        ]
        write_extxyz(tmp_path / f"{name}.xyz", frames)
    more = {"path": str(tmp_path / "b.xyz"), "train_only": True, "repeat": 2}
    for first in (0, 1):
        files = [{"path": str(tmp_path / "a.xyz")}, more]
        data = {"train": files[first:] + files[:first], "validation_fraction": 0.25, "split_by": by}
        made = prepare_frames(parse_config({**settings(tmp_path), "data": data}))
        subsets = [
            [part.source[i].subset for i in range(len(part.source))]
            for part in (made.train, made.validation)
        ]
        n = len(subsets[1])
        assert 2 <= n <= 4 and subsets[1] == ["a"] * n
        assert sorted(subsets[0]) == ["a"] * (12 - n) + ["b"] * 40
        names = [
            {part.source[i].name for i in range(len(part.source)) if part.source[i].subset == "a"}
            for part in (made.train, made.validation)
        ]
        assert not names[0] & names[1]
    values = {**settings(tmp_path), "data": {"train": [more], "split_by": by}}
    with pytest.raises(DataError, match="all files are train_only"):
        prepare_frames(parse_config(values))


def test_frames_kept_apart_do_not_set_the_scale(tmp_path) -> None:
    frames = make_frames(6)
    stiff = [
        dataclasses.replace(f, forces=1e3 * f.forces, name=f"stiff {f.name}")
        for f in make_frames(3)
    ]
    write_extxyz(tmp_path / "a.xyz", frames)
    write_extxyz(tmp_path / "b.xyz", stiff)
    scales = []
    for own in ([], [{"path": str(tmp_path / "b.xyz"), "own_batches": True}]):
        values = settings(tmp_path)
        usual = {"path": str(tmp_path / "a.xyz")}
        values["data"] = {"train": [usual, *own], "validation": [usual]}
        config = parse_config(values)
        scales.append(float(build_potential(config, prepare_frames(config)).network.scale))
    assert scales[0] == scales[1]


def test_graphs_are_kept_while_there_is_room() -> None:
    graphs = GraphDataset(MemoryFrames(make_frames(6)), elements=(1, 6, 7, 8), cutoff=4.0)
    size = sum(t.nbytes for t in (*graphs[0].graph, *graphs[0][1:]))
    for room, n_kept in ((10**9, 6), (size, 1), (0, 0)):
        dataset = WeightedDataset(graphs, np.ones(6), keep_bytes=room)
        first, second = ([dataset[i] for i in range(6)] for _ in range(2))
        same = [a.batch.energy is b.batch.energy for a, b in zip(first, second, strict=True)]
        assert sum(same) == n_kept
        assert [a.batch.energy for a in first] == [b.batch.energy for b in second]


def prediction_near(item: TrainBatch, seed: int = 0) -> Prediction:
    """The labels plus noise, differentiable."""
    torch.manual_seed(seed)
    energy = (item.batch.energy + torch.randn_like(item.batch.energy)).requires_grad_(True)
    forces = (item.batch.forces + torch.randn_like(item.batch.forces)).requires_grad_(True)
    none = torch.zeros(0)
    return Prediction(none, none, energy, forces, torch.zeros_like(item.batch.stress), none)


def test_the_example_is_valid_and_shows_every_default() -> None:
    shown = yaml.safe_load(example_yaml())
    parsed = parse_config(dict(shown))
    smallest = {
        "output": shown["output"],
        "data": {"train": [{"path": shown["data"]["train"][0]["path"]}]},
        "model": {},
        "stages": [{"epochs": shown["stages"][0]["epochs"]}],
    }
    assert parsed == parse_config(smallest)
    for name, section in (("data", parsed.data), ("run", parsed.run), ("model", parsed.model)):
        assert set(shown[name]) == set(type(section).model_fields)
    assert set(shown["stages"][0]) == set(type(parsed.stages[0]).model_fields)
    assert set(shown["stages"][0]["loss"]) == set(LossConfig.model_fields)
    assert set(shown) | {"fine_tune"} == set(TrainingConfig.model_fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.0.epoch=3", "did you mean 'epochs'"),
        ("stages.0.epochs=many", "stages.0.epochs"),
        ("data.batch_size=0", "data.batch_size"),
        ("stages.0.loss.kind=l3", "stages.0.loss.kind"),
        ("stages.0.loss={energy: 0, forces: 0}", "all weights of the loss are zero"),
        ("fine_tune={model: small}", "either model or fine_tune"),
        ("model.r_max=.nan", "model.r_max"),
        ("stages.7.epochs=1", "there is no '7'"),
        ("seed", "expected key=value"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, change: str, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)))
    with pytest.raises(ConfigError, match="(?s)" + said):
        read_config(path, [change])


def test_a_missing_setting_and_a_file_that_is_no_yaml_are_named(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("output: here\nstages: [{epochs: 1}]\n")
    with pytest.raises(ConfigError, match="data: Field required"):
        read_config(path)
    path.write_text("output: [")
    with pytest.raises(ConfigError, match="not YAML"):
        read_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_losses_are_the_written_sums() -> None:
    item = batch_of(6, weights=np.array([1.0, 2.0, 1.0, 0.5, 1.0, 1.0]))
    prediction = prediction_near(item)
    batch = item.batch
    n_atoms = np.bincount(batch.graph.graph_index.numpy())
    de = (prediction.energy - batch.energy).detach().numpy() / n_atoms
    df = (prediction.forces - batch.forces).detach().numpy()
    w = item.weight.numpy()
    wf = w[batch.graph.graph_index.numpy()][:, None]
    delta = 0.3

    def huber(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x) < delta, 0.5 * x**2, delta * (np.abs(x) - 0.5 * delta))

    expected = {
        "mse": ((w * de**2).mean(), (wf * df**2).mean()),
        "mae": ((w * abs(de)).mean(), (wf[:, 0] * np.linalg.norm(df, axis=1)).mean()),
        "huber": ((w * huber(de)).mean(), (wf * huber(df)).mean()),
        "universal": ((w * huber(de)).mean(), (wf * huber(df)).mean()),
    }
    for kind, (energy, forces) in expected.items():
        loss = Loss(LossConfig(kind=kind, energy=2.0, forces=5.0, huber_delta=delta))
        value = loss.total(loss.terms(prediction, item), count_labels(item))
        assert float(value) == pytest.approx(2.0 * energy + 5.0 * forces, rel=1e-10), kind


def test_relative_energies_ignore_what_all_frames_of_a_molecule_share() -> None:
    item = batch_of(9)
    prediction = prediction_near(item)
    loss = Loss(LossConfig(energy=0, forces=0, relative_energy=1.0))
    value = loss.total(loss.terms(prediction, item), count_labels(item))
    shifts = torch.tensor([5.0, -3.0, 100.0], dtype=torch.float64)[item.batch.molecule_index]
    moved = prediction._replace(energy=prediction.energy + shifts)
    again = loss.total(loss.terms(moved, item), count_labels(item))
    assert float(value) == pytest.approx(float(again), rel=1e-9)
    assert float(value) > 0.01


def test_missing_labels_neither_count_nor_poison_gradients() -> None:
    item = batch_of(4)
    energy = item.batch.energy.clone()
    energy[1] = torch.nan
    forces = item.batch.forces.clone()
    forces[item.batch.graph.graph_index == 2] = torch.nan
    yes = torch.ones(4, dtype=torch.bool)
    energy_mask, forces_mask = yes.clone(), yes.clone()
    energy_mask[1], forces_mask[2] = False, False
    full = prediction_near(item)
    gap = TrainBatch(
        item.batch._replace(
            energy=energy, forces=forces, energy_mask=energy_mask, forces_mask=forces_mask
        ),
        item.weight,
    )
    for kind in ("mse", "mae", "huber", "universal"):
        loss = Loss(LossConfig(kind=kind, relative_energy=1.0))
        value = loss.total(loss.terms(full, gap), count_labels(gap))
        gradients = torch.autograd.grad(value, [full.energy, full.forces])
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in gradients), kind
        assert gradients[0][1] == 0.0
    assert count_labels(gap)[0] == 3


def test_a_step_has_one_loss_however_its_frames_are_shared_out() -> None:
    items = [batch_of(7)]
    dataset = WeightedDataset(
        GraphDataset(
            MemoryFrames(make_frames(7)), elements=(1, 6, 7, 8), cutoff=4.0, dtype=torch.float64
        ),
        np.ones(7),
    )
    parts = [collate_train([dataset[i] for i in range(r, 7, 3)]) for r in range(3)]
    parts.append(collate_train([dataset[~0]]))  # the filler of a process without a frame
    whole = prediction_near(items[0])
    loss = Loss(LossConfig())
    terms, counts = loss.terms(whole, items[0]), count_labels(items[0])
    shared_terms, shared_counts = torch.zeros(4), torch.zeros(3)
    index = items[0].batch.graph.graph_index
    for r, part in enumerate(parts):
        frames = list(range(r, 7, 3)) if r < 3 else [0]
        energy = whole.energy.detach()[frames]
        forces = torch.cat([whole.forces.detach()[index == i] for i in frames])
        share = whole._replace(energy=energy, forces=forces, stress=part.batch.stress * 0)
        shared_terms = shared_terms + loss.terms(share, part)
        shared_counts = shared_counts + count_labels(part)
    torch.testing.assert_close(shared_counts.double(), counts)
    torch.testing.assert_close(shared_terms.double(), terms.detach(), rtol=1e-12, atol=0)


def test_schedules_start_fall_and_warm_up_as_said() -> None:
    def rate(step: int, epoch: int = 0, n: int = 0, **options: object) -> float:
        config = ScheduleConfig(**options)  # type: ignore[arg-type]
        return learning_rate(config, 0.1, step=step, n_steps=100, epoch=epoch, n_reductions=n)

    assert rate(0, kind="cosine") == pytest.approx(0.1)
    assert rate(50, kind="cosine", final_factor=0.0) == pytest.approx(0.05)
    assert rate(100, kind="cosine", final_factor=0.01) == pytest.approx(0.001)
    assert rate(500, kind="cosine", final_factor=0.01) == pytest.approx(0.001)
    assert rate(7, epoch=3, kind="exponential", gamma=0.5) == pytest.approx(0.0125)
    assert rate(7, n=2, kind="plateau", gamma=0.5) == pytest.approx(0.025)
    assert rate(0, kind="constant", warmup_steps=4) == pytest.approx(0.025)
    assert rate(9, kind="constant", warmup_steps=4) == pytest.approx(0.1)


def test_averages_are_averages() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    swa = WeightAverage([parameter], "swa", 0.99)
    ema = WeightAverage([parameter], "ema", 0.9)
    by_hand = torch.zeros(2, dtype=torch.float64)
    seen = []
    rng = np.random.default_rng(0)
    for n in range(1, 30):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(rng.normal(size=2)))
        ema.after_step()
        decay = min(0.9, (1 + n) / (10 + n))
        by_hand = decay * by_hand + (1 - decay) * parameter.detach()
        swa.after_epoch()
        seen.append(parameter.detach().clone())
    torch.testing.assert_close(ema.values[0], by_hand)
    torch.testing.assert_close(swa.values[0], torch.stack(seen).mean(0))
    with swa.applied():
        torch.testing.assert_close(parameter.detach(), swa.values[0])
    torch.testing.assert_close(parameter.detach(), seen[-1])


def test_plateaus_and_patience_are_counted() -> None:
    progress = Progress()
    losses = [5.0, 4.0, 4.5, 4.2, 4.1, 3.0, 3.5]
    reductions, since = [], []
    for loss in losses:
        progress.epoch += 1
        progress.observe(loss, patience=2)
        reductions.append(progress.reductions)
        since.append(progress.since_best)
    assert reductions == [0, 0, 0, 1, 1, 1, 1]
    assert since == [0, 0, 1, 2, 3, 0, 1]
    assert (progress.best_loss, progress.best_epoch) == (3.0, 6)


def test_every_recipe_is_valid(project_root) -> None:
    recipes = sorted((project_root / "examples" / "train").glob("*.yaml"))
    assert len(recipes) >= 8
    for recipe in recipes:
        if recipe.stem == "active":
            assert read_active_config(recipe).label.method == "GFN2-xTB"
            continue
        config = read_config(recipe)
        assert config.name == recipe.stem or recipe.stem == "finetune"
        assert config.data.licence != "unknown"
