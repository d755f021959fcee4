"""The archive: what goes in comes out, and damage is reported in one sentence."""

import dataclasses
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from mace_mm.archive.archive import (
    FORMAT_VERSION,
    METADATA_NAME,
    Archive,
    ArchiveMetadata,
    load_archive,
    make_archive,
    read_header,
    save_archive,
)
from mace_mm.archive.open_model import open_model
from mace_mm.archive.select_head import select_head
from mace_mm.errors import ArchiveError, ConfigError, UnsupportedModelError
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

POSITIONS = torch.tensor(
    [[0.0, 0.0, 0.1], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [0.3, 0.2, 2.9]], dtype=torch.float64
)
NUMBERS = torch.tensor([8, 1, 1, 6])


def small_potential(**changes: object) -> Potential:
    torch.manual_seed(5)
    settings = {"atomic_numbers": (1, 6, 8), "r_max": 4.0, "channels": 4, "hidden_l_max": 1}
    network = MACE(MACEConfig(**{**settings, **changes}))  # type: ignore[arg-type]
    n_heads = len(network.config.heads)
    e0 = torch.tensor([[-13.6, -1030.0, -2043.0]] * n_heads, dtype=torch.float64)
    return Potential(network, e0 - torch.arange(n_heads).unsqueeze(1)).eval()


@pytest.fixture()
def saved(tmp_path: Path) -> tuple[Path, Archive]:
    metadata = ArchiveMetadata(name="tiny", total_charges=(0,), results={"mae": 1.5})
    archive = make_archive(small_potential(), metadata)
    path = tmp_path / "tiny.pt"
    save_archive(path, archive)
    return path, archive


def test_round_trip_is_exact(saved: tuple[Path, Archive]) -> None:
    path, archive = saved
    again = load_archive(path)
    assert again.sha256 == archive.sha256
    assert again.metadata == archive.metadata
    assert again.config == archive.config
    for name, value in archive.potential.state_dict().items():
        assert torch.equal(again.potential.state_dict()[name], value), name


def test_plain_torch_opens_it(saved: tuple[Path, Archive]) -> None:
    path, archive = saved
    module = torch.jit.load(str(path))
    cell = torch.eye(3, dtype=torch.float64) * 3.0
    from mace_mm.archive.portable import PortableModel

    eager = PortableModel(archive.potential, archive.config.atomic_numbers)
    for box in (None, cell):
        got, want = module(POSITIONS, NUMBERS, box), eager(POSITIONS, NUMBERS, box)
        for key, value in want.items():
            torch.testing.assert_close(got[key], value, rtol=1e-12, atol=1e-12)
    with pytest.raises(torch.jit.Error, match="not trained"):
        module(POSITIONS, torch.tensor([8, 1, 1, 7]))


def test_float32_weights_are_stored_in_float32(tmp_path: Path) -> None:
    rounded = small_potential(channels=32).float()
    path32, path64 = tmp_path / "32.pt", tmp_path / "64.pt"
    save_archive(path32, make_archive(rounded, ArchiveMetadata(name="a")))
    save_archive(path64, make_archive(small_potential(channels=32), ArchiveMetadata(name="a")))
    assert path32.stat().st_size < 0.7 * path64.stat().st_size
    e0 = load_archive(path32).potential.atomic_energies.values
    assert e0.dtype == torch.float64
    assert e0[0].tolist() == [-13.6, -1030.0, -2043.0]


@pytest.mark.parametrize("keep", [0, 10, 2000, -200])
def test_truncated_file(saved: tuple[Path, Archive], keep: int) -> None:
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArchiveError):
        open_model(path)


def test_every_damaged_byte_is_noticed_or_harmless(saved: tuple[Path, Archive]) -> None:
    path, archive = saved
    content = path.read_bytes()
    for at in range(100, len(content), len(content) // 40):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        path.write_bytes(bytes(damaged))
        try:
            again = open_model(path)
        except ArchiveError:
            continue
        assert again.sha256 == archive.sha256


def rewrite_header(path: Path, **changes: object) -> None:
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    key = next(n for n in entries if n.endswith(METADATA_NAME))
    header = {**json.loads(entries[key]), **changes}
    entries[key] = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, value in entries.items():
            new.writestr(name, value)


def test_newer_format_and_changed_content(saved: tuple[Path, Archive]) -> None:
    path, _ = saved
    header = read_header(path)
    rewrite_header(path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ArchiveError, match="update mace_mm"):
        load_archive(path)
    changed = {**header["config"], "avg_num_neighbors": 2.0}
    rewrite_header(path, format_version=FORMAT_VERSION, config=changed)
    with pytest.raises(ArchiveError, match="hash"):
        load_archive(path)


def test_foreign_files(tmp_path: Path) -> None:
    text = tmp_path / "text.pt"
    text.write_text("not a model")
    with pytest.raises(ArchiveError, match="not a model file"):
        open_model(text)
    tensors = tmp_path / "tensors.pt"
    torch.save({"weight": torch.ones(3)}, tensors)
    with pytest.raises(ArchiveError, match="not a mace-torch model"):
        open_model(tensors)
    with pytest.raises(ArchiveError, match="does not exist"):
        open_model(tmp_path / "missing.pt")
    with pytest.raises(ArchiveError, match="folder"):
        open_model(tmp_path)


class Bomb:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        import os

        return (os.system, ("touch exploded",))


def test_a_pickle_bomb_stays_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.model"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("bomb/data.pkl", pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(ArchiveError):
        open_model(path)
    assert not (tmp_path / "exploded").exists()


def test_unsupported_published_model_lists_reasons(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "reference" / "off_L0.model"
    path = tmp_path / "other.model"
    old, new = b"RealAgnosticInteractionBlock", b"RealAgnosticDensitieractionB"
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(old, new))
    with pytest.raises(UnsupportedModelError, match="RealAgnosticDensitieractionB in layer 0"):
        open_model(path)


def test_heads_are_selected_one_by_one() -> None:
    both = small_potential(heads=("dft", "xtb"))
    with pytest.raises(ConfigError, match="one head"):
        make_archive(both, ArchiveMetadata(name="x"))
    with pytest.raises(ConfigError, match="choose one"):
        select_head(both, None)
    from mace_mm.archive.portable import PortableModel

    energies = []
    for i, name in enumerate(("dft", "xtb")):
        single = select_head(both, name)
        graph_energy = PortableModel(single, (1, 6, 8))(POSITIONS, NUMBERS)["energy"]
        both.network.config = dataclasses.replace(both.network.config)
        wanted = _energy_of_head(both, i)
        torch.testing.assert_close(graph_energy, wanted, rtol=0, atol=1e-10)
        energies.append(float(graph_energy))
    assert abs(energies[0] - energies[1]) > 1.0


def _energy_of_head(potential: Potential, head: int) -> torch.Tensor:
    from mace_mm.graph.cell_list import full_neighbor_list
    from mace_mm.graph.graph import Graph

    senders, receivers, shifts = full_neighbor_list(
        POSITIONS, torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool), 4.0
    )
    graph = Graph(
        species=torch.tensor([2, 0, 0, 1]),
        positions=POSITIONS,
        senders=senders,
        receivers=receivers,
        cell_shifts=shifts,
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        graph_index=torch.zeros(4, dtype=torch.int64),
    )
    return potential(graph, torch.tensor([head])).energy[0]
