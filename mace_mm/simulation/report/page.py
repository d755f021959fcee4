"""The report of a run: one HTML file with its pictures inside."""

import base64
import html
from pathlib import Path

import numpy as np
from openmm import app

from mace_mm.errors import DataError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.simulation.report import plots
from mace_mm.simulation.report.analysis import bond_lengths, heavy_atoms, rmsd
from mace_mm.simulation.report.verdict_box import VERDICT_STYLE, verdict_box
from mace_mm.simulation.run.loop import (
    CHECKPOINT_NAME,
    EVENT_NAME,
    LOG_NAME,
    TOPOLOGY_NAME,
    TRAJECTORY_NAME,
)
from mace_mm.simulation.run.summary import SUMMARY_NAME, RunSummary, read_summary
from mace_mm.simulation.run.trajectory import read_frames, read_log
from mace_mm.units import NM_TO_ANGSTROM

REPORT_NAME = "report.html"
RUN_FILES = (
    CHECKPOINT_NAME,
    LOG_NAME,
    TOPOLOGY_NAME,
    TRAJECTORY_NAME,
    SUMMARY_NAME,
    REPORT_NAME,
    EVENT_NAME,
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0.2rem; overflow-wrap: anywhere; }}
.note {{ color: #a33; font-weight: 600; }}
{verdict_style}
.top {{ display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; margin: 1rem 0; }}
.top img {{ width: 390px; max-width: 100%; border: 1px solid #e2e2e2; border-radius: 6px; }}
table {{ border-collapse: collapse; flex: 1 1 420px; }}
th, td {{ text-align: left; padding: 0.18rem 0.8rem 0.18rem 0; vertical-align: top; }}
th {{ font-weight: 600; white-space: nowrap; }}
td {{ overflow-wrap: anywhere; }}
tr + tr {{ border-top: 1px solid #eee; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1rem; }}
figure {{ margin: 0; }}
figure img {{ width: 100%; }}
figcaption {{ color: #555; font-size: 0.9rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{verdict}
{note}
<div class="top">{drawing}<table>{rows}</table></div>
<div class="plots">{figures}</div>
</body>
</html>
"""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the files of a run; returns its path.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    summary = read_summary(folder)
    log = read_log(folder / LOG_NAME)
    frames = read_frames(folder / TRAJECTORY_NAME)
    topology_path = folder / TOPOLOGY_NAME
    if not topology_path.is_file():
        raise DataError(f"no start structure {topology_path}")
    topology = app.PDBFile(str(topology_path)).topology
    page = _PAGE.format(
        title=html.escape(f"Molecular dynamics of {summary.ligand}"),
        verdict_style=VERDICT_STYLE,
        verdict=verdict_box(summary.verdict),
        note=_note(summary),
        drawing=_drawing(summary),
        rows="".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in _facts(summary, log)
        ),
        figures="".join(_figures(summary, log, frames, topology)),
    )
    path = folder / REPORT_NAME
    write_atomically(path, page.encode())
    return path


def _note(summary: RunSummary) -> str:
    # What ended by itself says so in its verdict.
    if summary.result.completed or summary.result.stopped_by is not None:
        return ""
    done, wanted = summary.result.step, summary.settings.steps
    return f'<p class="note">Stopped at step {done} of {wanted}.</p>'


def _image(png: bytes, alternative: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alternative)}">'


def _drawing(summary: RunSummary) -> str:
    if summary.smiles is None:
        return ""
    atoms = {atom for finding in summary.findings for atom in finding.atoms}
    # A run of a former version does not know where its atoms are in the drawing.
    marked = {summary.smiles_atoms[k] for k in atoms if k < len(summary.smiles_atoms)}
    return _image(plots.draw_molecule(summary.smiles, marked), summary.smiles)


def _facts(summary: RunSummary, log: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    settings, result = summary.settings, summary.result
    # The first fifth is taken as equilibration.
    temperature = log["temperature_k"][log["temperature_k"].size // 5 :]
    speed = "not measured" if result.ns_per_day is None else f"{result.ns_per_day:.3g} ns/day"
    facts = [
        ("Model", f"{summary.model} ({summary.precision} precision)"),
        ("Level of theory", summary.level_of_theory),
        ("Model hash", summary.model_sha256[:16]),
        ("Atoms", str(summary.n_atoms)),
        ("Simulated", f"{log['time_ps'][-1]:.3f} ps in {result.step} steps"),
        ("Time step", f"{settings.timestep_fs:g} fs"),
        (
            "Thermostat",
            f"Langevin (middle), {settings.temperature_k:g} K, {settings.friction_per_ps:g} /ps",
        ),
        ("Temperature", f"{temperature.mean():.0f} K on average, ± {temperature.std():.0f} K"),
        ("Speed", f"{speed} ({result.elapsed_s:.1f} s of dynamics)"),
        ("Watch", _watch(summary)),
        ("Engine", f"OpenMM {summary.force} on the {result.platform} platform"),
    ]
    if summary.smiles is not None:
        facts.insert(0, ("SMILES", summary.smiles))
    return facts


def _watch(summary: RunSummary) -> str:
    """What was looked at how often, and what that cost."""
    if summary.seen is None:
        return "off"
    seen = summary.seen
    words = f"{summary.watch.watch}: {summary.watched} in {seen['looks']} looks"
    errors = seen["largest_force_error_ev_per_angstrom"]
    if seen["force_error_looks"]:
        words += (
            f"; the largest expected force error of an atom is {1e3 * errors:.0f} meV/Å (looked at "
            f"{seen['force_error_looks']} times)"
        )
    return f"{words} ({seen['seconds'] + seen['force_error_seconds']:.2g} s)"


def _figures(
    summary: RunSummary, log: dict[str, np.ndarray], frames: np.ndarray, topology: app.Topology
) -> list[str]:
    time_ps, settings = log["time_ps"], summary.settings
    chosen = heavy_atoms(topology)
    deviation = rmsd(frames[:, chosen], frames[0, chosen]) * NM_TO_ANGSTROM
    frame_times = np.arange(frames.shape[0]) * settings.frame_interval * settings.timestep_fs * 1e-3
    pictures = [
        ("Potential energy", plots.plot_energy(time_ps, log["potential_energy_kj_mol"])),
        (
            "Temperature",
            plots.plot_temperature(time_ps, log["temperature_k"], settings.temperature_k),
        ),
        ("Deviation from the minimized structure", plots.plot_rmsd(frame_times, deviation)),
    ]
    lengths = bond_lengths(frames, topology)
    if lengths:
        pictures.append(("Bond lengths over all frames", plots.plot_bond_lengths(lengths)))
    return [
        f"<figure>{_image(png, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, png in pictures
    ]
