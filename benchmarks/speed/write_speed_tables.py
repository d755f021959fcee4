"""Write the speed tables of README.md and docs/engine.md from benchmarks/results/*.json.

    python benchmarks/speed/write_speed_tables.py

The results are what ``make benchmark`` leaves in benchmark/LAYOUT/benchmark.json, and those of
benchmarks/speed/bench_scale.py, benchmarks/results/scale-MODEL.json.
"""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- speed: written by benchmarks/speed/write_speed_tables.py -->"
END = "<!-- end of speed -->"
LAYOUTS = {
    "small": "96 channels, hidden l = 0",
    "medium": "128 channels, hidden l ≤ 1",
    "large": "192 channels, hidden l ≤ 2",
}


def main() -> None:
    found = {
        name: json.loads(path.read_text())
        for name in LAYOUTS
        if (path := ROOT / "benchmarks" / "results" / f"{name}.json").is_file()
    }
    replace(ROOT / "README.md", summary(found))
    paths = sorted((ROOT / "benchmarks" / "results").glob("scale-*.json"))
    scales = {
        path.stem.removeprefix("scale-").replace("-", " "): json.loads(path.read_text())
        for path in paths
    }
    replace(ROOT / "docs" / "engine.md", f"{full(found)}\n\n{scale(scales)}")


def replace(path: Path, table: str) -> None:
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def timing(results: dict, atoms: int, start: str) -> dict | None:
    """The timing of the engine whose name starts so."""
    for one in results["timings"]:
        if one["n_atoms"] == atoms and one["engine"].startswith(start):
            return one
    return None


def summary(found: dict) -> str:
    lines = [
        "| layout of MACE-OFF23 | atoms | mace_mm, ms | over mace-torch | over Symmetrix-XL |",
        "|---|---|---|---|---|",
    ]
    machines = set()
    for name, results in found.items():
        machines.add(results["machine"])
        for atoms in sorted({t["n_atoms"] for t in results["timings"]}):
            ours = timing(results, atoms, "mace_mm native")
            cells = [name, str(atoms), f"{ours['median_ms']:.2f}"]
            for peer in ("mace-torch", "Symmetrix-XL"):
                other = timing(results, atoms, peer)
                ratio = "" if other is None else f"{other['median_ms'] / ours['median_ms']:.0f} ×"
                if ratio and other["median_ms"] < 10 * ours["median_ms"]:
                    ratio = f"{other['median_ms'] / ours['median_ms']:.1f} ×"
                cells.append(ratio or "not measured")
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"Energy and forces, float32, medians; {'; '.join(sorted(machines))}."]
    return "\n".join(lines)


def full(found: dict) -> str:
    lines = []
    for name, results in found.items():
        lines += [f"**{name}** ({LAYOUTS[name]}); {results['machine']}", ""]
        lines += ["| atoms | engine | median ms | fastest ms | calls | force difference |"]
        lines += ["|---|---|---|---|---|---|"]
        for t in sorted(results["timings"], key=lambda t: (t["n_atoms"], t["median_ms"])):
            difference = t["force_difference"]
            cells = [
                str(t["n_atoms"]),
                t["engine"],
                f"{t['median_ms']:.3f}",
                f"{t['fastest_ms']:.3f}",
                str(t["n_calls"]),
                "" if difference is None else f"{difference:.1e}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *(f"- {note}" for note in results["notes"]), ""]
    return "\n".join(lines).rstrip()


def scale(found: dict) -> str:
    """Memory and time of large boxes, the first energy and OpenMM's share."""
    lines = ["| model | box, atoms | ms | µs an atom | memory, MiB | of it without atoms |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, results in found.items():
        for row in results["boxes"]:
            cells = [name, f"{row['atoms']:,}", f"{row['ms']:.0f}"]
            cells += [f"{row['us_per_atom']:.1f}", f"{row['peak_mib']:.0f}"]
            lines.append("| " + " | ".join([*cells, f"{row['opened_mib']:.0f}"]) + " |")
    lines += ["", "| OpenMM | | over the evaluator |", "|---|---|---|"]
    for name, results in found.items():
        if "overhead" not in results:
            continue
        first = statistics.median(row["seconds"] for row in results["first_energy"])
        lines.append(f"| {name}, first energy in a new process, s | {first:.1f} | |")
        for row in results["overhead"]:
            which = f"{name}, step of 27 atoms, Reference platform, {row['backend']}, µs"
            lines.append(f"| {which} | {row['step_us']:.0f} | {row['ratio']:.2f} × |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
