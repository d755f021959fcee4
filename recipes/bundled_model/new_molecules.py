"""Frames of molecules that the teachers' file lacks: sampled with a model, labelled with AIMNet2.

The SMILES that were used lie in the repository openforcefield/qca-dataset-submission (CC BY 4.0):
SPICE's PubChem sets 1 to 6 and the OpenFF industry benchmark. The bundled model gives a frame at
100 K and one or three at 500 K of each molecule, 60 fs apart. Molecules of the teachers' file, and
any with the formula of a test or validation frame, are left out.
"""

import multiprocessing
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ase.io
import h5py
import numpy as np
import torch
from ase.data import atomic_masses
from combine_labels import ELEMENTS, LARGEST_FORCE, composition, energy_shift, read_spice
from rdkit import Chem, RDLogger
from teachers import AIMNet2

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_model
from mace_mm.data.formats.spice_writer import write_spice
from mace_mm.data.labels import ConformerSet, formula
from mace_mm.errors import MaceMMError
from mace_mm.evaluate.build import build_evaluator
from mace_mm.generation.frames.dynamics import langevin
from mace_mm.generation.frames.frames import another_molecule
from mace_mm.generation.frames.seeding import derive_seed
from mace_mm.generation.molecules.conformers import embed_conformers
from mace_mm.generation.molecules.molecules import from_mapped_smiles, mapped_smiles
from mace_mm.generation.protocol import ConformerSettings

LEVEL = "AIMNet2, approximates wB97M-D3(BJ)/def2-TZVPP"
SHARD = 100
LARGEST_MOLECULE = 70  # atoms
CONFORMERS = ConformerSettings(count=1, attempts=5)
# Temperature in K, friction in 1/ps, frames, steps of 1 fs for each.
Walks = tuple[tuple[float, float, int, int], ...]
FOUR_FRAMES: Walks = ((100.0, 100.0, 1, 50), (500.0, 50.0, 3, 60))
TWO_FRAMES: Walks = ((100.0, 100.0, 1, 40), (500.0, 50.0, 1, 60))


@dataclass(frozen=True)
class Task:
    """A hundred molecules: (number, subset, mapped SMILES) of each, and where their frames go."""

    molecules: tuple[tuple[int, str, str], ...]
    out: Path


def read_smiles(folder: Path) -> list[tuple[str, str]]:
    """(subset, SMILES) of every line of the `SUBSET.smi` files in a folder, shuffled."""
    found = [
        ("pubchem" if path.stem.startswith("pubchem") else path.stem, line.split()[0])
        for path in sorted(folder.glob("*.smi"))
        for line in path.read_text().splitlines()
        if line.strip()
    ]
    return [found[k] for k in np.random.default_rng(7).permutation(len(found))]


def parse(smiles: str) -> Chem.Mol | None:
    """The molecule without atom maps and hydrogens; None if RDKit does not read it."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    return Chem.RemoveHs(mol)


def identity(mol: Chem.Mol) -> str:
    """Canonical SMILES without stereo."""
    return Chem.MolToSmiles(mol, isomericSmiles=False)


def atomic_numbers(mol: Chem.Mol) -> np.ndarray:
    """(n_atoms,) of a molecule."""
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])


def suits(mol: Chem.Mol) -> bool:
    """Whether the model is for this molecule: one, neutral, closed-shell, of its elements."""
    if any(atom.GetNumRadicalElectrons() or atom.GetIsotope() for atom in mol.GetAtoms()):
        return False
    single = len(Chem.GetMolFrags(mol)) == 1 and Chem.GetFormalCharge(mol) == 0
    known = set(atomic_numbers(mol).tolist()) <= set(ELEMENTS)
    return single and known and mol.GetNumAtoms() <= LARGEST_MOLECULE


def choose(lines: list[tuple[str, str]], data: Path, out: Path) -> list[Task]:
    """The molecules that are new, in shards of the file `out`, beside which lies the validation."""
    validation = out.with_name("spice_validation.xyz")
    excluded = {
        formula(atoms.numbers)
        for path in [*(data / "spice-labelled").glob("*_test.xyz"), validation]
        for atoms in ase.io.read(path, ":")
    }
    with h5py.File(data / "teacher" / "teacher.h5") as file:
        known = [parse(group["smiles"][0].decode().split(".")[0]) for group in file.values()]
    seen = {identity(mol) for mol in known if mol is not None}
    chosen: list[tuple[int, str, str]] = []
    for k, (subset, line) in enumerate(lines):
        mol = parse(line)
        if mol is None or identity(mol) in seen:
            continue
        seen.add(identity(mol))
        mol = Chem.AddHs(mol)
        if suits(mol) and formula(atomic_numbers(mol)) not in excluded:
            chosen.append((k, subset, mapped_smiles(mol)))
    return [
        Task(tuple(chosen[i : i + SHARD]), out.with_suffix("") / f"{chosen[i][0]:06d}.h5")
        for i in range(0, len(chosen), SHARD)
    ]


def sample(archive: Archive, mol: Chem.Mol, walks: Walks, seed: int) -> np.ndarray:
    """Frames (n_frames, n_atoms, 3) Å in which no bond is broken; the first is the coldest.

    Raises:
        MaceMMError: no conformer, or dynamics that blew up.
    """
    numbers = atomic_numbers(mol)
    evaluator = build_evaluator(archive, numbers.tolist(), engine="native")
    no_cell = torch.zeros(0, dtype=torch.float64)

    def forces(x: np.ndarray) -> np.ndarray:
        return evaluator.in_units(torch.from_numpy(x), no_cell, 1.0, 1.0)[1].double().numpy()

    x = embed_conformers(mol, CONFORMERS, seed)[0]
    frames: list[np.ndarray] = []
    for temperature, friction, n_frames, steps in walks:
        walked = langevin(
            forces,
            frames[-1] if frames else x,
            atomic_masses[numbers],
            temperature_k=temperature,
            timestep_fs=1.0,
            friction_per_ps=friction,
            n_frames=n_frames,
            steps_per_frame=steps,
            seed=derive_seed(seed, int(temperature)),
        )
        frames.extend(walked)
    problems = another_molecule(mol, np.array(frames), x)
    return np.array([x for x, problem in zip(frames, problems, strict=True) if problem is None])


def label(network: AIMNet2, mol: Chem.Mol, frames: np.ndarray, number: int) -> ConformerSet:
    """Frames with the labels of one of the four networks, in its own zero of energy."""
    numbers = atomic_numbers(mol)
    energies, forces = network(numbers, frames, member=number)
    kept = np.linalg.norm(forces, axis=-1).max(axis=1) < LARGEST_FORCE
    return ConformerSet(
        name=f"{number:06d}",
        atomic_numbers=numbers,
        positions=frames[kept],
        energies=energies[kept],
        forces=forces[kept],
        level_of_theory=LEVEL,
    )


def make_shard(
    task: Task, aimnet2: Path, walks: Walks, shift: np.ndarray, isolated: dict[int, float]
) -> str:
    """Sample and label the molecules of a task; what RDKit or the dynamics refuse is left out."""
    if task.out.exists():
        return f"{task.out.name} was there"
    RDLogger.DisableLog("rdApp.*")
    torch.set_num_threads(1)
    network, archive = AIMNet2(aimnet2), open_model()
    entries = []
    for k, subset, smiles in task.molecules:
        mol = from_mapped_smiles(smiles)
        try:
            frames = sample(archive, mol, walks, 1 + k)
        except MaceMMError:
            continue
        if len(frames) < 2:
            continue
        entry = label(network, mol, frames, k)
        moved = entry.energies + composition(entry.atomic_numbers, frames[0]) @ shift
        entries.append(replace(entry, energies=moved, smiles=smiles, subset=subset))
    write_spice(task.out, entries, atomic_energies=isolated)
    return f"{task.out.name}: {len(entries)} of {len(task.molecules)} molecules"


def write_molecules(
    lines: list[tuple[str, str]],
    data: Path,
    aimnet2: Path,
    out: Path,
    walks: Walks,
    isolated: dict[int, float],
    workers: int,
) -> None:
    """Write a folder of shards, a file for each hundred molecules, and of them the file OUT.

    Args:
        lines: from `read_smiles`.
        out: the HDF5 file; the folder has its name without the ending.
        walks: how each molecule is sampled.
        isolated: energies of the atoms, eV by atomic number.
        workers: processes. A run that was stopped goes on.
    """
    folder = out.with_suffix("")
    folder.mkdir(exist_ok=True)
    shift = energy_shift(AIMNet2(aimnet2), read_spice(data / "spice-labelled"))
    tasks = choose(lines, data, out)
    work = partial(make_shard, aimnet2=aimnet2, walks=walks, shift=shift, isolated=isolated)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for n, line in enumerate(pool.imap_unordered(work, tasks), 1):
            print(f"{n} of {len(tasks)} shards, {line}", flush=True)
    unfinished = folder / "all.part"
    with h5py.File(unfinished, "w") as everything:
        for task in tasks:
            with h5py.File(task.out) as shard:
                for name in shard:
                    shard.copy(name, everything)
    os.replace(unfinished, out)
