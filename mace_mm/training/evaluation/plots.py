"""Pictures of a model's errors: parity, distributions, learning curves, energy profiles."""

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mace_mm.errors import DataError
from mace_mm.training.evaluation.errors import FrameErrors

# A picture of more points is not more legible, only larger.
_MAX_POINTS = 5000
_MAX_PROFILES = 12
_MIN_PROFILE_FRAMES = 8


def as_data_uri(figure: Figure) -> str:
    """Return a figure as a PNG inside a `data:` address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def parity(errors: Sequence[FrameErrors]) -> Figure:
    """Model against label: energies per atom without each molecule's mean, force components."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for subset in sorted({e.subset for e in errors}):
        chosen = [e for e in errors if e.subset == subset]
        label, model = _relative_energies(chosen)
        if label.size:
            _scatter(left, label * 1e3, model * 1e3, subset)
        pairs = [
            (e.forces_label.ravel(), (e.forces_label + e.forces).ravel())
            for e in chosen
            if e.forces is not None and e.forces_label is not None
        ]
        if pairs:
            labels, models = (np.concatenate(column) for column in zip(*pairs, strict=True))
            _scatter(right, labels, models, subset)
    for axes, title in (
        (left, "energy relative to the molecule's mean, meV/atom"),
        (right, "force components, eV/Å"),
    ):
        low = min(axes.get_xlim()[0], axes.get_ylim()[0])
        high = max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([low, high], [low, high], color="0.6", linewidth=0.8, zorder=0)
        axes.set(title=title, xlabel="label", ylabel="model")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=7, markerscale=3)
    return figure


def force_distribution(errors: Sequence[FrameErrors]) -> Figure:
    """Share of atoms whose force error is below a value, by subset."""
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for subset in sorted({e.subset for e in errors}):
        parts = [e.forces for e in errors if e.subset == subset and e.forces is not None]
        if parts:
            size = np.sort(np.linalg.norm(np.concatenate(parts), axis=1)) * 1e3
            axes.semilogx(size, np.arange(1, size.size + 1) / size.size, label=subset or "all")
    axes.set(xlabel="error of an atom's force, meV/Å", ylabel="share of atoms", ylim=(0, 1))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7)
    return figure


def learning_curves(history: Path) -> Figure:
    """Validation errors and learning rate over the epochs of a run's `history.csv`.

    Raises:
        DataError: not a history.
    """
    try:
        rows = list(csv.DictReader(history.read_text("utf-8").splitlines()))
        columns = {name: np.array([float(r[name]) for r in rows]) for name in rows[0]}
        epoch = columns["epoch"]
        curves = {
            "force RMSE, meV/Å": columns["validation_forces_rmse"] * 1e3,
            "energy RMSE, meV/atom": columns["validation_energy_rmse"] * 1e3,
        }
        rate = columns["learning_rate"]
    except (OSError, IndexError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{history} is not the history of a training run: {error}") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in curves.items():
        left.semilogy(epoch, values, label=name)
    left.legend(fontsize=7)
    left.set(xlabel="epoch", title="validation")
    right.semilogy(epoch, rate)
    right.set(xlabel="epoch", title="learning rate")
    return figure


def energy_profiles(errors: Sequence[FrameErrors], names: Sequence[str]) -> Figure | None:
    """Energies of molecules with many frames, in the order of the frames: torsion scans.

    Args:
        errors: with labels.
        names: name of every molecule of the source.

    Returns:
        None if no molecule has enough labelled frames.
    """
    by_molecule: dict[int, list[FrameErrors]] = {}
    for error in errors:
        if error.energy is not None:
            by_molecule.setdefault(error.molecule, []).append(error)
    chosen = [m for m, frames in by_molecule.items() if len(frames) >= _MIN_PROFILE_FRAMES]
    chosen = chosen[:_MAX_PROFILES]
    if not chosen:
        return None
    n_rows = -(-len(chosen) // 3)
    figure = Figure(figsize=(9, 2.4 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, 3, squeeze=False)
    for axes, molecule in zip(grid.flat, chosen, strict=False):
        frames = sorted(by_molecule[molecule], key=lambda e: e.index)
        label = np.array([e.energy_label for e in frames], dtype=np.float64)
        model = label + np.array([e.energy for e in frames], dtype=np.float64)
        lowest = int(label.argmin())
        axes.plot((label - label[lowest]) * 1e3, color="black", label="label")
        axes.plot((model - model[lowest]) * 1e3, color="tab:red", label="model")
        axes.set_title(names[molecule][:34], fontsize=7)
        axes.set_ylabel("meV", fontsize=7)
        axes.tick_params(labelsize=6)
    for axes in list(grid.flat)[len(chosen) :]:
        axes.set_visible(False)
    grid.flat[0].legend(fontsize=7)
    return figure


def _relative_energies(errors: Sequence[FrameErrors]) -> tuple[np.ndarray, np.ndarray]:
    labelled = [e for e in errors if e.energy is not None and e.energy_label is not None]
    if not labelled:
        return np.zeros(0), np.zeros(0)
    molecule = np.unique([e.molecule for e in labelled], return_inverse=True)[1].reshape(-1)
    atoms = np.array([e.n_atoms for e in labelled])
    label = np.array([e.energy_label for e in labelled], dtype=np.float64)
    model = label + np.array([e.energy for e in labelled], dtype=np.float64)
    counts = np.bincount(molecule)

    def centered(values: np.ndarray) -> np.ndarray:
        return (values - (np.bincount(molecule, weights=values) / counts)[molecule]) / atoms

    return centered(label)[counts[molecule] > 1], centered(model)[counts[molecule] > 1]


def _scatter(axes, x: np.ndarray, y: np.ndarray, label: str) -> None:  # type: ignore[no-untyped-def]
    step = max(1, x.size // _MAX_POINTS)
    axes.plot(x[::step], y[::step], ".", markersize=1.5, label=label or "all")
