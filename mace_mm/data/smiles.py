"""What a mapped SMILES says without a chemistry library: charge and atomic numbers."""

import re

import numpy as np

from mace_mm.elements import atomic_number
from mace_mm.errors import DataError


def charge_from_smiles(smiles: str) -> int:
    """Sum of the formal charges written in a SMILES string, e.

    Charges stand inside brackets only: "+", "-", "++", "+2" before an optional ":map".
    """
    total = 0
    for atom in re.findall(r"\[[^\]]*\]", smiles):
        found = re.search(r"(?:(\++)|(-+))(\d*)(?::\d+)?\]$", atom)
        if found:
            sign, run, digits = (1, found[1], found[3]) if found[1] else (-1, found[2], found[3])
            total += sign * (int(digits) if digits else len(run))
    return total


def atomic_numbers_from_smiles(smiles: str) -> np.ndarray:
    """(n_atoms,) atomic numbers in the order of the map numbers of a fully mapped SMILES."""
    found: dict[int, int] = {}
    for element, index in re.findall(r"\[\d*([A-Za-z][a-z]?)[^\]:]*:(\d+)\]", smiles):
        found[int(index)] = atomic_number(element.capitalize())
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise DataError(f"no atomic_numbers, and the SMILES {smiles!r} does not map every atom")
    return np.array([found[i + 1] for i in range(len(found))], dtype=np.int64)
