"""Make a bundled model from the teachers' labels and SPICE's training frames.

    python recipes/bundled_model/train_bundled.py {medium,small} SHARED AIMNET2.jpt SMILES RUNS

SHARED holds `data/`; AIMNET2.jpt is described in `bundled_model/teachers.py`, the folder SMILES of
`SUBSET.smi` files in `bundled_model/new_molecules.py`. `medium` grows out of a network without
vectors (base.yaml, extend.yaml, `fine_tune.hidden_l_max`); `small` shrinks out of `medium`, which
must be in RUNS, and learns from it as well (narrow.yaml, `fine_tune.channels`). In the folder RUNS:
the frames, and a folder of each stage with checkpoints, history and the archive. A run that was
stopped goes on. `bundle_model.py` takes a result into the package; `benchmark_model.py`,
`stability.py` and `write_model_card.py` measure and describe it.
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
from average_labels import average_with
from combine_labels import ELEMENTS, combine, fit_combination, read_spice
from new_molecules import FOUR_FRAMES, TWO_FRAMES, read_smiles, write_molecules
from short_contacts import short_contacts
from teachers import AIMNet2, label_with_aimnet2, read_teacher

from mace_mm.archive.archive import load_archive
from mace_mm.data.formats.spice import SpiceFile
from mace_mm.data.formats.spice_writer import write_spice
from mace_mm.elements import atomic_number, covalent_radius
from mace_mm.model.mace.pair_repulsion import ZBL

CONFIGS = Path(__file__).parent
VALIDATION_SHARE = 8
# Of the end of the shuffled list, for `small`.
NEWER_LINES = 4000


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
    by_symbol = yaml.safe_load((CONFIGS / "base.yaml").read_text())["atomic_energies"]
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


def write_averaged(aimnet2: Path, runs: Path) -> None:
    """The labels from which `small` learns: the means of the teachers' and those of `medium`."""
    medium = load_archive(runs / "medium_tuned" / "medium.pt")
    contacts = short_contacts(runs / "labels.h5", AIMNet2(aimnet2), medium)
    ase.io.write(runs / "contacts.xyz", contacts, format="extxyz")
    for name in ("labels", "newer"):
        file = SpiceFile(runs / f"{name}.h5")
        molecules = (file.conformers(k) for k in range(len(file.entries)))
        averaged = average_with(medium, molecules)
        write_spice(runs / f"averaged_{name}.h5", averaged, atomic_energies=atomic_energies())


def stages_of(name: str, runs: Path) -> list[tuple[str, str, list[str]]]:
    """Each stage of a model: its configuration, the name that is put for NAME, overrides."""
    if name == "small":
        medium = runs / "medium_tuned" / "medium.pt"
        return [
            ("narrow.yaml", "small", [f"fine_tune.model={medium}"]),
            ("finetune_small.yaml", "small", []),
        ]
    base = runs / "base_extended" / "base.pt"
    return [
        ("base.yaml", "base", []),
        ("extend.yaml", "base", []),
        ("extend.yaml", "medium", [f"fine_tune.model={base}", "fine_tune.hidden_l_max=1"]),
        ("finetune.yaml", "medium", []),
    ]


def write_frames(name: str, arguments: argparse.Namespace, runs: Path) -> None:
    """All the files of frames that a model needs and that are not there yet."""
    data, aimnet2, limit = arguments.shared / "data", arguments.aimnet2, arguments.max_molecules
    if not (runs / "labels.h5").exists():
        write_spice_frames(data, runs)
        write_diatomics(runs)
        write_labels(data, AIMNet2(aimnet2), runs, limit)
    lines = read_smiles(arguments.smiles)
    wanted = {"molecules": (lines, FOUR_FRAMES)}
    if name == "small":
        wanted["newer"] = (lines[::-1][:NEWER_LINES], TWO_FRAMES)
    for stem, (chosen, walks) in wanted.items():
        out = runs / f"{stem}.h5"
        if not out.exists():
            isolated, workers = atomic_energies(), arguments.workers
            write_molecules(chosen[:limit], data, aimnet2, out, walks, isolated, workers)
    if name == "small" and not (runs / "averaged_newer.h5").exists():
        write_averaged(aimnet2, runs)


def main() -> None:
    """Labels, new molecules, and the stages of training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("medium", "small"))
    parser.add_argument("shared", type=Path)
    parser.add_argument("aimnet2", type=Path)
    parser.add_argument("smiles", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--workers", type=int, default=2, help="processes that sample molecules")
    parser.add_argument("--max-molecules", type=int, help="of each file, for a trial")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = arguments.runs.resolve()
    runs.mkdir(parents=True, exist_ok=True)
    write_frames(arguments.name, arguments, runs)
    program = "import sys; from mace_mm.cli.app import main; main(sys.argv[1:])"
    for source, name, overrides in stages_of(arguments.name, runs):
        text = (CONFIGS / source).read_text().replace("NAME", name)
        config = runs / f"{name}_{source}"
        config.write_text(text.replace("runs/", f"{runs}/"))
        subprocess.run(
            [sys.executable, "-c", program, "train", str(config), *overrides], check=True
        )


if __name__ == "__main__":
    main()
