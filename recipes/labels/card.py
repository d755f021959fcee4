"""The card of the fragment set: what is in its parts, counted."""

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
from queue_file import SET, read_queue, rounds

from mace_mm.data.smiles import charge_from_smiles
from mace_mm.elements import symbol


def _counts(folder: Path, kind: str) -> tuple[Counter[str], Counter[str], int, float]:
    """Frames by property and by functional group, molecules, and core-seconds."""
    counts: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    names: set[str] = set()
    seconds = 0.0
    for path in sorted((folder / "parts").glob(f"{kind}-*.h5")):
        with h5py.File(path) as file:
            for name, group in file.items():
                names.add(name)
                n = len(group["conformations"])
                seconds += float(group["label_seconds"][()].sum())
                smiles = group["smiles"].asstr()[0]
                numbers = group["atomic_numbers"][()]
                counts["frames"] += n
                for number in np.unique(numbers):
                    counts[f"element {symbol(int(number))}"] += n
                counts[f"charge {_charge(group, smiles):+d}"] += n
                counts["complexes"] += n * ("." in smiles)
                counts["ions"] += n * (_charge(group, smiles) != 0)
                counts["with Br or I"] += n * bool({35, 53} & set(numbers.tolist()))
                counts["with P"] += n * bool(15 in numbers)
                counts["of 18 atoms and more"] += n * (len(numbers) >= 18)
                groups[group["subset"].asstr()[0].split(" with ")[0]] += n
    return counts, groups, len(names), seconds


def _charge(group: h5py.Group, smiles: str) -> int:
    return round(float(group.attrs.get("total_charge", charge_from_smiles(smiles))))


def write_card(folder: Path = SET) -> None:
    """Write the card beside the parts."""
    training, training_groups, n_training, first = _counts(folder, "training")
    validation, validation_groups, n_validation, second = _counts(folder, "validation")
    waiting = sum(1 for p in rounds(folder) for _ in read_queue(p))
    waiting -= training["frames"] + validation["frames"]
    lines = [_HEAD, "| | training | validation |", "|---|---|---|"]
    lines.append(f"| molecules and complexes | {n_training} | {n_validation} |")
    keys = ["frames", "ions", "with Br or I", "with P", "of 18 atoms and more", "complexes"]
    keys += sorted(k for k in training if k.startswith("charge"))
    keys += sorted(k for k in training if k.startswith("element"))
    lines += [f"| {key} | {training[key]} | {validation[key]} |" for key in keys]
    lines += [
        "",
        f"The labels took {(first + second) / 3600:.2f} core-hours; {waiting} frames wait.",
    ]
    lines += ["", "## Frames by functional group", "", "| group | training | validation |"]
    lines.append("|---|---|---|")
    for key in sorted({*training_groups, *validation_groups}):
        lines.append(f"| {key} | {training_groups[key]} | {validation_groups[key]} |")
    (folder / "README.md").write_text("\n".join(lines) + "\n")


_HEAD = """# mace_mm fragments

Hot frames of small molecules, ions and their complexes with energies, forces and dipoles at SPICE's
level of theory, ωB97M-D3(BJ)/def2-TZVPPD, made with PySCF. License: CC0-1.0.

- `parts/training-*.h5`, `parts/validation-*.h5`: SPICE's layout (bohr, hartree, hartree/bohr); a
  molecule may have frames in several parts. `frame` is the number of a frame in its molecule,
  `scf_dipole` is about the origin, `label_seconds` is what a label took, and the file's attributes
  name functional, grid, fitting functions and programs. One in ten molecules, by a hash of its
  SMILES, is kept for validation, with all complexes it is in; never train on those.
- `queue/round-*.h5`: the frames that were chosen, and the order in which they are labelled.
- `level.yaml`: the level of theory. `failures.txt`: frames that got no label, and why.

Molecules come from `recipes/labels/grammar.yaml` and FreeSolv; none has the formula of a structure
that models are tested on. Frames are from GFN2-xTB dynamics at 500 K; complexes are relaxed a
little and heated to 300 K, or apart by 2 to 8 Å.

To go on: `python recipes/labels/label_queue.py --records FOLDER`, at any time
`python recipes/labels/collect.py --records FOLDER --commit`.
"""


if __name__ == "__main__":
    write_card()
