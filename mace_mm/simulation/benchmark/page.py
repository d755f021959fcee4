"""Tables and a plot of what :mod:`mace_mm.simulation.benchmark.timing` measured."""

from pathlib import Path

from mace_mm.simulation.benchmark.timing import Benchmark, Timing


def rows(benchmark: Benchmark) -> list[list[str]]:
    """One line for each engine and size, with times and the ratio over the slowest engine's median.

    Columns: atoms, engine, median ms, fastest ms, µs per atom, times faster, force difference.
    """
    table = []
    for n_atoms in sorted({t.n_atoms for t in benchmark.timings}):
        here = [t for t in benchmark.timings if t.n_atoms == n_atoms]
        slowest = max(t.median_ms for t in here)
        for t in sorted(here, key=lambda t: t.median_ms):
            table.append(
                [
                    str(t.n_atoms),
                    t.engine,
                    f"{t.median_ms:.3f}",
                    f"{t.fastest_ms:.3f}",
                    f"{1e3 * t.median_ms / t.n_atoms:.2f}",
                    f"{slowest / t.median_ms:.1f}",
                    "" if t.force_difference is None else f"{t.force_difference:.1e}",
                ]
            )
    return table


HEADINGS = (
    "atoms",
    "engine",
    "median ms",
    "fastest ms",
    "µs/atom",
    "times faster",
    "force difference",
)


def as_markdown(benchmark: Benchmark) -> str:
    """The table, for documentation."""
    lines = [f"{benchmark.model}; {benchmark.machine}", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(benchmark)]
    lines += [""] + [f"- {note}" for note in benchmark.notes]
    return "\n".join(lines) + "\n"


def plot(benchmark: Benchmark, path: Path) -> None:
    """Time against atoms, one line for each engine, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    engines: dict[str, list[Timing]] = {}
    for timing in benchmark.timings:
        engines.setdefault(timing.engine, []).append(timing)
    for name, found in engines.items():
        found = sorted(found, key=lambda t: t.n_atoms)
        axes.plot([t.n_atoms for t in found], [t.median_ms for t in found], "o-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel="energy and forces, ms (median)")
    axes.set_title(f"{benchmark.model}\n{benchmark.machine}", fontsize=9)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
