"""All sampled structures of one item: the function that a worker runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from mace_mm.errors import DataError, GeometryError
from mace_mm.generation.frames.dynamics import ForceFunction, langevin, minimize
from mace_mm.generation.frames.forces import confined, make_forces
from mace_mm.generation.frames.seeding import derive_seed
from mace_mm.generation.frames.selection import farthest_points
from mace_mm.generation.molecules.clusters import confinement_radius, dimer_frames, packed_cluster
from mace_mm.generation.molecules.conformers import embed_conformers
from mace_mm.generation.molecules.items import Item
from mace_mm.generation.protocol import ColdSettings, Protocol
from mace_mm.generation.work.parts import has_slow_dynamics
from mace_mm.identity.change import Kind
from mace_mm.identity.perception import specified_stereo_of
from mace_mm.identity.reference import make_identity
from mace_mm.identity.stereo import Stereo
from mace_mm.identity.watch import MoleculeWatch
from mace_mm.units import BOHR_TO_ANGSTROM

_ANOTHER_MOLECULE = (
    Kind.NOT_FINITE,
    Kind.BOND_BROKEN,
    Kind.BOND_MADE,
    Kind.PROTON_MOVED,
    Kind.STEREO_INVERTED,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledFrames:
    """Structures of one item, before labels.

    Attributes:
        atomic_numbers: (n_atoms,).
        charge: total charge, e.
        frames: (n_frames, n_atoms, 3) Å.
        origins: hot, cold, given or scan, one for each frame.
        notes: what was left out on the way, for the report.
    """

    atomic_numbers: np.ndarray
    charge: int
    frames: np.ndarray
    origins: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class HotFrames:
    """Frames of the hot dynamics from one start.

    Attributes:
        frames: (n_frames, n_atoms, 3) Å; none where the dynamics failed, or without such a start.
        notes: why they failed.
    """

    frames: np.ndarray
    notes: tuple[str, ...] = ()


def sample_item(
    item: Item,
    protocol: Protocol,
    given: np.ndarray | None,
    hot: Sequence[HotFrames | None] = (),
) -> SampledFrames:
    """Make the frames of one item; the result depends only on the arguments.

    Args:
        given: (n, n_atoms, 3) Å, conformers read from the item's source, or None.
        hot: of all starts, as `sample_start` makes them; what is missing is made here.

    Raises:
        InputError, GeometryError: nothing could be made of it; the message is the report's line.
    """
    mol = item.molecule()
    seed = _seed(item, protocol)
    notes: list[str] = []
    start = None
    if item.kind == "given":
        if given is None:
            raise DataError(f"{item.name}: the given conformers are missing")
        frames, origins = given, ["given"] * len(given)
    elif item.kind == "dimer":
        settings = protocol.dimers[item.settings]
        frames = dimer_frames(item.parts, settings, protocol.conformers, seed)
        origins = ["scan"] * len(frames)
    else:
        system = _System.of(item, protocol, given)
        all_hot = []
        for i, part in enumerate(hot or [None] * len(system.starts)):
            if part is not None:
                all_hot.append(part)
            elif has_slow_dynamics(item, protocol):
                all_hot.append(sample_start(item, protocol, given, i))
            else:
                all_hot.append(_hot_frames(system, protocol, i, seed))
        frames, origins = _hot_and_cold(system, protocol, all_hot, seed, notes)
        start = system.starts[0]
    frames, origins = _intact(mol, start, frames, origins, notes)
    # SPICE stores float32 bohr: labels then belong to exactly the positions in the file.
    frames = (frames / BOHR_TO_ANGSTROM).astype(np.float32).astype(np.float64) * BOHR_TO_ANGSTROM
    if not len(frames):
        raise GeometryError("no frame with all bonds intact: " + "; ".join(notes))
    return SampledFrames(
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        charge=Chem.GetFormalCharge(mol),
        frames=frames,
        origins=tuple(origins),
        notes=tuple(notes),
    )


def sample_start(item: Item, protocol: Protocol, given: np.ndarray | None, index: int) -> HotFrames:
    """The part of `sample_item` that takes long, for one start; no frames where it is not there.

    Raises:
        InputError: the item has no start at all.
    """
    system = _System.of(item, protocol, given)
    if index >= len(system.starts):
        return HotFrames(frames=system.starts[:0])
    return _hot_frames(system, protocol, index, _seed(item, protocol))


def _seed(item: Item, protocol: Protocol) -> int:
    return derive_seed(protocol.seed, item.kind, item.name, *item.parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class _System:
    """What the dynamics of an item move, from where, and with which forces."""

    starts: np.ndarray
    forces: ForceFunction
    temperature_k: float
    masses: np.ndarray
    numbers: np.ndarray

    @staticmethod
    def of(item: Item, protocol: Protocol, given: np.ndarray | None) -> "_System":
        mol, seed = item.molecule(), _seed(item, protocol)
        temperature_k = protocol.sampling.temperature_k
        if given is not None:
            starts = given
        elif item.kind == "cluster":
            settings = protocol.clusters[item.settings]
            starts = packed_cluster(item.parts, settings.packings, protocol.conformers, seed)
            temperature_k = settings.temperature_k
        else:
            starts = embed_conformers(mol, protocol.conformers, derive_seed(seed, "conformers"))
        forces = make_forces(protocol.sampling.force, mol, starts[0])
        if item.kind == "cluster":
            forces = confined(forces, confinement_radius(starts))
        return _System(
            starts=starts,
            forces=forces,
            temperature_k=temperature_k,
            masses=np.array([atom.GetMass() for atom in mol.GetAtoms()]),
            numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        )


def _hot_and_cold(
    system: _System, protocol: Protocol, hot: list[HotFrames], seed: int, notes: list[str]
) -> tuple[np.ndarray, list[str]]:
    """A diverse selection of the hot frames of all starts, and cold frames from those."""
    notes.extend(note for part in hot for note in part.notes)
    frames = np.concatenate([part.frames for part in hot])
    if not len(frames):
        raise GeometryError("; ".join(notes))
    frames = frames[farthest_points(frames, system.numbers, protocol.selection.count)]
    cold = _cold_frames(system, protocol, frames, seed, notes)
    origins = ["hot"] * len(frames) + ["cold"] * len(cold)
    frames = np.concatenate([frames, cold])
    frames -= frames.mean(axis=1, keepdims=True)
    return frames, origins


def _hot_frames(system: _System, protocol: Protocol, index: int, seed: int) -> HotFrames:
    settings = protocol.sampling
    n_steps = settings.duration_ps * 1e3 / settings.timestep_fs
    try:
        frames = langevin(
            system.forces,
            system.starts[index],
            system.masses,
            temperature_k=system.temperature_k,
            timestep_fs=settings.timestep_fs,
            friction_per_ps=settings.friction_per_ps,
            n_frames=settings.frames_per_conformer,
            steps_per_frame=max(1, round(n_steps / settings.frames_per_conformer)),
            seed=derive_seed(seed, "hot", index),
        )
    except GeometryError as error:
        note = f"hot dynamics from conformer {index + 1}: {error}"
        return HotFrames(frames=system.starts[:0], notes=(note,))
    return HotFrames(frames=frames)


def _cold_frames(
    system: _System, protocol: Protocol, hot: np.ndarray, seed: int, notes: list[str]
) -> np.ndarray:
    settings: ColdSettings = protocol.cold
    cold = []
    for i, start in enumerate(hot[: settings.count]):
        try:
            relaxed = minimize(system.forces, start, n_steps=settings.minimization_steps)
            cold.append(
                langevin(
                    system.forces,
                    relaxed,
                    system.masses,
                    temperature_k=settings.temperature_k,
                    timestep_fs=protocol.sampling.timestep_fs,
                    friction_per_ps=protocol.sampling.friction_per_ps,
                    n_frames=1,
                    steps_per_frame=max(
                        1, round(settings.duration_ps * 1e3 / protocol.sampling.timestep_fs)
                    ),
                    seed=derive_seed(seed, "cold", i),
                )[0]
            )
        except GeometryError as error:
            notes.append(f"cold dynamics from hot frame {i + 1}: {error}")
    return np.stack(cold) if cold else np.empty((0, *hot.shape[1:]))


def _intact(
    mol: Chem.Mol,
    start: np.ndarray | None,
    frames: np.ndarray,
    origins: list[str],
    notes: list[str],
) -> tuple[np.ndarray, list[str]]:
    """Leave out frames that are another molecule."""
    keep = []
    for i, problem in enumerate(another_molecule(mol, frames, start)):
        if problem is None:
            keep.append(i)
        else:
            notes.append(f"{origins[i]} frame {i + 1} left out: {problem}")
    return frames[keep], [origins[i] for i in keep]


def another_molecule(
    mol: Chem.Mol, frames: np.ndarray, start: np.ndarray | None = None
) -> list[str | None]:
    """What makes each frame another molecule than its SMILES says, None where nothing does.

    Args:
        mol: with hydrogens.
        frames: (n_frames, n_atoms, 3) Å; no trajectory, each is looked at by itself.
        start: (n_atoms, 3) Å with the configuration that the SMILES specifies; None to look at
            bonds alone.
    """
    if not len(frames):
        return []
    identity = make_identity(
        [atom.GetAtomicNum() for atom in mol.GetAtoms()],
        [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()],
        frames[0] if start is None else start,
        names=[f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in mol.GetAtoms()],
        stereo=Stereo.none() if start is None else specified_stereo_of(mol),
    )
    problems: list[str | None] = []
    for positions in frames:
        changes = MoleculeWatch(identity).look(positions)
        found = [change.text for change in changes if change.kind in _ANOTHER_MOLECULE]
        problems.append(found[0] if found else None)
    return problems
