"""The charge of what a model computes, against the charges it was trained for.

The networks see elements and positions: their energy does not depend on a charge. A molecule of
another charge than those of the training set is computed as if it had one of theirs, so it is
refused unless research asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mace_mm.archive.archive import Archive
from mace_mm.errors import ChargeError, ConfigError

# Charges of force fields are rounded, from three digits up (AM1-BCC): no whole molecule is farther
# than this from its charge.
TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class StatedCharge:
    """A total charge and who says so.

    Attributes:
        value: e.
        source: as an error names it, such as "charge=-1" or "formal charges sum to -1".
    """

    value: float
    source: str


def check_total_charge(
    archive: Archive,
    stated: Sequence[StatedCharge],
    *,
    allow_unknown_charge: bool = False,
    parts: str = "",
) -> list[str]:
    """Refuse a total charge that a model was not trained for.

    A model that does not say what it was trained for is taken to know neutral molecules, as the
    published ones of this kind do.

    Args:
        archive: the model; its metadata name the charges it knows.
        stated: everything that is known of the charge; empty if nothing is.
        allow_unknown_charge: for research: return the sentence instead of raising it.
        parts: which molecules the charge belongs to, for the sentence.

    Returns:
        sentences to warn with, empty if the model knows the charge.

    Raises:
        ChargeError: a charge farther than 0.1 e from those of the training set, or statements that
            differ by more.
    """
    problem = _problem(archive, stated, parts)
    if problem is None:
        return []
    if allow_unknown_charge:
        return [f"{problem} (allow_unknown_charge is set)"]
    raise ChargeError(
        f"{problem}; take a neutral form of the molecule or a model that was trained for its "
        "charge (allow_unknown_charge goes on all the same, for research)"
    )


def _problem(archive: Archive, stated: Sequence[StatedCharge], parts: str) -> str | None:
    name, trained = archive.metadata.name, archive.metadata.total_charges
    known = trained or (0,)
    sources = "; ".join(dict.fromkeys(s.source for s in stated))
    unknown = [s.value for s in stated if min(abs(s.value - q) for q in known) > TOLERANCE]
    if unknown:
        charges = " or ".join(signed(q) for q in known)
        model = (
            f"the model {name} was trained for molecules of total charge {charges}"
            if trained
            else f"the model {name} does not say for which total charges it was trained (published "
            "ones are for neutral molecules; `mace-mm import --total-charges` notes others)"
        )
        of_parts = f"; of these {parts}" if parts else ""
        return (
            f"the total charge is {signed(max(unknown, key=abs))} e ({sources}{of_parts}), and "
            f"{model}: its energy does not depend on the charge"
        )
    values = [s.value for s in stated]
    if values and max(values) - min(values) > TOLERANCE:
        return f"the total charge is contradictory: {sources}"
    return None


def check_multiplicity(multiplicity: float | None, source: str = "multiplicity") -> None:
    """Refuse a spin that a model's energy would not depend on.

    Args:
        multiplicity: 2 S + 1; None or 1 for closed shells.
        source: what it is called where it was given.

    Raises:
        ConfigError: another one.
    """
    if multiplicity is not None and multiplicity != 1:
        raise ConfigError(f"the model is for closed shells, got {source}={multiplicity}")


def as_charge(value: object, source: str) -> StatedCharge:
    """What a caller said about the charge.

    Raises:
        ConfigError: not a finite number.
    """
    try:
        charge = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source} must be a charge in e, got {value!r}") from error
    if not abs(charge) < float("inf"):
        raise ConfigError(f"{source} must be a finite charge in e, got {value!r}")
    return StatedCharge(value=charge, source=f"{source}={value}")


def signed(charge: float) -> str:
    """A charge with its sign, whole numbers as such: "-2", "0", "+0.75"."""
    text = f"{charge:+.3f}".rstrip("0").rstrip(".")
    return "0" if text in ("+0", "-0") else text
