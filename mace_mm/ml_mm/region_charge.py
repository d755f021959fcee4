"""The charge of an ML region, as caller, topology and force field state it, against the model."""

from collections.abc import Sequence

from mace_mm.archive.archive import Archive
from mace_mm.evaluate.domain.charge import TOLERANCE, StatedCharge, check_total_charge, signed
from mace_mm.evaluate.domain.charged_groups import (
    ChargedGroup,
    formal_groups,
    pattern_groups,
    separated_problems,
)
from mace_mm.evaluate.domain.limits import (
    atom_labels,
    bonding_problems,
    crowded_problems,
    electron_problems,
)
from mace_mm.ml_mm.region_parts import MLAtoms, Part, region_parts
from mace_mm.openmm.input import formal_charges

_SHOWN = 4


def region_problems(
    archive: Archive,
    atoms: MLAtoms,
    *,
    charge: StatedCharge | None = None,
    allow_unknown_charge: bool = False,
) -> list[str]:
    """Compare the charge of an ML region with what a model was trained for.

    Everything that is known is compared: the caller's charge, the formal charges of the topology,
    and the charges of the force field. These are rounded to whole charges molecule by molecule; for
    a molecule that is cut, to that of the closed-shell molecule with its link atoms.

    Args:
        archive: the model.
        atoms: the region.
        charge: what the caller said.
        allow_unknown_charge: for research: warn instead of raising.

    Returns:
        sentences to warn with: separated charges in the region (zwitterions, ion pairs), bonds and
        electrons that do not fit, a charge that cannot be told.

    Raises:
        ChargeError: see :func:`mace_mm.evaluate.domain.charge.check_total_charge`.
    """
    numbers = [int(z) for z in atoms.atomic_numbers]
    bonds = atoms.bonds()
    labels = atom_labels(numbers, atoms.particles)
    formal = formal_charges(atoms.topology, atoms.particles)
    parts = region_parts(atoms)
    stated = [] if charge is None else [charge]
    stated += _formal(formal, len(atoms.link_atoms)) + _force_field(parts)
    problems = check_total_charge(
        archive, stated, allow_unknown_charge=allow_unknown_charge, parts=_named_parts(parts)
    )
    known = [q or 0 for q in formal]
    groups = formal_groups(bonds, known) if any(known) else pattern_groups(numbers, bonds)
    groups += _unseen(parts, groups)
    separated = separated_problems(
        groups,
        labels,
        "formal charges" if any(known) else "charged groups",
        neutral=bool(stated) and all(abs(s.value) <= TOLERANCE for s in stated),
        with_force_field=any(part.raw is not None for part in parts),
    )
    if not stated and not separated:
        return [*problems, *_untold(parts), *bonding_problems(numbers, bonds, labels=labels)]
    problems += separated
    charged = {i for i, q in enumerate(known) if q}.union(*(group.atoms for group in groups))
    problems += crowded_problems(numbers, bonds, charged, labels)
    return problems + electron_problems(numbers, _molecules(parts, formal, stated, groups), labels)


def _formal(formal: Sequence[int | None], n_link_atoms: int) -> list[StatedCharge]:
    """The sum of formal charges, where all are known or some are not zero."""
    charge = sum(q or 0 for q in formal)
    if not charge and formal.count(None) > n_link_atoms:
        return []
    return [StatedCharge(value=charge, source=f"formal charges sum to {signed(charge)}")]


def _force_field(parts: Sequence[Part]) -> list[StatedCharge]:
    """The sum of the force field's charges, where it can be told."""
    sums = [part.raw for part in parts if part.raw is not None]
    charges = [part.charge for part in parts if part.charge is not None]
    if len(charges) < len(parts):
        return []
    n_cut = sum(part.n_cut for part in parts)
    n_atoms = sum(len(part.places) for part in parts) - n_cut
    source = f"force-field charges of {n_atoms} atoms sum to {sum(sums):+.3f}"
    if n_cut:
        source += f", which with {n_cut} link atoms is {signed(sum(charges))}"
    return [StatedCharge(value=sum(charges), source=source)]


def _named_parts(parts: Sequence[Part]) -> str:
    """Which molecules of several are charged."""
    named = [f"{part.name} {signed(part.charge)}" for part in parts if part.charge]
    if len(parts) < 2 or not named:
        return ""
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return ", ".join(named[:_SHOWN]) + more


def _unseen(parts: Sequence[Part], groups: Sequence[ChargedGroup]) -> list[ChargedGroup]:
    """Residues that the force field charges and in which no charged group was recognized."""
    seen = {i for group in groups for i in group.atoms}
    every = [residue for part in parts for residue in part.residues]
    return [group for places, group in every if seen.isdisjoint(places)]


def _untold(parts: Sequence[Part]) -> list[str]:
    """Cut molecules whose charge does not follow from the force field's charges."""
    return [
        f"the charge of {part.name} cannot be told: force-field charges sum to {part.raw:+.3f} "
        f"where {part.n_cut} bonds are cut, and no charge of a closed-shell molecule is near; "
        "state it (charge=)"
        for part in parts
        if part.raw is not None and part.charge is None
    ]


def _molecules(
    parts: Sequence[Part],
    formal: Sequence[int | None],
    stated: Sequence[StatedCharge],
    groups: Sequence[ChargedGroup],
) -> list[tuple[Sequence[int], int]]:
    """Atoms and charge of every molecule, by the best source; if need be all atoms as one."""
    if all(part.charge is not None for part in parts):
        return [(part.places, round(part.charge or 0)) for part in parts]
    if any(formal) or not stated:
        charges = {i: q or 0 for i, q in enumerate(formal)}
        if not any(formal):
            charges |= {group.atoms[0]: group.charge for group in groups}
        return [(part.places, sum(charges[i] for i in part.places)) for part in parts]
    every = [i for part in parts for i in part.places]
    return [(every, round(stated[0].value))]
