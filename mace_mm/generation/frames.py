"""All sampled structures of one item: the function that a worker runs."""

from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from mace_mm.elements import covalent_radius
from mace_mm.errors import DataError, GeometryError
from mace_mm.generation.clusters import (
    broken_bond,
    confinement_radius,
    dimer_frames,
    packed_cluster,
)
from mace_mm.generation.conformers import embed_conformers
from mace_mm.generation.forces import confined, make_forces
from mace_mm.generation.items import Item
from mace_mm.generation.protocol import ColdSettings, Protocol
from mace_mm.generation.sampling import ForceFunction, langevin, minimize
from mace_mm.generation.seeding import derive_seed
from mace_mm.generation.selection import farthest_points
from mace_mm.units import BOHR_TO_ANGSTROM


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


def sample_item(item: Item, protocol: Protocol, given: np.ndarray | None) -> SampledFrames:
    """Make the frames of one item; the result depends only on the arguments.

    Args:
        given: (n, n_atoms, 3) Å, conformers read from the item's source, or None.

    Raises:
        InputError, GeometryError: nothing could be made of it; the message is the report's line.
    """
    mol = item.molecule()
    seed = derive_seed(protocol.seed, item.kind, item.name, *item.parts)
    notes: list[str] = []
    if item.kind == "given":
        if given is None:
            raise DataError(f"{item.name}: the given conformers are missing")
        frames, origins = given, ["given"] * len(given)
    elif item.kind == "dimer":
        settings = protocol.dimers[item.settings]
        frames = dimer_frames(item.parts, settings, protocol.conformers, seed)
        origins = ["scan"] * len(frames)
    else:
        frames, origins = _dynamics(item, protocol, mol, given, seed, notes)
    frames, origins = _intact(mol, frames, origins, notes)
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


def _dynamics(
    item: Item,
    protocol: Protocol,
    mol: Chem.Mol,
    given: np.ndarray | None,
    seed: int,
    notes: list[str],
) -> tuple[np.ndarray, list[str]]:
    """Hot frames from every start, a diverse selection of them, and cold frames from those."""
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
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    hot = _hot_frames(protocol, forces, starts, masses, temperature_k, seed, notes)
    hot = hot[farthest_points(hot, numbers, protocol.selection.count)]
    cold = _cold_frames(protocol, forces, hot, masses, seed, notes)
    frames = np.concatenate([hot, cold])
    frames -= frames.mean(axis=1, keepdims=True)
    return frames, ["hot"] * len(hot) + ["cold"] * len(cold)


def _hot_frames(
    protocol: Protocol,
    forces: ForceFunction,
    starts: np.ndarray,
    masses: np.ndarray,
    temperature_k: float,
    seed: int,
    notes: list[str],
) -> np.ndarray:
    settings = protocol.sampling
    n_steps = settings.duration_ps * 1e3 / settings.timestep_fs
    trajectories = []
    for i, start in enumerate(starts):
        try:
            trajectories.append(
                langevin(
                    forces,
                    start,
                    masses,
                    temperature_k=temperature_k,
                    timestep_fs=settings.timestep_fs,
                    friction_per_ps=settings.friction_per_ps,
                    n_frames=settings.frames_per_conformer,
                    steps_per_frame=max(1, round(n_steps / settings.frames_per_conformer)),
                    seed=derive_seed(seed, "hot", i),
                )
            )
        except GeometryError as error:
            notes.append(f"hot dynamics from conformer {i + 1}: {error}")
    if not trajectories:
        raise GeometryError("; ".join(notes))
    return np.concatenate(trajectories)


def _cold_frames(
    protocol: Protocol,
    forces: ForceFunction,
    hot: np.ndarray,
    masses: np.ndarray,
    seed: int,
    notes: list[str],
) -> np.ndarray:
    settings: ColdSettings = protocol.cold
    cold = []
    for i, start in enumerate(hot[: settings.count]):
        try:
            relaxed = minimize(forces, start, n_steps=settings.minimization_steps)
            cold.append(
                langevin(
                    forces,
                    relaxed,
                    masses,
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
    mol: Chem.Mol, frames: np.ndarray, origins: list[str], notes: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Leave out frames in which a bond is broken."""
    radii = np.array([covalent_radius(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    keep = []
    for i, positions in enumerate(frames):
        problem = broken_bond(mol, radii, positions)
        if problem is None:
            keep.append(i)
        else:
            notes.append(f"{origins[i]} frame {i + 1} left out: {problem}")
    return frames[keep], [origins[i] for i in keep]
