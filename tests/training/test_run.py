"""Whole training runs: learning, exact continuation after SIGKILL, two processes, clear errors."""

import copy
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ase
import ase.db
import numpy as np
import pytest
import torch
import yaml

from mace_mm.archive.archive import load_archive
from mace_mm.data.formats.extxyz import write_extxyz
from mace_mm.errors import CheckpointError, ConfigError, DataError, MaceMMError
from mace_mm.graph.batching import build_graph
from mace_mm.training.archive import compile_checkpoint
from mace_mm.training.committee import member_configs
from mace_mm.training.config_file import parse_config, read_config
from mace_mm.training.fast.potential import fast_potential
from mace_mm.training.run.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from mace_mm.training.run.checks import check_same_run
from mace_mm.training.run.devices import make_fabric
from mace_mm.training.run.loop import TrainingLoop
from mace_mm.training.run.restore import check_equal, trained_potential
from mace_mm.training.start.setup import build_potential, prepare_frames
from mace_mm.training.train import base_potential
from tests.support.training_frames import ATOMIC_ENERGIES, make_frames, settings, write_frames

COMMAND = [sys.executable, "-c", "from mace_mm.cli.app import main; main()", "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes started here: sums over several threads have other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(values: dict, base: object = None) -> Checkpoint:
    config = parse_config(values)
    frames = prepare_frames(config)
    fabric = make_fabric(config.run, Path(config.output))
    TrainingLoop(config, frames, fabric=fabric, base=base or base_potential(config)).run()
    found = latest_checkpoint(Path(config.output))
    assert found is not None
    return found


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    """Every number of two runs is equal to the last bit."""
    assert a.progress == b.progress
    assert a.weights.keys() == b.weights.keys()
    for name in a.weights:
        assert torch.equal(a.weights[name], b.weights[name]), name
    for one, other in ((a.average, b.average), (a.best, b.best)):
        assert len(one) == len(other) > 0
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
    assert a.optimizer["param_groups"] == b.optimizer["param_groups"]
    for key, state in a.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(value, b.optimizer["state"][key][name]), (key, name)
    assert torch.equal(a.rng, b.rng)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict, Checkpoint]:
    """Settings and end of a run that nothing interrupted."""
    values = settings(tmp_path_factory.mktemp("undisturbed"))
    return values, run(values)


def test_a_run_learns_and_its_history_is_complete(tmp_path) -> None:
    values = settings(tmp_path)
    values["data"]["train"] = [{"path": str(write_frames(tmp_path / "more.xyz", 90))}]
    values["model"] |= {"channels": 8}
    values["stages"] = [{"epochs": 10, "learning_rate": 0.02}]
    history = run(values).progress["history"]
    assert [row["epoch"] for row in history] == list(range(1, 11))
    assert history[-1]["validation_forces_rmse"] < 0.5 * history[0]["validation_forces_rmse"]
    labels = np.concatenate([f.forces.ravel() for f in make_frames(90)])
    assert history[-1]["validation_forces_rmse"] < 0.3 * np.sqrt((labels**2).mean())
    lines = (Path(values["output"]) / "history.csv").read_text().splitlines()
    assert len(lines) == 11


def test_killed_again_and_again_the_run_ends_in_the_same_bits(tmp_path, undisturbed) -> None:
    values, expected = undisturbed
    values = {**values, "output": str(tmp_path / "killed"), "name": "again"}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    folder = Path(values["output"])
    rng = np.random.default_rng(0)
    kills = 0
    for _attempt in range(12):
        process = subprocess.Popen(
            [*COMMAND, str(path)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        before = newest_step(folder)
        if kills < 3:
            # Let it take a few more steps, then kill it wherever it is.
            deadline = time.monotonic() + 120
            wanted = before + int(rng.integers(1, 5))
            while newest_step(folder) < wanted and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(float(rng.uniform(0, 0.02)))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        _, errors = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors.decode()
    assert kills >= 2
    found = latest_checkpoint(folder)
    assert found is not None and found.progress["finished"]
    assert_same(found, expected)
    history = Path(undisturbed[0]["output"]) / "history.csv"
    assert (folder / "history.csv").read_bytes() == history.read_bytes()
    assert not list(folder.glob(".partial-*"))
    metadata = load_archive(folder / "again.pt").metadata
    assert metadata.results["steps"] == found.progress["step"]
    # What simulations may expect of the model.
    assert metadata.total_charges == (0,)
    training = prepare_frames(parse_config(expected.config)).train.source
    hydrogens = [
        float(np.linalg.norm(a - b))
        for molecule in (training[i].molecule for i in range(len(training)))
        for a, b in itertools.combinations(molecule.positions[molecule.atomic_numbers == 1], 2)
    ]
    assert metadata.shortest_distances["H-H"] == pytest.approx(min(hydrogens), abs=1e-4)
    assert "C-O" not in metadata.shortest_distances


def newest_step(folder: Path) -> int:
    paths = list_checkpoints(folder)
    return int(paths[-1].stem.split("-")[1]) if paths else -1


def test_a_truncated_checkpoint_falls_back_to_the_one_before_loudly(
    tmp_path, undisturbed, caplog
) -> None:
    values, expected = undisturbed
    values = {**values, "output": str(tmp_path / "run")}
    values["run"] = {**values["run"], "keep_checkpoints": 100}
    end = run(values)
    assert_same(end, expected)
    paths = list_checkpoints(Path(values["output"]))
    for path in paths[8:]:
        path.unlink()
    whole = paths[7].read_bytes()
    paths[7].write_bytes(whole[: len(whole) // 2])
    assert_same(run(values), expected)
    assert "falling back" in caplog.text and paths[7].name in caplog.text
    # A flipped bit in the middle is found by the checksums.
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    paths[7].write_bytes(bytes(damaged))
    with pytest.raises(CheckpointError):
        load_checkpoint(paths[7])


def test_foreign_and_newer_checkpoints_are_refused(tmp_path, undisturbed) -> None:
    values, _ = undisturbed
    path = list_checkpoints(Path(values["output"]))[-1]
    content = torch.load(path, weights_only=True)
    newer = tmp_path / "newer" / "checkpoint-000000001.pt"
    newer.parent.mkdir()
    old = f'"format_version": {FORMAT_VERSION}'
    assert old in content["header"]
    header = content["header"].replace(old, f'"format_version": {FORMAT_VERSION + 1}')
    torch.save({**content, "header": header}, newer)
    with pytest.raises(CheckpointError, match="update mace_mm"):
        latest_checkpoint(newer.parent)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "checkpoint-1.pt")
    with pytest.raises(CheckpointError, match="not a mace_mm checkpoint"):
        load_checkpoint(tmp_path / "checkpoint-1.pt")
    (tmp_path / "checkpoint-1.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        latest_checkpoint(tmp_path)


def test_other_settings_do_not_continue_a_run(undisturbed) -> None:
    values, _ = undisturbed
    with pytest.raises(ConfigError, match=r"other settings \(seed differ\)"):
        run({**values, "seed": 5})


def test_a_run_of_an_older_version_continues(tmp_path, undisturbed) -> None:
    values, expected = undisturbed
    config = copy.deepcopy(expected.config)
    del config["data"]["train"][0]["elements"]
    older = replace(expected, config=config)
    check_same_run(older, parse_config(values), tmp_path)
    with pytest.raises(ConfigError, match="data differ"):
        changed = {**values, "data": {**values["data"], "batch_size": 3}}
        check_same_run(older, parse_config(changed), tmp_path)


def test_two_processes_give_the_losses_of_one(tmp_path, undisturbed) -> None:
    values, expected = undisturbed
    values = {**values, "output": str(tmp_path / "two")}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    script = tmp_path / "train.py"
    script.write_text("from mace_mm.cli.app import main\nmain()\n")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), "train", str(path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = latest_checkpoint(Path(values["output"]))
    assert found is not None
    rows = zip(found.progress["history"], expected.progress["history"], strict=True)
    for got, wanted in rows:
        for name in wanted:
            assert got[name] == pytest.approx(wanted[name], rel=1e-6), name


def test_the_archive_reproduces_the_checkpoint_and_a_wrong_one_is_caught(
    tmp_path, undisturbed
) -> None:
    values, checkpoint = undisturbed
    path = list_checkpoints(Path(values["output"]))[-1]
    compile_checkpoint(path, tmp_path / "model.pt")
    archive = load_archive(tmp_path / "model.pt")
    assert archive.metadata.results["validation"]["epoch"] == checkpoint.progress["best_epoch"]
    wrong = trained_potential(checkpoint)
    with torch.no_grad():
        wrong.network.embedding.weight[0, 0] += 1e-3
    with pytest.raises(CheckpointError, match="does not reproduce"):
        check_equal(checkpoint, None, "best", wrong)


def test_a_committee_has_different_members(tmp_path) -> None:
    values = settings(tmp_path)
    members = member_configs(parse_config(values), 3)
    assert [m.seed for m in members] == [0, 1, 2]
    assert len({m.output for m in members}) == 3
    weights = [
        build_potential(m, prepare_frames(m)).network.embedding.weight.detach() for m in members[:2]
    ]
    assert not torch.equal(*weights)


def test_ase_databases_are_opened_with_labels_of_any_name(tmp_path) -> None:
    made = make_frames(12)
    with ase.db.connect(str(tmp_path / "frames.db")) as database:
        for frame in made:
            molecule = frame.molecule
            database.write(
                ase.Atoms(molecule.atomic_numbers, molecule.positions),
                dft_energy=frame.energy,
                data={"dft_forces": frame.forces},
            )
    files = {
        "path": str(tmp_path / "frames.db"),
        "head": "own",
        "energy_key": "dft_energy",
        "forces_key": "dft_forces",
    }
    values = settings(tmp_path)
    values["data"] = {"train": [files], "split_by": "frame"}
    frames = prepare_frames(parse_config(values))
    found = [*map(frames.train.source.__getitem__, range(len(frames.train.source)))]
    found += [*map(frames.validation.source.__getitem__, range(len(frames.validation.source)))]
    assert {f.head for f in found} == {"own"}
    found.sort(key=lambda frame: frame.energy)
    made.sort(key=lambda frame: frame.energy)
    for got, wanted in zip(found, made, strict=True):
        assert got.energy == wanted.energy
        np.testing.assert_array_equal(got.forces, wanted.forces)


def test_only_frames_of_wanted_elements(tmp_path, caplog) -> None:
    values = settings(tmp_path)
    values["data"]["train"][0]["elements"] = ["H", "O", "N"]
    with caplog.at_level("INFO", logger="mace_mm"):
        frames = prepare_frames(parse_config(values))
    assert len(frames.train.source) + len(frames.validation.source) == 16
    assert {e.subset for e in frames.train.source.entries} == {"water", "ammonia"}
    assert "8 of 24 frames" in caplog.text


RECIPES = Path(__file__).parents[2] / "examples" / "train"


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_spice_recipes_on_a_slice(size: str, shared_dir: Path, tmp_path: Path) -> None:
    """The network and the data of the recipe, and one step of it; small batches, few frames."""
    config = read_config(
        RECIPES / f"spice_{size}.yaml", ["data.n_workers=0", f"output={tmp_path / 'run'}"]
    ).model_dump(mode="json")
    folder = shared_dir / "data"
    files = [folder / "spice" / "SPICE-1.1.4_n2.hdf5"]
    files += sorted((folder / "spice-labelled").glob("*_train.xyz"))
    config["data"]["train"] = [{**config["data"]["train"][0], "path": str(f)} for f in files]
    # Isolated ions of the slice have other elements.
    frames = prepare_frames(parse_config(config))
    assert 300 < len(frames.train.source) < 400
    potential = build_potential(parse_config(config), frames)
    sizes = {"small": (96, 0), "medium": (128, 1), "large": (192, 2)}
    network = potential.network.config
    assert (network.channels, network.hidden_l_max) == sizes[size]
    assert network.atomic_numbers == (1, 6, 7, 8, 9, 15, 16, 17, 35)  # no iodine in the slice
    frame = frames.train.source[0].molecule
    graph = build_graph(frame, network.atomic_numbers, network.r_max, torch.float32)
    predict = fast_potential(potential) or potential
    predict(graph).forces.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in potential.parameters() if p.grad is not None)


def nan_label(folder: Path) -> dict:
    path = write_frames(folder / "nan.xyz", 6)
    lines = path.read_text().splitlines()
    lines[2] = " ".join([*lines[2].split()[:-1], "nan"])
    path.write_text("\n".join(lines) + "\n")
    return {"train": [{"path": str(path)}], "split_by": "frame"}


@pytest.mark.parametrize(
    ("make", "said", "error"),
    [
        (lambda f: {"data": nan_label(f)}, "finite", DataError),
        (lambda f: {"atomic_energies": {"H": -13.0}}, "lack C N O", DataError),
        (lambda f: {"atomic_energies": "isolated"}, "no training frame is one atom", ConfigError),
        (lambda f: {"atomic_energies": {"x": {"H": 1.0}}}, "heads \\['x'\\]", ConfigError),
        (lambda f: {"model": {"elements": [1, 8]}}, "lacks elements of the data: C N", ConfigError),
        (
            lambda f: {"data": {"train": [{"path": str(f / "no.xyz")}]}},
            "no such file",
            DataError,
        ),
        (
            lambda f: {"data": {"train": [{"path": str(f / "frames.dat")}]}},
            "must end in .hdf5",
            ConfigError,
        ),
        (
            lambda f: {"data": {"train": [{"path": "a.h5", "stress_key": "stress"}]}},
            "unknown keys stress",
            ConfigError,
        ),
        (
            lambda f: {"data": {"train": [{"path": "a.h5", "repeat": 2}]}},
            "repeat needs data.validation files",
            ConfigError,
        ),
        (
            lambda f: {
                "fine_tune": {"model": "small", "freeze": ["head"]},
                "model": None,
                "atomic_energies": "fit",
            },
            "'head' names no part",
            ConfigError,
        ),
    ],
)
def test_bad_input_stops_a_run_before_it_starts(tmp_path, make, said, error) -> None:
    values = settings(tmp_path)
    values.update(make(tmp_path))
    with pytest.raises(error, match=said):
        run(values)
    assert not list_checkpoints(tmp_path / "run")


def test_a_full_disk_is_a_clear_error_and_leaves_the_last_checkpoint(tmp_path) -> None:
    values = settings(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    # No file may grow beyond 20 kB: what a write to a full disk looks like to the program.
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); " + COMMAND[2]
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "train", str(path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("*"))


def test_a_history_that_cannot_be_written_is_a_clear_error(tmp_path) -> None:
    values = settings(tmp_path)
    (tmp_path / "run" / "history.csv.partial").mkdir(parents=True)
    with pytest.raises(MaceMMError, match="history.csv cannot be written: Is a directory"):
        run(values)


def test_a_run_that_explodes_says_so(tmp_path) -> None:
    values = settings(tmp_path)
    values["stages"] = [{"epochs": 30, "learning_rate": 1e12}]
    values["optimizer"] = {"clip_norm": None}
    with pytest.raises(MaceMMError, match="not a number at step"):
        run(values)


def test_early_stopping_ends_a_stage(tmp_path) -> None:
    values = settings(tmp_path)
    # A rate of nearly nothing: no epoch is better by chance for long.
    values["stages"] = [
        {"epochs": 50, "learning_rate": 1e-30, "early_stopping": 2, "averaging": "none"}
    ]
    history = run(values).progress["history"]
    assert len(history) == 3


def test_isolated_atoms_give_their_energies_and_are_not_trained_on(tmp_path) -> None:
    from mace_mm.data.labels import LabeledMolecule
    from mace_mm.graph.molecule import Molecule

    atoms = [
        LabeledMolecule(
            molecule=Molecule(atomic_numbers=np.array([z]), positions=np.zeros((1, 3))),
            energy=ATOMIC_ENERGIES[s],
            forces=np.zeros((1, 3)),
            name=s,
        )
        for z, s in ((1, "H"), (6, "C"), (7, "N"), (8, "O"))
    ]
    write_extxyz(tmp_path / "with_atoms.xyz", [*make_frames(12), *atoms])
    values = settings(tmp_path, atomic_energies="isolated")
    values["data"]["train"] = [{"path": str(tmp_path / "with_atoms.xyz")}]
    config = parse_config(values)
    frames = prepare_frames(config)
    assert len(frames.train.source) + len(frames.validation.source) == 12
    potential = build_potential(config, frames)
    assert potential.atomic_energies.values[0].tolist() == list(ATOMIC_ENERGIES.values())
