"""One HTML file, pictures inside, and one JSON file on the errors of a model."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mace_mm.training.evaluation.errors import ErrorSummary, FrameErrors
from mace_mm.training.evaluation.plots import (
    as_data_uri,
    energy_profiles,
    force_distribution,
    learning_curves,
    parity,
)

_COLUMNS = {
    "energy_mae": "energy MAE, meV/atom",
    "energy_rmse": "energy RMSE, meV/atom",
    "relative_energy_mae": "relative energy MAE, meV/atom",
    "forces_mae": "force MAE, meV/Å",
    "forces_rmse": "force RMSE, meV/Å",
}
_STYLE = (
    "body{font-family:sans-serif;max-width:960px;margin:2em auto;color:#222}"
    "table{border-collapse:collapse;font-size:14px}td,th{border-bottom:1px solid #ddd;"
    "padding:4px 10px;text-align:right}td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}"
)


def write_json(path: Path, summaries: Mapping[str, ErrorSummary]) -> None:
    """Write the errors by subset, eV and eV/Å."""
    text = json.dumps({name: asdict(s) for name, s in summaries.items()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def write_html(
    path: Path,
    *,
    title: str,
    summaries: Mapping[str, ErrorSummary],
    errors: Sequence[FrameErrors],
    molecule_names: Sequence[str],
    history: Path | None = None,
) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        title: what was evaluated on what.
        summaries: by subset.
        errors: of every frame, with labels.
        molecule_names: of the source's molecules.
        history: a run's `history.csv`, for learning curves.

    Raises:
        DataError: `history` is not one.
    """
    figures = [("Model against labels", parity(errors))]
    figures.append(("Errors of forces", force_distribution(errors)))
    profiles = energy_profiles(errors, molecule_names)
    if profiles is not None:
        figures.append(("Energies along the frames of a molecule", profiles))
    if history is not None:
        figures.append(("Learning curves", learning_curves(history)))
    parts = [f"<h1>{html.escape(title)}</h1>", _table(summaries)]
    for heading, figure in figures:
        parts.append(f"<h2>{heading}</h2><img alt='{heading}' src='{as_data_uri(figure)}'>")
    page = (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style>" + "\n".join(parts) + "\n"
    )
    path.write_text(page, encoding="utf-8")


def _table(summaries: Mapping[str, ErrorSummary]) -> str:
    head = "".join(f"<th>{text}</th>" for text in ("subset", "frames", *_COLUMNS.values()))
    rows = []
    for name, summary in summaries.items():
        values = [getattr(summary, column) for column in _COLUMNS]
        cells = ["-" if value is None else f"{value * 1e3:.2f}" for value in values]
        row = "".join(f"<td>{c}</td>" for c in (html.escape(name), str(summary.n_frames), *cells))
        rows.append(f"<tr>{row}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
