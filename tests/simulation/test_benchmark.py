"""The benchmark: its systems, its numbers, and peers that answer or fail."""

import json
import sys
import textwrap

import numpy as np
import pytest

from mace_mm.archive.open_model import open_model
from mace_mm.cli.app import main
from mace_mm.errors import InputError
from mace_mm.kernels import ops
from mace_mm.simulation.benchmark import page as benchmark_report
from mace_mm.simulation.benchmark.timing import make_system, run_benchmark

PEER = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import numpy as np
    systems = {}
    for path in Path(sys.argv[2]).glob("*.npz"):
        data = np.load(path)
        systems[path.stem] = {"times": [0.5, 1.0], "forces": data["frames"][0].tolist()}
    print("a line of its own")
    print(json.dumps({"name": "peer 1.0", "threads": 3, "systems": systems}))
    """
)


def test_systems_are_what_they_say():
    ligand, water = make_system(27), make_system(200)
    assert len(ligand.numbers) == 27 and not ligand.cell.any()
    assert len(water.numbers) == 192 and (water.numbers == 8).sum() == 64
    density = 64 * 18.015 / 6.022e23 / (np.linalg.det(water.cell) * 1e-24)
    assert density == pytest.approx(0.997, abs=0.002)
    moved = np.abs(np.diff(water.frames, axis=0)).max()
    assert 0.005 < moved < 0.1
    with pytest.raises(InputError, match="got 8"):
        make_system(8)


def test_peers_that_answer_and_peers_that_fail(tmp_path):
    (tmp_path / "peer.py").write_text(PEER)
    (tmp_path / "bad.py").write_text("raise SystemExit('no such model')")
    reference = tmp_path / "model.model"
    reference.write_bytes(b"")  # the peer of this test does not read it
    archive, systems = open_model(), [make_system(27)]
    found = run_benchmark(
        archive,
        systems,
        model_path=reference,
        engines=["native", "reference"],
        peers={
            "good": f"{sys.executable} {tmp_path / 'peer.py'}",
            "bad": f"{sys.executable} {tmp_path / 'bad.py'}",
            "absent": "/no/such/python peer.py",
        },
        seconds=0.05,
    )
    by_name = {t.engine: t for t in found.timings}
    peer = by_name["peer 1.0"]
    assert (peer.median_ms, peer.fastest_ms, peer.threads) == (750.0, 500.0, 3)
    assert peer.force_difference > 0.1
    ours = [t for name, t in by_name.items() if name.startswith("mace_mm")]
    assert len(ours) == (1 if ops.ENGINE is None else 2)
    assert all(t.force_difference < 1e-4 and t.n_calls >= 3 for t in ours)
    assert len(found.notes) == (2 if ops.ENGINE is not None else 3)
    assert "no such model" in " ".join(found.notes) and "did not run" in " ".join(found.notes)
    slowest = next(row for row in benchmark_report.rows(found) if row[1] == "peer 1.0")
    assert slowest[5] == "1.0"
    with pytest.raises(InputError, match="peers read a mace-torch"):
        run_benchmark(archive, systems, peers={"good": "x"})


def test_command_writes_a_table_a_plot_and_numbers(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "-n", "24", "-e", "reference", "--seconds", "0.1", "-o", str(tmp_path)])
    assert stopped.value.code == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert [t["n_atoms"] for t in found["timings"]] == [24]
    assert "threads" in found["machine"]
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    assert "| 24 | mace_mm reference" in (tmp_path / "benchmark.md").read_text()
