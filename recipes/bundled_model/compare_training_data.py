"""Which data teach a small network more: the project's own dataset, the teachers', or both?

    python recipes/bundled_model/compare_training_data.py OWN.h5 RUNS OUT [--steps N] [--only own]

OWN.h5 is a dataset of `mace-mm generate`; RUNS the folder of `train_bundled.py`, which has the
teachers' labels (labels.h5) and SPICE's training frames. The same network learns the same number of
steps of equal numbers of atoms from each, then three quarters of SPICE's frames; the errors are
those on the other quarter, whole formulas apart. Both together get an output head each, and the
teachers' goes on.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import h5py
import yaml

BATCH_ATOMS = 320
MODEL = {"r_max": 4.5, "channels": 32, "hidden_l_max": 0, "l_max": 3, "correlation": [3, 3]}
OPTIMIZER = {"kind": "soap", "beta1": 0.95, "beta2": 0.99, "weight_decay": 0.0, "clip_norm": 2.0}
FORCES, ENERGY = "validation_forces_mae", "validation_energy_mae"
PROGRAM = "from mace_mm.cli.app import main; main()"


def atoms_per_frame(path: Path) -> float:
    """Mean number of atoms of a file's frames."""
    with h5py.File(path) as file:
        shapes = [group["conformations"].shape for group in file.values()]
    return sum(n * atoms for n, atoms, _ in shapes) / sum(n for n, _, _ in shapes)


def pretraining(files: dict[str, Path], steps: int, output: Path) -> dict:
    """Configuration of the first stage: every file gives the same share of the atoms."""
    frames = {
        head: int(steps * BATCH_ATOMS / len(files) / atoms_per_frame(path))
        for head, path in files.items()
    }
    return {
        "name": "pretrained",
        "output": str(output),
        "seed": 1,
        "data": {
            "train": [
                {"path": str(path.resolve()), "head": head, "max_frames": frames[head]}
                for head, path in files.items()
            ],
            "validation_fraction": 0.01,
            "batch_size": 160,
            "max_atoms": BATCH_ATOMS,
        },
        "model": MODEL,
        "optimizer": OPTIMIZER,
        "stages": [stage(1, 0.005)],
    }


def tuning(model: Path, spice: Path, output: Path) -> dict:
    """Configuration of the second stage, on SPICE's frames."""
    labels = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
    return {
        "name": "tuned",
        "output": str(output),
        "seed": 2,
        "data": {
            "train": [{"path": str(spice.resolve()), **labels}],
            "validation_fraction": 0.25,
            "split_by": "formula",
            "batch_size": 160,
            "max_atoms": BATCH_ATOMS,
        },
        "fine_tune": {"model": str(model.resolve())},
        "optimizer": OPTIMIZER,
        "stages": [stage(10, 0.001)],
    }


def stage(epochs: int, rate: float) -> dict:
    """One stage with a falling rate."""
    return {
        "epochs": epochs,
        "learning_rate": rate,
        "loss": {"kind": "mae", "energy": 2.0, "forces": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 100},
        "ema_decay": 0.995,
    }


def train(config: dict) -> dict[str, float]:
    """Run one training, or finish it; the last line of its history."""
    output = Path(config["output"])
    output.mkdir(parents=True, exist_ok=True)
    path = output / "config-in.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-c", PROGRAM, "train", str(path)], check=True)
    rows = list(csv.DictReader((output / "history.csv").open(encoding="utf-8")))
    return {key: float(value) for key, value in rows[-1].items()}


def main() -> None:
    """Train on each and write the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("own", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--only", choices=("own", "teachers", "both"))
    arguments = parser.parse_args()
    own, teachers = {"own": arguments.own}, {"teachers": arguments.runs / "labels.h5"}
    mixtures = {"own": own, "teachers": teachers, "both": own | teachers}
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name, files in mixtures.items():
        if arguments.only not in (None, name):
            continue
        folder = arguments.runs / "compare" / name
        pretrained = train(pretraining(files, arguments.steps, folder / "pretrained"))
        last = "pretrained-teachers.pt" if len(files) > 1 else "pretrained.pt"
        spice = arguments.runs / "spice_train.xyz"
        tuned = train(tuning(folder / "pretrained" / last, spice, folder / "tuned"))
        results[name] = {
            "steps": int(pretrained["step"]),
            "own_validation_forces_mae_mev_per_A": round(1e3 * pretrained[FORCES], 1),
            "spice_forces_mae_mev_per_A": round(1e3 * tuned[FORCES], 1),
            "spice_energy_mae_mev_per_atom": round(1e3 * tuned[ENERGY], 2),
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
