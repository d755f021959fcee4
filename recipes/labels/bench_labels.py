"""Speed and accuracy of fast labels on 30 published SPICE frames of 6 to 20 atoms.

    python recipes/labels/bench_labels.py --shared ../shared [--references 5]

goes on from `benchmarks/results/labels_speed.json`. Each frame is labelled fast; the cheapest ones
also by PySCF alone (density fitting, grid 3, converged to 1e-9 hartree), --references of them
in a call. Core-seconds; energies in meV an atom; forces as mean absolute differences, meV/Å.
"""

import argparse
import json
from pathlib import Path

import ase.io
import numpy as np
from label_queue import settings_of_level
from queue_file import SET

from mace_mm.generation.labels.programs import label_frames
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.units import HARTREE_TO_EV

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "labels_speed.json"
N_FRAMES = 30
REFERENCE = {
    "density_fit": True,
    "auxiliary_basis": "def2-universal-jkfit",
    "grid_level": 3,
    "conv_tol": 1e-9,
}


def chosen(shared: Path) -> dict[str, ase.Atoms]:
    """Frames of different formulas, evenly over the sizes."""
    found: dict[str, tuple[str, ase.Atoms]] = {}
    for path in sorted((shared / "data" / "spice-labelled").glob("*_train.xyz")):
        for i, atoms in enumerate(ase.io.read(path, ":")):
            if 6 <= len(atoms) <= 20:
                found.setdefault(atoms.get_chemical_formula(), (f"{path.stem}-{i}", atoms))
    ordered = sorted(found.values(), key=lambda entry: (len(entry[1]), entry[0]))
    picks = np.linspace(0, len(ordered) - 1, N_FRAMES).round().astype(int)
    return dict(ordered[i] for i in picks)


def measured(atoms: ase.Atoms, settings: LabelSettings) -> dict[str, object]:
    labels = label_frames(settings, atoms.numbers, atoms.positions[None], 0)
    if labels.failures or labels.seconds is None:
        return {"failure": labels.failures.get(0, "no time")}
    error = 1e3 * (float(labels.energies[0]) - float(atoms.info["REF_energy"])) / len(atoms)
    forces = 1e3 * float(np.abs(labels.forces[0] - atoms.arrays["REF_forces"]).mean())
    return {
        "seconds": round(float(labels.seconds[0]), 1),
        "hartree": float(labels.energies[0]) / HARTREE_TO_EV,
        "from_published": [round(error, 4), round(forces, 3)],
        "forces": np.round(labels.forces[0], 6).tolist(),
    }


def summary(result: dict[str, dict]) -> dict[str, object]:
    """Medians and the worst of what has been measured."""
    both = [e for e in result.values() if "hartree" in e.get("reference", {})]
    fast = [e["fast"] for e in result.values() if "hartree" in e.get("fast", {})]
    energies = [
        1e3 * HARTREE_TO_EV * abs(e["fast"]["hartree"] - e["reference"]["hartree"]) / e["atoms"]
        for e in both
    ]
    forces = [
        1e3 * float(np.abs(np.subtract(e["fast"]["forces"], e["reference"]["forces"])).mean())
        for e in both
    ]
    ratios = [e["reference"]["seconds"] / e["fast"]["seconds"] for e in both]
    found: dict[str, object] = {"fast": len(fast), "with reference": len(both)}
    if both:
        found["times faster: least, median"] = [
            round(min(ratios), 1),
            round(float(np.median(ratios)), 1),
        ]
        found["from reference, meV an atom: largest"] = round(max(energies), 4)
        found["from reference, meV/Å: median, largest"] = [
            round(float(np.median(forces)), 3),
            round(max(forces), 3),
        ]
    if fast:
        published = np.abs([entry["from_published"] for entry in fast])
        found["from published, meV an atom: median, largest"] = [
            round(float(np.median(published[:, 0])), 4),
            round(float(published[:, 0].max()), 4),
        ]
        found["from published, meV/Å: median, largest"] = [
            round(float(np.median(published[:, 1])), 3),
            round(float(published[:, 1].max()), 3),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--fast", type=int, default=N_FRAMES, help="at most so many in this call")
    parser.add_argument("--references", type=int, default=0)
    arguments = parser.parse_args()
    result: dict[str, dict] = {}
    if RESULT.exists():
        result = json.loads(RESULT.read_text())["frames"]
    fast = settings_of_level(SET)
    reference = fast.model_copy(update={"options": REFERENCE})
    budget = {"fast": arguments.fast, "reference": arguments.references}
    for name, atoms in chosen(arguments.shared).items():
        entry = result.setdefault(
            name, {"formula": atoms.get_chemical_formula(), "atoms": len(atoms)}
        )
        for kind, settings in (("fast", fast), ("reference", reference)):
            if kind in entry or budget[kind] <= 0:
                continue
            budget[kind] -= 1
            entry[kind] = measured(atoms, settings)
            line = {key: value for key, value in entry[kind].items() if key != "forces"}
            print(name, entry["formula"], kind, line, flush=True)
            text = json.dumps({"summary": summary(result), "frames": result}, indent=1)
            RESULT.write_text(text + "\n")
    print(json.dumps(summary(result), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
