"""What the watch of a run says: of molecules that are well, and of time steps that are too long.

    python benchmarks/accuracy/watch_check.py SHARED OUT.json [--count N] [--ps T]

Molecules of FreeSolv at 300 and 500 K with 1 fs, looked at every 10 steps: whatever is found is a
false alarm (or a reaction, which OUT.json names). Ibuprofen, ethanol and methane with steps up to
5 fs: when the watch ends the run. OUT.json is written after every run; one that is there is not
repeated. One thread.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import torch
from stability import freesolv

from mace_mm.archive.open_model import open_model
from mace_mm.errors import GeometryError, RunStoppedError
from mace_mm.simulation.ligand import Ligand, load_ligand
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.simulate import read_summary, simulate
from mace_mm.simulation.watch.settings import WatchSettings

TEMPERATURES_K = (300.0, 500.0)
TIMESTEPS_FS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
LONG_STEPS_OF = {"ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "ethanol": "CCO", "methane": "C"}
LOG_INTERVAL = 10


def watched(ligand: Ligand, temperature_k: float, timestep_fs: float, ps: float) -> dict:
    """One run: how it ended, what was found, and what looking cost."""
    steps = LOG_INTERVAL * round(1e3 * ps / timestep_fs / LOG_INTERVAL)
    settings = RunSettings(
        steps=steps,
        timestep_fs=timestep_fs,
        temperature_k=temperature_k,
        log_interval=LOG_INTERVAL,
        frame_interval=steps,
        checkpoint_interval=steps,
        platform="Reference",
    )
    with tempfile.TemporaryDirectory() as folder:
        # How it ended stands in the summary.
        with contextlib.suppress(RunStoppedError, GeometryError):
            simulate(ligand, Path(folder), settings, watch=WatchSettings())
        summary = read_summary(Path(folder))
    if summary.seen is None:
        raise SystemExit("nobody watched")
    n_looks = summary.seen["looks"]
    return {
        "smiles": ligand.smiles,
        "n_atoms": ligand.n_atoms,
        "ps": round(summary.result.step * timestep_fs * 1e-3, 3),
        "stopped_by": summary.result.stopped_by,
        "findings": [[finding.step, finding.text] for finding in summary.findings],
        "looks": n_looks,
        "ms_a_look": round(1e3 * summary.seen["seconds"] / n_looks, 4),
        "ms_a_step": round(1e3 * summary.result.elapsed_s / max(summary.result.step, 1), 4),
        "largest_force_error": summary.seen["largest_force_error_ev_per_angstrom"],
        "ms_a_force_error": round(
            1e3 * summary.seen["force_error_seconds"] / max(summary.seen["force_error_looks"], 1), 2
        ),
    }


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=12, help="molecules of FreeSolv")
    parser.add_argument("--ps", type=float, default=10.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    archive = open_model(None)
    content = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    content["model"] = archive.sha256
    jobs = []
    for dt in TIMESTEPS_FS:
        for name, smiles in LONG_STEPS_OF.items():
            jobs.append(("timesteps", f"{name} {dt:g} fs", load_ligand(smiles), 300.0, dt))
    for name, ligand in freesolv(
        arguments.shared, set(archive.config.atomic_numbers), arguments.count
    ):
        for temperature in TEMPERATURES_K:
            jobs.append(("freesolv", f"{name} {temperature:g} K", ligand, temperature, 1.0))
    for group, name, ligand, temperature, dt in jobs:
        runs = content.setdefault(group, {})
        if name not in runs:
            runs[name] = watched(ligand, temperature, dt, arguments.ps)
            arguments.out.write_text(json.dumps(content, indent=1) + "\n")
            print(name, runs[name]["stopped_by"] or "went to its end", flush=True)


if __name__ == "__main__":
    main()
