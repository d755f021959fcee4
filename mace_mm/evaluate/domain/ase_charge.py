"""Charge and spin of ASE's Atoms against what models were trained for."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mace_mm.archive.archive import Archive
from mace_mm.evaluate.domain.charge import (
    TOLERANCE,
    StatedCharge,
    as_charge,
    check_multiplicity,
    check_total_charge,
)
from mace_mm.evaluate.domain.charged_groups import formal_groups, pattern_groups, separated_problems
from mace_mm.evaluate.domain.limits import (
    atom_labels,
    bonding_problems,
    electron_problems,
)
from mace_mm.graph.neighbors import completed_box
from mace_mm.identity.bonds import is_metal
from mace_mm.identity.pairs import bonds_by_distance

# The keys of ``Atoms.info`` that this package, mace-torch and other calculators read.
CHARGE_KEYS = ("charge", "total_charge")
MULTIPLICITY_KEYS = ("spin", "multiplicity", "spin_multiplicity", "total_spin")

# What the Atoms say, to compare between calls.
ElectronicState = tuple[tuple[tuple[str, str], ...], float | None]


def electronic_state(atoms: Atoms) -> ElectronicState:
    """Everything the Atoms say about charge and spin; it costs microseconds."""
    keys = (*CHARGE_KEYS, *MULTIPLICITY_KEYS)
    said = tuple((k, repr(atoms.info[k])) for k in keys if atoms.info.get(k) is not None)
    charges = atoms.arrays.get("initial_charges")
    return said, None if charges is None else float(charges.sum())


def atoms_problems(
    archives: Sequence[Archive], atoms: Atoms, *, allow_unknown_charge: bool = False
) -> list[str]:
    """Compare ``info["charge"]`` and initial charges with what every model was trained for.

    Args:
        archives: a model, or the members of a committee.
        atoms: bonds are told from distances.
        allow_unknown_charge: for research: warn instead of raising.

    Returns:
        sentences to warn with; without any statement those of
        :func:`mace_mm.evaluate.domain.limits.bonding_problems`.

    Raises:
        ChargeError: a charge that a model was not trained for, or statements that disagree.
        ConfigError: a charge that is no number, a spin other than that of closed shells.
    """
    for key in MULTIPLICITY_KEYS:
        spin = atoms.info.get(key)
        # Some programs write 0 for "not given" or count unpaired electrons.
        check_multiplicity(None if spin == 0 else spin, f'atoms.info["{key}"]')
    stated = [
        as_charge(atoms.info[key], f'atoms.info["{key}"]')
        for key in CHARGE_KEYS
        if atoms.info.get(key) is not None
    ]
    initial = atoms.arrays.get("initial_charges")
    if initial is not None and initial.any():
        total = float(initial.sum())
        source = f"initial charges sum to {total:+.3f}"
        stated.append(StatedCharge(value=total, source=source))
    problems: list[str] = []
    for archive in archives:
        found = check_total_charge(archive, stated, allow_unknown_charge=allow_unknown_charge)
        problems += [p for p in found if p not in problems]
    numbers = atoms.numbers.tolist()
    labels = atom_labels(numbers)
    bonds = bonds_by_distance(atoms.numbers, atoms.positions, _box(atoms))
    formal = np.zeros(len(atoms)) if initial is None else initial
    if (formal == formal.round()).all() and formal.any():
        groups = formal_groups(bonds, formal.astype(int).tolist())
        kind = "initial charges"
    else:
        groups, kind = pattern_groups(numbers, bonds), "charged groups"
    neutral = bool(stated) and all(abs(s.value) <= TOLERANCE for s in stated)
    separated = separated_problems(groups, labels, kind, neutral=neutral)
    if not stated and not separated:
        # Beside metals the molecules, if there are any, are not known.
        found = bonding_problems(numbers, () if is_metal(atoms.numbers).any() else bonds)
        return problems + found
    charge = round(stated[0].value) if stated else 0
    every = [(range(len(numbers)), charge)]
    return problems + separated + electron_problems(numbers, every, labels)


def _box(atoms: Atoms) -> np.ndarray | None:
    """(3, 3) Å, its rows along open directions longer than the atoms reach; None in vacuum."""
    box = completed_box(atoms.cell.array, atoms.pbc)
    if box is not None:
        reach = np.ptp(atoms.positions, axis=0).max() + 10.0
        for k in np.flatnonzero(~atoms.pbc):
            box[k] *= reach / np.linalg.norm(box[k])
    return box
