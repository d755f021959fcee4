"""The pre-flight report: text for a person, JSON for a program, histograms as a picture."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.data.check.check import CheckReport
from mace_mm.data.check.values import LEVELS
from mace_mm.elements import symbol
from mace_mm.errors import DependencyError


def render_text(report: CheckReport, title: str) -> str:
    """Return the report as Markdown."""
    scan = report.scan
    charges = Counter(f"{charge:+g}" for charge in scan.total_charge)
    subsets = Counter(str(subset) or "(none)" for subset in scan.subset)
    lines = [
        f"# {title}",
        "",
        f"{report.n_molecules} molecules, {scan.index.size} frames, "
        f"{int(scan.n_atoms.sum())} atoms, {_range(scan.n_atoms)} atoms a frame.",
        "",
        "| level | test | finding |",
        "|---|---|---|",
    ]
    order = sorted(report.findings, key=lambda f: -LEVELS.index(f.level))
    lines += [f"| {f.level} | {f.check} | {_escape(f.text)} |" for f in order]
    lines += ["", "| element | frames | atoms | atomic energy (eV) |", "|---|---|---|---|"]
    present = scan.composition > 0
    for k, z in enumerate(scan.elements):
        energies = ", ".join(
            f"{table[z]:.4f}" for table in report.atomic_energies.values() if z in table
        )
        lines.append(
            f"| {symbol(z)} | {int(present[:, k].sum())} | {int(scan.composition[:, k].sum())} "
            f"| {energies} |"
        )
    lines += ["", "| total charge | frames |", "|---|---|"]
    lines += [f"| {charge} | {n} |" for charge, n in sorted(charges.items())]
    lines += ["", "| subset | frames |", "|---|---|"]
    lines += [f"| {_escape(name)} | {n} |" for name, n in subsets.most_common(30)]
    if len(subsets) > 30:
        lines.append(f"| ({len(subsets) - 30} more) | |")
    return "\n".join(lines) + "\n"


def render_json(report: CheckReport) -> dict[str, Any]:
    """Return the findings with every frame concerned, ready for `json.dump`."""
    return {
        "worst": report.worst,
        "n_frames": int(report.scan.index.size),
        "n_molecules": report.n_molecules,
        "atomic_energies": report.atomic_energies,
        "findings": [
            {"level": f.level, "check": f.check, "text": f.text, "frames": list(f.frames)}
            for f in report.findings
        ],
    }


def write_report(folder: str | Path, report: CheckReport, title: str) -> list[Path]:
    """Write report.md, report.json and report.png into a folder; return their paths.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text, data, picture = (folder / f"report.{kind}" for kind in ("md", "json", "png"))
    text.write_text(render_text(report, title), encoding="utf-8")
    data.write_text(json.dumps(render_json(report), indent=1) + "\n", encoding="utf-8")
    draw_histograms(picture, report)
    return [text, data, picture]


def draw_histograms(path: str | Path, report: CheckReport) -> None:
    """Draw sizes, energies, forces and shortest distances.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("the picture needs matplotlib, which is not installed") from None
    scan = report.scan
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        (scan.n_atoms.astype(float), "atoms in a frame", False),
        (report.energy_residuals, "energy beside atomic energies (eV/atom)", True),
        (scan.force_samples, "force component (eV/Å), a sample", True),
        (scan.max_force, "largest force component of a frame (eV/Å)", True),
        (scan.closest, "shortest distance (covalent radii)", False),
        (scan.net_force, "sum of the forces on a frame (eV/Å)", True),
    )
    for axes, (values, label, logarithmic) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        finite = values[np.isfinite(values)]
        axes.set_title(label, fontsize="medium")
        axes.set_ylabel("frames" if "sample" not in label else "components")
        if finite.size:
            axes.hist(finite, bins=60)
        else:
            axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
        if logarithmic and finite.size:
            axes.set_yscale("log")
    figure.savefig(path, dpi=110)


def _range(values: np.ndarray) -> str:
    return f"{values.min()} to {values.max()}" if values.size else "no"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
