"""Frames that wait for labels: their file, and the order in which they are labelled."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

SET = Path(__file__).resolve().parents[2] / "datasets" / "mace_mm_fragments"
# The shares of the kinds of frames in every beginning of the queue.
SHARES = {
    "18 atoms or more": 0.05,
    "ion": 0.28,
    "bromine or iodine": 0.11,
    "phosphorus": 0.07,
    "sulfur of high valence": 0.06,
    "boron or silicon": 0.07,
    "complex": 0.14,
    "other": 0.22,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """Frames of one molecule (or complex) without labels; positions (n, n_atoms, 3) bohr."""

    name: str
    smiles: str
    group: str
    validation: bool
    atomic_numbers: np.ndarray
    charge: int
    positions: np.ndarray

    @property
    def kind(self) -> str:
        """The first kind of `SHARES` that it belongs to."""
        numbers = set(self.atomic_numbers.tolist())
        if len(self.atomic_numbers) >= 18:
            return "18 atoms or more"
        if self.charge:
            return "ion"
        if numbers & {35, 53}:
            return "bromine or iodine"
        if 15 in numbers:
            return "phosphorus"
        if self.group.startswith(("sulfo", "sulfur_more")):
            return "sulfur of high valence"
        if numbers & {5, 14}:
            return "boron or silicon"
        return "complex" if "." in self.smiles else "other"

    @property
    def cost(self) -> float:
        """What a label costs, in arbitrary units: a power of the size of the basis."""
        functions = np.where(self.atomic_numbers == 1, 0.4, 1.0)
        functions = functions + 0.35 * (self.atomic_numbers > 10)
        return float(functions.sum() ** 2.3)


def in_order(candidates: list[Candidate], seed: int) -> list[str]:
    """Frame ids, cheap ones first within a kind, and kinds by their shares all along."""
    generator = np.random.default_rng(seed)
    waiting: dict[str, list[tuple[float, str]]] = {kind: [] for kind in SHARES}
    for candidate in candidates:
        # Frames of one molecule are far apart: the second comes when others had their first.
        for i in range(len(candidate.positions)):
            rank = candidate.cost * (1.0 + i) * np.exp(0.5 * generator.standard_normal())
            waiting[candidate.kind].append((rank, f"{candidate.name}/{i}"))
    for entries in waiting.values():
        entries.sort(reverse=True)
    taken, order = dict.fromkeys(SHARES, 0), []
    while any(waiting.values()):
        kind = min(
            (kind for kind in SHARES if waiting[kind]),
            key=lambda kind: (taken[kind] + 1) / SHARES[kind],
        )
        order.append(waiting[kind].pop()[1])
        taken[kind] += 1
    return order


def write_queue(path: Path, candidates: list[Candidate]) -> int:
    """Write the frames of one round; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", track_order=False) as file:
        for candidate in candidates:
            group = file.create_group(candidate.name)
            group["atomic_numbers"] = candidate.atomic_numbers.astype(np.int16)
            positions = group.create_dataset("conformations", data=candidate.positions)
            positions.attrs["units"] = "bohr"
            group.attrs["smiles"] = candidate.smiles
            group.attrs["group"] = candidate.group
            group.attrs["validation"] = candidate.validation
            group.attrs["charge"] = candidate.charge
        order = in_order(candidates, seed=0)
        file.create_dataset("order", data=[name.encode() for name in order])
    return len(order)


def read_queue(path: Path) -> Iterator[tuple[str, Candidate]]:
    """Frame ids in order, each with a candidate of that one frame."""
    with h5py.File(path) as file:
        for frame_id in file["order"].asstr()[()]:
            name, index = frame_id.split("/")
            group = file[name]
            yield (
                str(frame_id),
                Candidate(
                    name=name,
                    smiles=str(group.attrs["smiles"]),
                    group=str(group.attrs["group"]),
                    validation=bool(group.attrs["validation"]),
                    atomic_numbers=group["atomic_numbers"][()].astype(int),
                    charge=int(group.attrs["charge"]),
                    positions=group["conformations"][int(index) : int(index) + 1],
                ),
            )


def rounds(folder: Path) -> list[Path]:
    """The queue's files of a set, in order."""
    return sorted((folder / "queue").glob("round-*.h5"), key=lambda p: int(p.stem.split("-")[1]))


def names_of_rounds(folder: Path, before: int) -> set[str]:
    """Names of the molecules of all rounds of a set before one."""
    names: set[str] = set()
    for path in rounds(folder):
        if int(path.stem.split("-")[1]) < before:
            with h5py.File(path) as file:
                names.update(name for name in file if name != "order")
    return names


def finished_in_parts(folder: Path) -> set[str]:
    """Ids of the frames that the parts of a set hold."""
    found: set[str] = set()
    for path in (folder / "parts").glob("*.h5"):
        with h5py.File(path) as file:
            for name, group in file.items():
                found.update(f"{name}/{number}" for number in group["frame"][()])
    return found
