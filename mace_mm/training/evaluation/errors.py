"""The errors of a potential on labelled frames."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mace_mm.data.labels import FrameSource, LabeledMolecule
from mace_mm.elements import symbol
from mace_mm.errors import DataError, ElementError
from mace_mm.graph.batching import build_graph, collate
from mace_mm.graph.graph import Graph
from mace_mm.model.potential import Potential

# Atoms evaluated at once; bounds the memory, not the size of one structure.
ATOMS_PER_BATCH = 1500


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameErrors:
    """Prediction minus label for one frame.

    Attributes:
        index: number of the frame in its source.
        molecule: number of its molecule in the source.
        subset: origin of the frame, "" where unknown.
        n_atoms: number of atoms.
        energy: eV, None without a label.
        forces: (n_atoms, 3) eV/Å, None without a label.
        energy_label: eV, None without a label.
        forces_label: (n_atoms, 3) eV/Å, None without a label.
    """

    index: int
    molecule: int
    subset: str
    n_atoms: int
    energy: float | None
    forces: np.ndarray | None
    energy_label: float | None = None
    forces_label: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorSummary:
    """Errors over some frames; None where no frame has the label.

    Attributes:
        n_frames: number of frames.
        energy_mae, energy_rmse: of the total energy, eV/atom.
        relative_energy_mae: eV/atom, after each molecule's mean error is taken off; over molecules
            of two or more frames.
        forces_mae, forces_rmse: over force components, eV/Å.
    """

    n_frames: int
    energy_mae: float | None
    energy_rmse: float | None
    relative_energy_mae: float | None
    forces_mae: float | None
    forces_rmse: float | None


def evaluate_frames(
    potential: Potential,
    source: FrameSource,
    *,
    dtype: torch.dtype = torch.float64,
    skip_unknown: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[FrameErrors]:
    """Evaluate every frame of a source and compare with its labels.

    Args:
        potential: with one head, in evaluation mode; its weights are in ``dtype``.
        source: labelled frames.
        dtype: of the graphs.
        skip_unknown: leave frames out that hold an element the model does not know.
        on_progress: called with the number of frames done.

    Raises:
        ElementError: an unknown element, unless they are skipped.
        DataError: there is no frame to evaluate.
    """
    config = potential.network.config
    known = set(config.atomic_numbers)
    unknown = [sorted(set(e.atomic_numbers.tolist()) - known) for e in source.entries]
    kept = [i for i in range(len(source)) if not unknown[source.entry_of_frame[i]]]
    if len(kept) < len(source) and not skip_unknown:
        symbols = " ".join(symbol(z) for z in sorted({z for zs in unknown for z in zs}))
        raise ElementError(
            f"the model knows the elements {' '.join(symbol(z) for z in sorted(known))};"
            f" {len(source) - len(kept)} of {len(source)} frames also hold {symbols}"
        )
    if not kept:
        raise DataError("there is no frame that the model can evaluate")
    errors: list[FrameErrors] = []
    for frames in _batches(source, kept):
        graphs = [
            build_graph(frame.molecule, config.atomic_numbers, config.r_max, dtype)
            for _, frame in frames
        ]
        errors.extend(_compare(potential, collate(graphs), frames, source.entry_of_frame))
        if on_progress is not None:
            on_progress(len(errors))
    return errors


def _batches(
    source: FrameSource, indices: Sequence[int]
) -> Iterator[list[tuple[int, LabeledMolecule]]]:
    batch: list[tuple[int, LabeledMolecule]] = []
    n_atoms = 0
    for index in indices:
        frame = source[index]
        if batch and n_atoms + frame.molecule.n_atoms > ATOMS_PER_BATCH:
            yield batch
            batch, n_atoms = [], 0
        batch.append((index, frame))
        n_atoms += frame.molecule.n_atoms
    yield batch


def _compare(
    potential: Potential,
    graph: Graph,
    frames: Sequence[tuple[int, LabeledMolecule]],
    entry_of_frame: np.ndarray,
) -> Iterator[FrameErrors]:
    prediction = potential(graph)
    energies = prediction.energy.detach().cpu().numpy()
    sizes = [frame.molecule.n_atoms for _, frame in frames]
    forces = np.split(prediction.forces.detach().cpu().double().numpy(), np.cumsum(sizes)[:-1])
    for (index, frame), energy, force in zip(frames, energies, forces, strict=True):
        yield FrameErrors(
            index=index,
            molecule=int(entry_of_frame[index]),
            subset=frame.subset,
            n_atoms=frame.molecule.n_atoms,
            energy=None if frame.energy is None else float(energy - frame.energy),
            forces=None if frame.forces is None else force - frame.forces,
            energy_label=frame.energy,
            forces_label=frame.forces,
        )


def summarize(errors: Sequence[FrameErrors]) -> ErrorSummary:
    """Mean absolute and root mean square errors of some frames.

    Raises:
        DataError: no frames.
    """
    if not errors:
        raise DataError("errors can be summarized over one frame or more, got none")
    labelled = [e for e in errors if e.energy is not None]
    energy = np.array([e.energy for e in labelled]) / np.array([e.n_atoms for e in labelled])
    molecule = np.array([e.molecule for e in labelled], dtype=np.int64)
    relative = _without_molecule_means(energy, molecule)
    forces = [e.forces.ravel() for e in errors if e.forces is not None]
    components = np.concatenate(forces) if forces else np.zeros(0)
    return ErrorSummary(
        n_frames=len(errors),
        energy_mae=_mean(np.abs(energy)),
        energy_rmse=_root(_mean(energy**2)),
        relative_energy_mae=_mean(np.abs(relative)),
        forces_mae=_mean(np.abs(components)),
        forces_rmse=_root(_mean(components**2)),
    )


def _without_molecule_means(values: np.ndarray, molecule: np.ndarray) -> np.ndarray:
    if values.size == 0:
        return values
    _, place, counts = np.unique(molecule, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=values) / counts
    return (values - means[place])[counts[place] > 1]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _root(value: float | None) -> float | None:
    return None if value is None else value**0.5
