"""Make a bundled model from the teachers' labels and SPICE's training frames.

    python scripts/train_bundled.py {small,medium} SHARED AIMNET2.jpt SMILES RUNS

SHARED holds `data/`; AIMNET2.jpt is described in `bundled_model/teachers.py`, the folder SMILES of
`SUBSET.smi` files in `bundled_model/new_molecules.py`. In the folder RUNS: labels.h5, molecules.h5,
spice_*.xyz, diatomics.xyz, and NAME/, NAME_extended/ and NAME_tuned/ with checkpoints, history, its
picture and the archive. A run that was stopped goes on. `medium` is not pretrained: it grows out of
`small`, which must be in RUNS (`fine_tune.hidden_l_max`). `bundle_model.py` takes a result into the
package; `benchmark_model.py`, `stability.py` and `write_model_card.py` measure and describe it.
"""

import argparse
import subprocess
import sys
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent / "bundled_model"))

from combine_labels import ELEMENTS, combine, fit_combination, read_spice
from new_molecules import read_smiles, write_molecules
from teachers import AIMNet2, label_with_aimnet2, read_teacher

from mace_mm.data.spice_writer import write_spice
from mace_mm.elements import atomic_number, covalent_radius
from mace_mm.model.pair_repulsion import ZBL

CONFIGS = Path(__file__).parent / "bundled_model"
VALIDATION_SHARE = 8


def write_labels(data: Path, network: AIMNet2, runs: Path, limit: int | None) -> None:
    """Combined labels of the teachers."""
    teacher = islice(read_teacher(data / "teacher" / "teacher.h5"), limit)
    molecules = list(label_with_aimnet2(teacher, network))
    spice = read_spice(data / "spice-labelled")
    fitted = fit_combination(molecules, network, spice)
    labelled = combine(molecules, fitted)
    write_spice(runs / "labels.h5", labelled, atomic_energies=atomic_energies())


def atomic_energies() -> dict[int, float]:
    """Of the configuration, eV by atomic number."""
    by_symbol = yaml.safe_load((CONFIGS / "pretrain.yaml").read_text())["atomic_energies"]
    return {atomic_number(symbol): energy for symbol, energy in by_symbol.items()}


def write_spice_frames(data: Path, runs: Path) -> None:
    """SPICE's training frames; an eighth of the formulas is set aside for validation."""
    frames = read_spice(data / "spice-labelled")
    for atoms in ase.io.read(data / "spice-dipeptides" / "dipeptides_train.xyz", ":"):
        if "REF_energy" not in atoms.info:
            atoms.info["REF_energy"] = atoms.get_potential_energy()
            atoms.arrays["REF_forces"] = atoms.get_forces()
            atoms.calc = None
        if set(atoms.numbers) <= set(ELEMENTS):
            frames.append(atoms)
    formulas = sorted({a.get_chemical_formula() for a in frames})
    aside = set(np.random.default_rng(1).permutation(formulas)[: len(formulas) // VALIDATION_SHARE])
    for name, wanted in (("validation", True), ("train", False)):
        kept = [a for a in frames if (a.get_chemical_formula() in aside) == wanted]
        ase.io.write(runs / f"spice_{name}.xyz", kept, format="extxyz")


def write_diatomics(runs: Path) -> None:
    """Pairs of atoms at short distance that feel the pair repulsion and nothing else."""
    isolated = atomic_energies()
    zbl = ZBL(ELEMENTS, 5)
    frames = []
    for i, a in enumerate(ELEMENTS):
        for j, b in enumerate(ELEMENTS[: i + 1]):
            for share in np.linspace(0.12, 0.62, 24):
                d = torch.tensor([share * (covalent_radius(a) + covalent_radius(b))])
                d = d.double().requires_grad_(True)
                # Both directions of the edge carry half.
                energy = 2 * zbl(d, torch.tensor([i]), torch.tensor([j])).sum()
                (slope,) = torch.autograd.grad(energy, d)
                atoms = ase.Atoms([a, b], [[0, 0, 0], [0, 0, d.item()]])
                atoms.info["REF_energy"] = energy.item() + isolated[a] + isolated[b]
                atoms.arrays["REF_forces"] = np.array([[0, 0, slope.item()], [0, 0, -slope.item()]])
                frames.append(atoms)
    ase.io.write(runs / "diatomics.xyz", frames, format="extxyz")


def main() -> None:
    """Labels, new molecules, and the three stages of training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("small", "medium"))
    parser.add_argument("shared", type=Path)
    parser.add_argument("aimnet2", type=Path)
    parser.add_argument("smiles", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--workers", type=int, default=2, help="processes that sample molecules")
    parser.add_argument("--max-molecules", type=int, help="of each file, for a trial")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs, data = arguments.runs, arguments.shared / "data"
    runs.mkdir(parents=True, exist_ok=True)
    if not (runs / "labels.h5").exists():
        write_spice_frames(data, runs)
        write_diatomics(runs)
        write_labels(data, AIMNet2(arguments.aimnet2), runs, arguments.max_molecules)
    if not (runs / "molecules.h5").exists():
        lines = read_smiles(arguments.smiles)[: arguments.max_molecules]
        aimnet2, workers = arguments.aimnet2, arguments.workers
        write_molecules(lines, data, aimnet2, runs, atomic_energies(), workers)
    program = "import sys; from mace_mm.cli.app import main; main(sys.argv[1:])"
    stages: dict[str, list[str]] = {"pretrain.yaml": [], "extend.yaml": [], "finetune.yaml": []}
    if arguments.name == "medium":
        del stages["pretrain.yaml"]
        small = runs.resolve() / "small_extended" / "small.pt"
        stages["extend.yaml"] = [f"fine_tune.model={small}", "fine_tune.hidden_l_max=1"]
    for source, overrides in stages.items():
        text = (CONFIGS / source).read_text().replace("NAME", arguments.name)
        config = runs / source
        config.write_text(text.replace("runs/", f"{runs.resolve()}/"))
        subprocess.run(
            [sys.executable, "-c", program, "train", str(config), *overrides], check=True
        )


if __name__ == "__main__":
    main()
