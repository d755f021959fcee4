"""The report a person reads: one HTML file with its pictures inside, and the pictures as PNG."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.analysis.convergence import Verdict
from mace_mm.free_energy.analysis.estimator import Estimate
from mace_mm.free_energy.analysis.figures import leg_figure, to_png
from mace_mm.free_energy.coordinates.section import conformer_section
from mace_mm.free_energy.leg_result import LegResult
from mace_mm.simulation.report.verdict_box import VERDICT_STYLE, verdict_box
from mace_mm.simulation.watch.verdict import ATTENTION, BAD, GOOD, RunVerdict

REPORT_NAME = "report.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; color: #1a1a1a;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { border-bottom: 1px solid #ccc; padding: .25em .9em; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; }
footer { margin-top: 3em; color: #666; font-size: .85em; }
"""
_CITATIONS = (
    "openmmtools (Chodera et al., github.com/choderalab/openmmtools)",
    "OpenMM 8 (Eastman et al., J. Phys. Chem. B 128, 109, 2024)",
    "MBAR (Shirts and Chodera, J. Chem. Phys. 129, 124105, 2008)",
    "replica exchange (Chodera and Shirts, J. Chem. Phys. 135, 194110, 2011)",
    "alchemlyb (Wu et al., J. Open Source Softw. 9, 6934, 2024)",
    "bidirectional switching (Crooks, Phys. Rev. E 61, 2361, 2000; Bennett, J. Comput. Phys. 22, "
    "245, 1976)",
)


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of words.

    Attributes:
        title: heading.
        columns: names.
        rows: each as long as the columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(
    folder: Path,
    title: str,
    results: dict[str, Estimate],
    legs: Sequence[LegResult],
    verdict: Verdict,
    notes: Sequence[str] = (),
    tables: Sequence[TextTable] = (),
) -> Path:
    """Write ``report.html`` and one PNG a leg.

    Args:
        folder: where.
        title: heading.
        results: the numbers asked for, by name, the most important first.
        legs: what they are made of.
        verdict: over everything.
        notes: further paragraphs.
        tables: further tables, before the legs.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", verdict_box(_summary(verdict, legs))]
    if results:
        parts.append(_table(results))
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    parts += [_text_table(table) for table in tables]
    for leg in legs:
        parts.append(f"<h2>{html.escape(leg.name)}</h2>")
        if leg.watch is not None:
            parts.append(f"<p>{html.escape(leg.watch.in_words())}</p>")
        if not leg.has_estimate:
            continue
        picture = to_png(leg_figure(leg))
        write_atomically(folder / f"{leg.name}.png", picture)
        parts += [
            _table(leg.methods),
            _samples(leg),
            conformer_section(leg.conformers),
            f'<img alt="convergence of {html.escape(leg.name)}" '
            f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">',
        ]
    parts.append(
        "<footer>Errors are one standard error. Please cite: "
        + html.escape("; ".join(_CITATIONS))
        + ".</footer>"
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}{VERDICT_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    path = folder / REPORT_NAME
    write_atomically(path, page.encode())
    return path


def _summary(verdict: Verdict, legs: Sequence[LegResult]) -> RunVerdict:
    """What the first box of the report says, and in which color."""
    stopped = [f"leg {leg.name}: {leg.stopped_by}" for leg in legs if leg.stopped_by is not None]
    reasons = (*verdict.reasons, *verdict.warnings)
    if stopped:
        headline = f"The run ended before its end. {'; '.join(stopped)}."
        return RunVerdict(level=BAD, headline=headline, reasons=reasons)
    if not verdict.converged:
        headline = "Not converged; do not use these numbers yet."
        return RunVerdict(level=BAD, headline=headline, reasons=reasons)
    if verdict.warnings:
        headline = "Converged: every check passed. Before you use the numbers:"
        return RunVerdict(level=ATTENTION, headline=headline, reasons=reasons)
    return RunVerdict(level=GOOD, headline="Converged: every check passed.")


def _table(estimates: dict[str, Estimate]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        f'<td class="number">{e.value_kj_mol:.2f} ± {e.error_kj_mol:.2f}</td>'
        f'<td class="number">{e.value_kcal_mol:.2f} ± {e.error_kcal_mol:.2f}</td></tr>'
        for name, e in estimates.items()
    )
    return f"<table><tr><th></th><th>kJ/mol</th><th>kcal/mol</th></tr>{rows}</table>"


def _text_table(table: TextTable) -> str:
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, rows in (("th", (table.columns,)), ("td", table.rows))
        for row in rows
    ]
    return f"<h2>{html.escape(table.title)}</h2><table>{''.join(lines)}</table>"


def _samples(leg: LegResult) -> str:
    parts = []
    if leg.windows is not None:
        parts.append(
            f"{len(leg.windows.samples.counts)} windows, {sum(leg.windows.samples.counts)} "
            f"samples, {sum(leg.windows.independent)} independent; MBAR's effective independent "
            f"samples in the end states {leg.windows.effective[0]:.0f} and "
            f"{leg.windows.effective[-1]:.0f}{_left_out(leg.windows.left_out, 'iterations')}"
        )
    if leg.switches is not None:
        parts.append(
            f"{len(leg.switches.forward_kt)} forward and {len(leg.switches.reverse_kt)} reverse "
            f"switches, {leg.switches.effective_forward} and {leg.switches.effective_reverse} "
            f"independent{_left_out(leg.switches.left_out, 'switches of each direction')}; mean "
            f"dissipation {leg.switches.dissipation_kj_mol:.2f} kJ/mol"
            + (
                ""
                if leg.switches.gaussian
                else "; the work is not Gaussian, ignore Crooks' crossing"
            )
        )
    return f"<p>{html.escape('. '.join(parts))}.</p>"


def _left_out(count: int, what: str) -> str:
    """What the detection of equilibration took away, said where it took something."""
    return f" (the first {count} {what} more were left out)" if count else ""
