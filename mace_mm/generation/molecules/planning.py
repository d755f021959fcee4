"""The first step: which molecules, dimers and clusters are made."""

from pathlib import Path

import numpy as np

from mace_mm.data.formats.extxyz import ExtxyzFile
from mace_mm.data.formats.extxyz_format import ExtxyzKeys
from mace_mm.data.labels import formula
from mace_mm.generation.molecules.items import Item, make_items
from mace_mm.generation.molecules.molecules import Rejection, select_molecules
from mace_mm.generation.molecules.sources import read_sources
from mace_mm.generation.protocol import ClusterSettings, DimerSettings, Protocol
from mace_mm.generation.report import Report


def plan(protocol: Protocol, report: Report) -> list[Item]:
    """Read, filter and order the molecules, and make the list of items."""
    candidates, unread = read_sources(protocol)
    molecules, rejected = select_molecules(candidates, protocol.molecules, protocol.seed)
    items = make_items(molecules, protocol)
    sections: list[DimerSettings | ClusterSettings] = [*protocol.dimers, *protocol.clusters]
    for section in sections:
        n_found = sum(item.subset == section.subset for item in items)
        if n_found < section.count:
            found = f"{section.count} wanted, {n_found} different ones found"
            report.note(section.subset, "molecules", found)
    files = [protocol.located(path) for path in protocol.molecules.exclude_formulas_of]
    kept, excluded = _without_formulas(items, files)
    report.plan(len(candidates) + len(unread), kept, [*unread, *rejected, *excluded])
    return kept


def _without_formulas(items: list[Item], files: list[Path]) -> tuple[list[Item], list[Rejection]]:
    """Split the items into (kept, left out): those whose formula occurs in one of the files."""
    found: dict[str, str] = {}
    for path in files:
        entries = ExtxyzFile(path, ExtxyzKeys(energy=None, forces=None)).entries
        found.update({formula(entry.atomic_numbers): path.name for entry in entries})
    if not found:
        return items, []
    kept, excluded = [], []
    for item in items:
        numbers = np.array([atom.GetAtomicNum() for atom in item.molecule().GetAtoms()])
        there = found.get(formula(numbers))
        if there is None:
            kept.append(item)
        else:
            reason = f"the formula {formula(numbers)} occurs in {there}"
            excluded.append(Rejection(name=item.name, stage="molecules", reason=reason))
    return kept, excluded
