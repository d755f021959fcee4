"""The pictures of a report, as PNG."""

import io
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

_SIZE_INCHES = (6.0, 3.4)
_DPI = 130
_LINE, _MEAN, _TARGET = "#4477aa", "#222222", "#cc6677"
_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
_DRAWING_PIXELS = (520, 360)
# Of atoms that something happened to: red, green, blue.
_MARK = (0.96, 0.68, 0.65)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means of ``width`` neighboring values, (n - width + 1,)."""
    return np.convolve(values, np.full(width, 1.0 / width), mode="valid")


def plot_energy(time_ps: np.ndarray, energy_kj_mol: np.ndarray) -> bytes:
    """Potential energy over time, relative to its lowest value."""
    figure, axes = _axes("time (ps)", "potential energy − minimum (kJ/mol)")
    axes.plot(time_ps, energy_kj_mol - energy_kj_mol.min(), color=_LINE, linewidth=0.9)
    return _png(figure)


def plot_temperature(time_ps: np.ndarray, temperature_k: np.ndarray, target_k: float) -> bytes:
    """Instantaneous temperature, its running mean and the thermostat's temperature."""
    figure, axes = _axes("time (ps)", "temperature (K)")
    axes.plot(time_ps, temperature_k, color=_LINE, linewidth=0.7, alpha=0.6, label="instantaneous")
    width = max(1, temperature_k.size // 10)
    mean = _running_mean(temperature_k, width)
    first = (width - 1) // 2
    times = time_ps[first : first + mean.size]
    axes.plot(times, mean, color=_MEAN, linewidth=1.5, label="running mean")
    axes.axhline(target_k, color=_TARGET, linestyle="--", linewidth=1.2, label="thermostat")
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def plot_rmsd(time_ps: np.ndarray, rmsd_angstrom: np.ndarray) -> bytes:
    """Deviation from the start over time."""
    figure, axes = _axes("time (ps)", "RMSD, heavy atoms (Å)")
    axes.plot(time_ps, rmsd_angstrom, color=_LINE, linewidth=1.1)
    axes.set_ylim(bottom=0.0)
    return _png(figure)


def plot_bond_lengths(lengths_angstrom: dict[str, np.ndarray]) -> bytes:
    """Histogram of bond lengths by pair of elements."""
    figure, axes = _axes("bond length (Å)", "share of the pair's bonds (%)")
    edges = np.arange(0.7, 2.6, 0.01)
    shown = np.concatenate(list(lengths_angstrom.values()))
    for i, (name, lengths) in enumerate(lengths_angstrom.items()):
        counts, _ = np.histogram(lengths, edges)
        share = 100.0 * counts / lengths.size
        first, last = np.flatnonzero(counts)[[0, -1]] if counts.any() else (0, 0)
        seen, at = share[first : last + 1], edges[first : last + 2]
        color = _COLORS[i % len(_COLORS)]
        axes.stairs(seen, at, color=color, fill=True, alpha=0.35, label=name)
        axes.stairs(seen, at, color=color, linewidth=1.0)
    axes.set_xlim(max(0.7, shown.min() - 0.1), min(2.6, shown.max() + 0.1))
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def draw_molecule(smiles: str, marked: Iterable[int] = ()) -> bytes:
    """2-D drawing of a molecule; ``marked`` atoms, counted in the SMILES, stand on red disks."""
    molecule = Chem.MolFromSmiles(smiles)
    rdDepictor.Compute2DCoords(molecule)
    drawer = rdMolDraw2D.MolDraw2DCairo(*_DRAWING_PIXELS)
    options = drawer.drawOptions()
    options.padding = 0.08
    options.setHighlightColour(_MARK)
    rdMolDraw2D.PrepareAndDrawMolecule(
        drawer, molecule, highlightAtoms=sorted(marked), highlightBonds=[]
    )
    drawer.FinishDrawing()
    return bytes(drawer.GetDrawingText())
