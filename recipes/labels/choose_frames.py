"""Choose the frames of a round: hot fragments and their dimers, in an order of which every
beginning is balanced over charge, elements and size.

    python recipes/labels/choose_frames.py 3 --most-atoms 12 --frames 2 --shared ../shared \\
        --cache FOLDER

goes on from the frames that FOLDER has, and writes
`datasets/mace_mm_fragments/queue/round-3.h5`: SPICE's layout without labels, and `order`, the ids
of the frames (``molecule/frame``) in which they are to be labelled. Molecules of earlier rounds are
left out.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from fragments import Fragment, formula_of, fragments, test_formulas
from queue_file import SET, Candidate, names_of_rounds, write_queue
from rdkit import Chem, RDLogger

from mace_mm.elements import covalent_radius
from mace_mm.errors import GeometryError, MaceMMError
from mace_mm.generation.frames.dynamics import ForceFunction, langevin, minimize
from mace_mm.generation.frames.forces import make_forces
from mace_mm.generation.frames.frames import another_molecule
from mace_mm.generation.frames.seeding import derive_seed
from mace_mm.generation.molecules.clusters import random_rotation
from mace_mm.generation.molecules.conformers import embed_conformers
from mace_mm.generation.protocol import ConformerSettings, ForceSettings, fingerprint
from mace_mm.generation.work.store import Record, RecordStore
from mace_mm.units import BOHR_TO_ANGSTROM

TEMPERATURE_K = 500.0
SEED = 20261130


def hot_frames(mol: Chem.Mol, n_frames: int, seed: int) -> np.ndarray:
    """Frames (n_frames, n_atoms, 3) Å of GFN2-xTB dynamics at 500 K with all bonds intact.

    Raises:
        MaceMMError: RDKit finds no conformer, or the molecule does not hold together.
    """
    start = embed_conformers(mol, ConformerSettings(count=1), seed)[0]
    if mol.GetNumAtoms() == 1:
        return start[None]
    forces = make_forces(ForceSettings(kind="tblite"), mol, start)
    start = minimize(forces, start, n_steps=25)
    frames = _dynamics(mol, forces, start, n_frames, 200, TEMPERATURE_K, seed)
    return _whole(mol, frames)


def complex_frames(parts: list[Chem.Mol], mol: Chem.Mol, n_frames: int, seed: int) -> np.ndarray:
    """Frames of a complex: in turn near (relaxed a little, then hot) and apart (2 to 8 Å)."""
    generator = np.random.default_rng(seed)
    radii = np.array([covalent_radius(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    found = []
    for i in range(n_frames):
        placed = np.empty((0, 3))
        distance = 2.0 if i % 2 == 0 else 2.0 + 6.0 * generator.random() ** 2
        for k, part in enumerate(parts):
            body = hot_frames(part, 1, derive_seed(seed, i, k))[0]
            body = (body - body.mean(axis=0)) @ random_rotation(generator).T
            if len(placed):
                body = _approached(placed, body, distance, radii, generator)
            placed = np.concatenate([placed, body])
        if i % 2 == 0:
            forces = make_forces(ForceSettings(kind="tblite"), mol, placed)
            placed = minimize(forces, placed, n_steps=12)
            placed = _dynamics(mol, forces, placed, 1, 80, 300.0, derive_seed(seed, i))[0]
        found.append(placed)
    return _whole(mol, np.stack(found))


def _approached(
    placed: np.ndarray,
    body: np.ndarray,
    distance: float,
    radii: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """A body moved along a random direction until its closest contact is ``distance`` Å.

    Contacts are counted beyond the radii of the larger atoms: 2 Å are meant for hydrogens.
    """
    direction = generator.standard_normal(3)
    direction /= np.linalg.norm(direction)
    first, second = radii[: len(placed)], radii[len(placed) : len(placed) + len(body)]
    least = distance + 0.7 * (first[:, None] + second[None] - 2 * radii.min())
    for shift in np.arange(20.0, 0.0, -0.05):
        moved = body + shift * direction
        if (np.linalg.norm(placed[:, None] - moved[None], axis=-1) < least).any():
            return moved
    return body + distance * direction


def _dynamics(
    mol: Chem.Mol,
    forces: ForceFunction,
    start: np.ndarray,
    n_frames: int,
    steps: int,
    temperature_k: float,
    seed: int,
) -> np.ndarray:
    return langevin(
        forces,
        start,
        np.array([atom.GetMass() for atom in mol.GetAtoms()]),
        temperature_k=temperature_k,
        timestep_fs=1.0,
        friction_per_ps=20.0,
        n_frames=n_frames,
        steps_per_frame=steps,
        seed=seed,
    )


def _whole(mol: Chem.Mol, frames: np.ndarray) -> np.ndarray:
    """The frames in which all bonds are there and no others.

    Raises:
        GeometryError: there is none.
    """
    problems = another_molecule(mol, frames)
    kept = [x for x, problem in zip(frames, problems, strict=True) if problem is None]
    if not kept:
        raise GeometryError("no frame has the bonds of the molecule")
    return np.stack(kept)


def name_of(parts: tuple[Fragment, ...]) -> str:
    """A name that depends on the molecules alone."""
    smiles = ".".join(part.smiles for part in parts)
    return f"m{hashlib.sha256(smiles.encode()).hexdigest()[:10]}"


def frames_of(parts: list[Chem.Mol], mol: Chem.Mol, smiles: str, n_frames: int) -> np.ndarray:
    """Frames (n, n_atoms, 3) Å of one molecule, or of a complex of several."""
    seed = derive_seed(SEED, smiles)
    if len(parts) == 1:
        return hot_frames(mol, n_frames, seed)
    return complex_frames(parts, mol, n_frames, seed)


def candidate_of(
    parts: tuple[Fragment, ...], n_frames: int, cache: RecordStore | None
) -> Candidate:
    """Frames of one molecule, or of a complex of several, from the cache where it has them.

    Raises:
        MaceMMError, ValueError: there are none.
    """
    smiles = ".".join(part.smiles for part in parts)
    # RDKit adds hydrogens behind all heavy atoms: the parts are kept one after the other.
    bodies = [Chem.AddHs(Chem.MolFromSmiles(part.smiles)) for part in parts]
    mol = bodies[0]
    for body in bodies[1:]:
        mol = Chem.CombineMols(mol, body)
    key = fingerprint(smiles, str(n_frames), str(SEED))
    record = None if cache is None else cache.load(key)
    if record is None:
        try:
            record = Record(arrays={"frames": frames_of(bodies, mol, smiles, n_frames)})
        except (MaceMMError, ValueError) as error:
            record = Record(facts={"failure": str(error)})
        if cache is not None:
            cache.save(key, record.encode())
    if record.failure is not None:
        raise GeometryError(record.failure)
    frames = record.arrays["frames"]
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    return Candidate(
        name=name_of(parts),
        smiles=Chem.MolToSmiles(mol),
        group=" with ".join(part.group for part in parts),
        validation=any(part.validation for part in parts),
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        charge=Chem.GetFormalCharge(mol),
        positions=(frames / BOHR_TO_ANGSTROM).astype(np.float32),
    )


def complexes(
    molecules: list[Fragment], count: int, most_atoms: int, forbidden: set[str], seed: int
) -> list[tuple[Fragment, ...]]:
    """Pairs and triples: half with water, some with a halide, the others with each other."""
    generator = np.random.default_rng(seed)
    sizes = {f: Chem.AddHs(Chem.MolFromSmiles(f.smiles)).GetNumAtoms() for f in molecules}
    small = [f for f in molecules if sizes[f] <= most_atoms - 3]
    water = Fragment(smiles="O", group="water")
    halides = [Fragment(smiles=f"[{x}-]", group="halide ion") for x in ("F", "Cl", "Br", "I")]
    found: dict[str, tuple[Fragment, ...]] = {}
    while len(found) < count:
        first = small[generator.integers(len(small))]
        draw = generator.random()
        if draw < 0.45:
            others = (water,)
        elif draw < 0.55:
            others = (water, water)
        elif draw < 0.65:
            others = (halides[generator.integers(4)],)
        else:
            others = (small[generator.integers(len(small))],)
        # A molecule that is kept for validation meets only its like, or water and halides.
        if others[0] in sizes and others[0].validation != first.validation:
            continue
        parts = (first, *others)
        mol = Chem.AddHs(Chem.MolFromSmiles(".".join(part.smiles for part in parts)))
        charges = [Chem.GetFormalCharge(Chem.MolFromSmiles(part.smiles)) for part in parts]
        like = charges[0] * charges[1] > 0
        if like or mol.GetNumAtoms() > most_atoms or formula_of(mol) in forbidden:
            continue
        found[".".join(part.smiles for part in parts)] = parts
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("round", type=int)
    parser.add_argument("--least-atoms", type=int, default=2)
    parser.add_argument("--most-atoms", type=int, default=8)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--complexes", type=int, default=0)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder of frames that were made before")
    parser.add_argument("--share", type=float, default=1.0, help="of the molecules, at random")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    molecules = fragments(Path(__file__).with_name("grammar.yaml"), arguments.shared)
    rng = np.random.default_rng(arguments.round)
    parts: list[tuple[Fragment, ...]] = []
    for i in rng.permutation(len(molecules)):
        n_atoms = Chem.AddHs(Chem.MolFromSmiles(molecules[i].smiles)).GetNumAtoms()
        inside = arguments.least_atoms <= n_atoms <= arguments.most_atoms
        if inside and rng.random() < arguments.share:
            parts.append((molecules[i],))
    parts += complexes(
        molecules,
        arguments.complexes,
        arguments.most_atoms,
        test_formulas(arguments.shared),
        arguments.round,
    )
    cache = None if arguments.cache is None else RecordStore(arguments.cache)
    chosen = []
    known = names_of_rounds(SET, before=arguments.round)
    for entry in parts:
        if name_of(entry) in known:
            continue
        try:
            chosen.append(candidate_of(entry, arguments.frames, cache))
        except (MaceMMError, ValueError) as error:
            names = ".".join(part.smiles for part in entry)
            print(f"{entry[0].group}: {names}: {error}", flush=True)
    path = SET / "queue" / f"round-{arguments.round}.h5"
    n_frames = write_queue(path, chosen)
    print(f"{path}: {n_frames} frames of {len(chosen)} molecules")


if __name__ == "__main__":
    main()
