"""Data larger than memory: only an index and a bounded cache are held, in workers too."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mace_mm.data.dataset import BucketSampler, GraphDataset, make_loader
from mace_mm.data.formats.extxyz import ExtxyzFile, write_extxyz
from mace_mm.data.formats.spice import SpiceFile
from mace_mm.data.formats.spice_writer import write_spice
from mace_mm.data.frames import SubsetFrames
from mace_mm.data.labels import ConformerSet, frame_sizes

N_GROUPS, N_FRAMES, N_ATOMS = 30, 300, 150


def entries():
    for group in range(N_GROUPS):
        rng = np.random.default_rng(group)
        n_atoms = N_ATOMS - group
        yield ConformerSet(
            name=f"m{group:02d}",
            atomic_numbers=rng.choice([1, 6, 8], n_atoms),
            positions=rng.normal(size=(N_FRAMES, n_atoms, 3)) * 10,
            energies=1000.0 * group + np.arange(N_FRAMES),
            forces=rng.normal(size=(N_FRAMES, n_atoms, 3)),
            formation_energies=np.zeros(N_FRAMES),
        )


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "big.hdf5"
    write_spice(path, entries())
    assert path.stat().st_size > 25e6
    return path


READ_ALL = """
import sys
import numpy as np
from mace_mm.data.formats.spice import SpiceFile

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

source = SpiceFile(sys.argv[1], cache_bytes=int(sys.argv[2]))
source[0]
before = resident()
total = sum(source[int(i)].energy for i in range(len(source)))
print(total, resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_memory_stays_bounded(big):
    def growth(cache_bytes):
        done = subprocess.run(
            [sys.executable, "-c", READ_ALL, str(big), str(cache_bytes)],
            capture_output=True,
            text=True,
            check=True,
        )
        total, megabytes = map(float, done.stdout.split())
        n = N_GROUPS * N_FRAMES
        assert total == pytest.approx(1000 * N_FRAMES * sum(range(N_GROUPS)) + n * 149.5)
        return megabytes

    # Everything in float64 is 58 MB; with a cache for two groups it must stay far below.
    assert growth(5_000_000) < 20 < 40 < growth(10**9)


def test_workers_stream_every_frame_once(big):
    whole = SpiceFile(big, cache_bytes=5_000_000)
    chosen = np.arange(0, len(whole), 5)
    source = SubsetFrames(whole, chosen)
    dataset = GraphDataset(source, elements=(1, 6, 8), cutoff=3.0)
    sampler = BucketSampler(frame_sizes(source), batch_size=64, pool_batches=8)
    seen = []
    for batch in make_loader(dataset, sampler, n_workers=2):
        seen.append(batch.energy.numpy())
        sizes = batch.graph.graph_index.bincount()
        assert sizes.max() - sizes.min() <= N_GROUPS
    expected = 1000.0 * (chosen // N_FRAMES) + chosen % N_FRAMES
    np.testing.assert_allclose(np.sort(np.concatenate(seen)), expected, rtol=1e-12, atol=1e-6)


def test_extxyz_is_read_where_the_frame_lies(big, tmp_path):
    source = SpiceFile(big)
    path = tmp_path / "part.xyz"
    chosen = np.random.default_rng(0).permutation(len(source))[:200]
    write_extxyz(path, (source[int(i)] for i in chosen))
    part = ExtxyzFile(path)
    for k in (199, 0, 57):
        assert part[k].energy == source[int(chosen[k])].energy
    # Only places in the file and one entry a molecule are kept.
    assert len(part._offsets) == 200 and len(part.entries) <= N_GROUPS
