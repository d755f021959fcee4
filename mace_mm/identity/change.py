"""What can happen to a molecule in a trajectory."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of change, as they stand in files."""

    NOT_FINITE = "not_finite"
    BOND_BROKEN = "bond_broken"
    BOND_MADE = "bond_made"
    EXPLODED = "exploded"
    PROTON_MOVED = "proton_moved"
    STEREO_INVERTED = "stereo_inverted"
    SHORT_CONTACT = "short_contact"
    FORCE_ERROR = "force_error"
    TEMPERATURE = "temperature"
    ENERGY = "energy"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that is not as it was at the start.

    Attributes:
        kind: of change.
        key: the same for the same change in another frame, whatever its numbers are.
        text: for people, with atoms by name and index.
        atoms: indices of the atoms in the whole system.
    """

    kind: Kind
    key: str
    text: str
    atoms: tuple[int, ...]
