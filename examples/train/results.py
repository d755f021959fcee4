"""The results folder: one archive and one JSON a benchmark, and the table of them.

    python examples/train/results.py acac --core-minutes 30       (after `mace-mm train acac.yaml`)
    python examples/train/results.py --table

The first form compiles the checkpoint of `runs/NAME`, evaluates the archive on frames that were
not trained on and writes `results/NAME.pt` and `results/NAME.json`; of NAME_scratch, the recipe
without a pretrained start, only the JSON is kept. Both forms rebuild `results/README.md` from the
JSON files. Energies are those of whole molecules, not per atom, as in the publications.
"""

import argparse
import datetime
import json
import os
from pathlib import Path

import numpy as np

from mace_mm.archive.archive import load_archive
from mace_mm.data.formats.extxyz import ExtxyzFile
from mace_mm.evaluate.machine import processor_name
from mace_mm.training.archive import compile_checkpoint
from mace_mm.training.config_file import parse_config
from mace_mm.training.evaluation.errors import evaluate_frames
from mace_mm.training.run.checkpoint import latest_checkpoint, list_checkpoints
from mace_mm.training.start.setup import prepare_frames

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
# What is published for MACE: energy in meV a molecule and forces in meV/Å. Batatia et al.,
# arXiv:2205.06643 (acac, RMSE); Batatia et al., NeurIPS 2022 (3BPA, RMSE; rMD17, MAE).
BENCHMARKS = {
    "acac": ("RMSE", {"acac_test_MD_300K": (0.9, 5.1), "acac_train_600K": (4.6, 22.4)}),
    "3bpa": ("RMSE", {"validation": (3.0, 8.8)}),
    "rmd17_ethanol": ("MAE", {"rmd17_ethanol_test": (0.4, 2.1)}),
    "rmd17_aspirin": ("MAE", {"rmd17_aspirin_test": (2.2, 6.6)}),
}
SCRATCH = "_scratch"
COLUMNS = ("model", "start", "frames", "error", "energy", "forces", "published", "reached")
COLUMNS += ("epochs", "core min")
NOTES = {
    "acac_train_600K": "500 frames at 600 K, not the published test frames, none trained on",
    "validation": "frames set aside from the training file; used to choose the epoch",
}


def errors(potential, source):
    found = evaluate_frames(potential, source)
    energy = 1e3 * np.array([e.energy for e in found])
    forces = 1e3 * np.concatenate([e.forces.ravel() for e in found])
    return {
        "n_frames": len(found),
        "energy_mae": float(np.abs(energy).mean()),
        "energy_rmse": float(np.sqrt((energy**2).mean())),
        "forces_mae": float(np.abs(forces).mean()),
        "forces_rmse": float(np.sqrt((forces**2).mean())),
    }


def write_result(name, folder, core_minutes, weights, note):
    checkpoint = latest_checkpoint(folder)
    RESULTS.mkdir(exist_ok=True)
    frames = prepare_frames(parse_config(checkpoint.config))
    archive = (folder if name.endswith(SCRATCH) else RESULTS) / f"{name}.pt"
    compile_checkpoint(
        list_checkpoints(folder)[-1], archive, weights=weights, domain=frames.domains["default"]
    )
    potential = load_archive(archive).potential
    config = checkpoint.config
    tests = {}
    for test in BENCHMARKS[name.removesuffix(SCRATCH)][1]:
        if test == "validation":
            source = frames.validation.source
        else:
            source = ExtxyzFile(HERE / "data" / f"{test}.xyz")
        tests[test] = errors(potential, source)
    progress = checkpoint.progress
    result = {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "start": Path((config["fine_tune"] or {"model": "scratch"})["model"]).stem,
        "seed": config["seed"],
        "finished": progress["finished"],
        "weights": weights,
        "epochs": progress["epoch"],
        "epochs_wanted": sum(stage["epochs"] for stage in config["stages"]),
        "steps": progress["step"],
        "n_weights": sum(p.numel() for p in potential.parameters()),
        "model": checkpoint.model_config,
        "core_minutes": core_minutes,
        "hardware": f"{processor_name()}, one thread of {os.cpu_count()} shared cores",
        "note": note,
        "errors_mev": tests,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def found_results():
    """(name, what is published, result) of every JSON there is."""
    for benchmark in BENCHMARKS:
        for name in (benchmark, benchmark + SCRATCH):
            path = RESULTS / f"{name}.json"
            if path.is_file():
                yield name, BENCHMARKS[benchmark], json.loads(path.read_text())


def rows(name, published, result):
    """Lines of the table, one a set of frames."""
    measure, tests = published
    epochs = f"{result['epochs']} of {result['epochs_wanted']}"
    for test, (energy, forces) in tests.items():
        found = result["errors_mev"][test]
        e, f = found[f"energy_{measure.lower()}"], found[f"forces_{measure.lower()}"]
        reached = "yes" if e <= energy and f <= forces else "no"
        cells = [name, result["start"], test, measure, f"{e:.2f}", f"{f:.1f}"]
        cells += [f"{energy} / {forces}", reached, epochs, f"{result['core_minutes']:.0f}"]
        yield "| " + " | ".join(cells) + " |"


def remark(name, result):
    """What else there is to know of a run."""
    end = "the schedule was run to its end" if result["finished"] else "interrupted"
    text = (
        f"- {name}: seed {result['seed']}, {result['steps']} steps, {end}, "
        f"{result['n_weights']} weights, {result['hardware']}, {result['date']}. {result['note']}"
    )
    return text.rstrip()


def table():
    """Rebuild README.md."""
    results = list(found_results())
    lines = [
        "# Results",
        "",
        "Written by `python examples/train/results.py --table` from the JSON files beside it.",
        "Energies in meV a molecule, forces in meV/Å; MAE or RMSE as published for MACE, which was",
        "trained from scratch. `medium` is the bundled model: it knows many molecules at another",
        "level of theory, and none of these frames.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(row for found in results for row in rows(*found)),
        "",
        *(f"- {test}: {note}." for test, note in NOTES.items()),
        *(remark(name, result) for name, _, result in results),
    ]
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "name", nargs="?", choices=[n + s for n in BENCHMARKS for s in ("", SCRATCH)]
    )
    parser.add_argument("--run", type=Path, help="run folder, if not runs/NAME")
    parser.add_argument("--core-minutes", type=float, default=float("nan"))
    parser.add_argument("--note", default="", help="what else there is to say about the run")
    parser.add_argument("--weights", default="best", choices=("best", "average", "raw"))
    parser.add_argument("--table", action="store_true", help="only rebuild the table")
    options = parser.parse_args()
    if options.name is not None:
        folder = options.run or HERE / "runs" / options.name
        write_result(options.name, folder, options.core_minutes, options.weights, options.note)
    elif not options.table:
        parser.error("name a benchmark, or --table")
    table()


if __name__ == "__main__":
    main()
