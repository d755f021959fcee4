"""Pictures of a leg: overlap, convergence, time series, profile, work, methods."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mace_mm.free_energy.analysis.estimator import Estimate, WindowAnalysis, kt_kj_mol
from mace_mm.free_energy.analysis.work import SwitchAnalysis
from mace_mm.free_energy.leg_result import LegResult
from mace_mm.free_energy.sampling.samples import neighbor_changes
from mace_mm.units import KCAL_MOL_TO_KJ_MOL

# A straight line this much higher than what is left of the profile hides it.
_STEEP = 20.0
# Rows of time series stand this many standard deviations apart.
_ROWS_APART = 6.0
_BLUE, _ORANGE, _GRAY = "#1f5fa8", "#d9772b", "#888888"


def leg_figure(result: LegResult) -> Figure:
    """One page of panels for a leg."""
    n_rows = (2 if result.windows is not None else 0) + (1 if result.switches is not None else 0)
    figure = Figure(figsize=(11.0, 3.6 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, 2, squeeze=False)
    row = 0
    if result.windows is not None:
        draw_overlap(axes[0, 0], result.windows)
        draw_convergence(axes[0, 1], result.windows)
        draw_series(axes[1, 0], result.windows)
        draw_profile(axes[1, 1], result.windows)
        row = 2
    if result.switches is not None:
        draw_work(axes[row, 0], result.switches)
        draw_methods(axes[row, 1], result.methods)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def draw_overlap(axes: Axes, windows: WindowAnalysis) -> None:
    """The overlap matrix; neighbors below 0.03 spoil a result."""
    matrix = windows.overlap
    axes.imshow(matrix, cmap="Blues", vmin=0.0, vmax=max(0.5, float(matrix.max())))
    labels = [f"{value:.3g}" for value in windows.samples.schedule.coordinates]
    axes.set_xticks(range(len(labels)), labels, rotation=0 if len(labels) <= 5 else 60)
    axes.set_yticks(range(len(labels)), labels)
    if len(labels) <= 12:
        for i, j in np.ndindex(*matrix.shape):
            shade = "white" if matrix[i, j] > 0.3 else "black"
            axes.text(
                j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=7, color=shade
            )
    axes.set_xlabel("λ")
    axes.set_ylabel("λ")
    axes.set_title("Overlap of the windows")


def draw_convergence(axes: Axes, windows: WindowAnalysis) -> None:
    """Estimates from growing parts of the run, from its beginning and from its end."""
    for label, color, aside, estimates in (
        ("from the beginning", _BLUE, -0.006, windows.forward),
        ("from the end", _ORANGE, 0.006, windows.backward),
    ):
        axes.errorbar(
            windows.fractions + aside,
            [estimate.value_kj_mol for estimate in estimates],
            [estimate.error_kj_mol for estimate in estimates],
            marker="o",
            markersize=3.5,
            capsize=2,
            color=color,
            label=label,
        )
    final = windows.mbar
    axes.axhspan(
        final.value_kj_mol - final.error_kj_mol,
        final.value_kj_mol + final.error_kj_mol,
        color=_GRAY,
        alpha=0.25,
        linewidth=0,
    )
    axes.set_xlabel("part of the run")
    axes.set_ylabel("ΔF, kJ/mol")
    axes.set_title("Convergence")
    axes.legend(frameon=False)


def draw_series(axes: Axes, windows: WindowAnalysis) -> None:
    """Change of energy to the next window, less its mean in each, against time; a row each.

    With exchange the rows are replicas: one that stays in its conformer stays on its level, beside
    the line of its row.
    """
    samples, paths = windows.samples, windows.samples.paths
    changes = np.concatenate(neighbor_changes(samples))
    if paths.exchanged:
        rows = paths.replicas
        names = [f"replica {number}" for number in np.unique(rows)]
        axes.set_title(f"Along replicas, g = {windows.inefficiency:.1f}")
    else:
        rows = paths.states
        names = [
            f"{value:.3g} (g = {factor:.1f})"
            for value, factor in zip(
                samples.schedule.coordinates, windows.inefficiencies, strict=True
            )
        ]
        axes.set_title("Time series of the windows λ")
    apart = max(_ROWS_APART * float(changes.std()), 1e-6)
    series = zip(paths.split(paths.times, rows), paths.split(changes, rows), strict=True)
    for number, (times, values) in enumerate(series):
        level = -apart * number
        axes.axhline(level, color="black", linewidth=0.4)
        axes.plot(times, level + values, linewidth=0.5, color=_BLUE, alpha=0.35)
        axes.plot(times, level + _running_mean(values), linewidth=1.4, color=_ORANGE)
    axes.set_yticks(-apart * np.arange(len(names)), names, fontsize=8 if len(names) <= 12 else 5)
    axes.set_xlabel("iteration; bold: running mean")
    axes.set_ylabel(f"Δu − its mean, rows {apart:.2g} kT apart")


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Over a twentieth of the series around each point, less at the ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def draw_profile(axes: Axes, windows: WindowAnalysis) -> None:
    """The free energy along the path; a slope far above everything else is taken off."""
    lambdas = np.array(windows.samples.schedule.coordinates)
    profile = windows.profile_kj_mol
    straight = lambdas * profile[-1]
    bend = profile - straight
    steep = abs(profile[-1]) > _STEEP * float(np.ptp(bend))
    axes.errorbar(
        lambdas,
        bend if steep else profile,
        windows.profile_errors_kj_mol,
        marker="o",
        markersize=3.5,
        capsize=2,
        color=_BLUE,
    )
    axes.set_xlabel("λ")
    axes.set_ylabel("ΔF(λ) − λ ΔF(1), kJ/mol" if steep else "ΔF, kJ/mol")
    axes.set_title("Free energy along the path (MBAR)")


def draw_work(axes: Axes, switches: SwitchAnalysis) -> None:
    """Work of both directions; they cross at the free energy."""
    kt = kt_kj_mol(switches.temperature_k)
    forward, reverse = switches.forward_kt, -switches.reverse_kt
    bins = np.histogram_bin_edges(np.concatenate([forward, reverse]), bins=30).tolist()
    axes.hist(forward, bins=bins, alpha=0.6, color=_BLUE, label="forward work")
    axes.hist(reverse, bins=bins, alpha=0.6, color=_ORANGE, label="− reverse work")
    axes.axvline(switches.bar.value_kj_mol / kt, color="black", linewidth=1.2, label="BAR")
    axes.axvline(
        switches.crooks.value_kj_mol / kt,
        color=_GRAY,
        linewidth=1.2,
        linestyle="--",
        label="Crooks",
    )
    axes.set_xlabel("work, kT")
    axes.set_ylabel("switches")
    axes.set_title(f"Switching: overlap {switches.overlap:.2f}")
    axes.legend(frameon=False, fontsize=8)


def draw_methods(axes: Axes, methods: dict[str, Estimate]) -> None:
    """All methods beside each other."""
    names = list(methods)
    for place, name in enumerate(names):
        estimate = methods[name]
        axes.errorbar(
            estimate.value_kj_mol,
            place,
            xerr=estimate.error_kj_mol,
            marker="o",
            capsize=3,
            color=_ORANGE if name.startswith("switching") else _BLUE,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"ΔF, kJ/mol (1 kcal/mol = {KCAL_MOL_TO_KJ_MOL} kJ/mol)")
    axes.set_title("Methods")
