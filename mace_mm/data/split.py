"""Splits by molecule: no molecule has frames on both sides. Seeded, and stored as JSON."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.data.frames import SubsetFrames
from mace_mm.data.labels import FrameSource, MoleculeEntry, formula
from mace_mm.errors import ConfigError, DataError, DependencyError

_LOG = logging.getLogger(__name__)
_FORMAT = 1

DEFAULT_FRACTIONS = {"train": 0.9, "valid": 0.05, "test": 0.05}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which molecules belong to which part.

    Attributes:
        parts: name of the part -> positions in the source's `entries`, ascending.
        by: "molecule", "scaffold" or "formula".
        fractions: the fractions of frames asked for.
        seed: of the shuffle.
        fingerprint: of the data the split was made for.
    """

    parts: dict[str, tuple[int, ...]]
    by: str
    fractions: dict[str, float]
    seed: int
    fingerprint: str

    def frames(self, source: FrameSource, part: str) -> SubsetFrames:
        """Return the frames of one part.

        Raises:
            ConfigError: no such part.
            DataError: the source is not the one the split was made for.
        """
        if part not in self.parts:
            raise ConfigError(f"the split has the parts {', '.join(self.parts)}, not {part!r}")
        found = fingerprint(source)
        if found != self.fingerprint:
            raise DataError(
                f"the split was made for other data: fingerprint {self.fingerprint}, got {found}"
            )
        chosen = np.zeros(len(source.entries), dtype=bool)
        chosen[list(self.parts[part])] = True
        return SubsetFrames(source, np.flatnonzero(chosen[source.entry_of_frame]))


def split_by_molecule(
    source: FrameSource,
    fractions: Mapping[str, float] | None = None,
    *,
    by: str = "molecule",
    seed: int = 0,
) -> Split:
    """Divide the molecules so that each part has about its fraction of the frames.

    What counts as one molecule does not depend on names: two entries with the same SMILES
    (canonical, stereo and atom maps removed: mirror images have the same energies) are one.
    Entries without a usable SMILES are known by their formula only; everything with such a formula
    stays together. "scaffold" also keeps molecules with the same Bemis-Murcko scaffold of their
    largest fragment together (G. W. Bemis, M. A. Murcko, J. Med. Chem. 39, 2887, 1996; molecules
    without a ring count by themselves); "formula" keeps all isomers together.

    The result depends on the molecules and the seed, not on their order in the file.

    Args:
        source: the frames.
        fractions: part -> fraction of the frames, summing to 1; 0.9, 0.05, 0.05 by default.
        by: "molecule", "scaffold" or "formula".
        seed: of the shuffle.

    Raises:
        ConfigError: fractions that do not sum to 1, or an unknown `by`.
        DataError: a part would stay empty.
        DependencyError: RDKit is needed and not installed.
    """
    wanted = dict(DEFAULT_FRACTIONS if fractions is None else fractions)
    if not wanted or min(wanted.values()) <= 0 or abs(sum(wanted.values()) - 1) > 1e-6:
        raise ConfigError(f"fractions must be positive and sum to 1, got {wanted}")
    if by not in ("molecule", "scaffold", "formula"):
        raise ConfigError(f"by must be molecule, scaffold or formula, got {by!r}")
    groups = _groups(source.entries, by)
    counts = np.bincount(source.entry_of_frame, minlength=len(source.entries))
    order = np.random.default_rng(seed).permutation(len(groups))
    parts: dict[str, list[int]] = {part: [] for part in wanted}
    frames = dict.fromkeys(wanted, 0)
    total = int(counts.sum())
    for i in order:
        # The part that lacks most of its share, relative to that share.
        part = min(wanted, key=lambda p: frames[p] / (wanted[p] * total))
        parts[part].extend(groups[i])
        frames[part] += int(counts[groups[i]].sum())
    empty = [part for part in wanted if not frames[part]]
    if empty:
        raise DataError(
            f"{len(groups)} {by} groups cannot fill the parts {', '.join(wanted)}: "
            f"{', '.join(empty)} would be empty"
        )
    return Split(
        parts={part: tuple(sorted(members)) for part, members in parts.items()},
        by=by,
        fractions=wanted,
        seed=seed,
        fingerprint=fingerprint(source),
    )


def save_split(path: str | Path, split: Split, source: FrameSource) -> None:
    """Write a split as JSON, with the molecules' names for the reader."""
    path = Path(path)
    content = {
        "format": _FORMAT,
        "by": split.by,
        "seed": split.seed,
        "fractions": split.fractions,
        "fingerprint": split.fingerprint,
        "parts": {
            part: [[i, source.entries[i].name] for i in members]
            for part, members in split.parts.items()
        },
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load_split(path: str | Path) -> Split:
    """Read a split; DataError if the file is not one."""
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise DataError(f"{path}: split format {_FORMAT} expected, got {content['format']}")
        return Split(
            parts={
                part: tuple(int(i) for i, _ in members)
                for part, members in content["parts"].items()
            },
            by=content["by"],
            fractions=content["fractions"],
            seed=int(content["seed"]),
            fingerprint=content["fingerprint"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a stored split: {error!r}") from None


def fingerprint(source: FrameSource) -> str:
    """Short hash of the molecules (name, atoms, SMILES) and their numbers of frames."""
    counts = np.bincount(source.entry_of_frame, minlength=len(source.entries))
    digest = hashlib.sha256()
    for entry, n in zip(source.entries, counts, strict=True):
        line = f"{entry.name}\t{entry.smiles}\t{entry.atomic_numbers.tolist()}\t{n}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def _groups(entries: Sequence[MoleculeEntry], by: str) -> list[list[int]]:
    """Entries that must stay together, in an order that depends only on what they are."""
    formulas = [f"formula:{formula(entry.atomic_numbers)}" for entry in entries]
    if by == "formula":
        labels: list[str | None] = [None] * len(entries)
    else:
        labels = [_identity(entry, by) for entry in entries]
    unknown = {f for f, label in zip(formulas, labels, strict=True) if label is None}
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    keys = []
    for f, label in zip(formulas, labels, strict=True):
        key = label or f
        if f in unknown and key != f:
            one, two = sorted((root(key), root(f)))
            parent[two] = one
        keys.append(key)
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(root(key), []).append(i)
    return [groups[key] for key in sorted(groups)]


def _identity(entry: MoleculeEntry, by: str) -> str | None:
    """Canonical SMILES or scaffold; None if the entry has no SMILES that RDKit can read."""
    if not entry.smiles:
        return None
    try:
        from rdkit import Chem
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError:
        raise DependencyError(f"a split by {by} needs rdkit, which is not installed") from None
    molecule = Chem.MolFromSmiles(entry.smiles)
    if molecule is None:
        _LOG.warning("%s: no molecule in SMILES %r; known by formula", entry.name, entry.smiles)
        return None
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)
    molecule = Chem.RemoveHs(molecule, sanitize=True)
    if by == "scaffold":
        largest = max(
            Chem.GetMolFrags(molecule, asMols=True),
            key=lambda m: (m.GetNumHeavyAtoms(), Chem.MolToSmiles(m)),
        )
        scaffold = MurckoScaffold.GetScaffoldForMol(largest)
        if scaffold.GetNumAtoms():
            return "scaffold:" + Chem.MolToSmiles(scaffold, isomericSmiles=False)
    return "smiles:" + Chem.MolToSmiles(molecule, isomericSmiles=False)
