"""What a watch found, each thing once, with the first and the last time it was seen."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mace_mm.errors import DataError
from mace_mm.identity.change import Change, Kind

# Different findings kept; water that exchanges protons makes new ones for hours.
_MOST = 200


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One change of the molecule during a run.

    Attributes:
        kind: of change, see `Kind`.
        text: for people, as it was first seen.
        atoms: indices of the atoms.
        step: at which it was first seen.
        time_ps: the same.
        last_step: at which it was last seen.
        looks: how often it was seen.
        key: the same for the same change.
    """

    kind: str
    text: str
    atoms: tuple[int, ...]
    step: int
    time_ps: float
    last_step: int
    looks: int
    key: str


class Findings:
    """Collects changes; of more than 200 different ones those after are only counted."""

    def __init__(self, known: Iterable[Finding] = (), n_more: int = 0) -> None:
        self._by_key = {finding.key: finding for finding in known}
        self.n_more = n_more

    @property
    def every(self) -> tuple[Finding, ...]:
        """In the order in which they were first seen."""
        return tuple(self._by_key.values())

    def add(self, changes: Sequence[Change], step: int, time_ps: float) -> list[Finding]:
        """Take the changes of one look; returns those that were not known."""
        new = []
        for change in changes:
            known = self._by_key.get(change.key)
            if known is not None:
                self._by_key[change.key] = replace(
                    known, last_step=max(step, known.last_step), looks=known.looks + 1
                )
                continue
            if len(self._by_key) >= _MOST:
                self.n_more += 1
                continue
            finding = Finding(
                kind=str(change.kind),
                text=change.text,
                atoms=change.atoms,
                step=step,
                time_ps=time_ps,
                last_step=step,
                looks=1,
                key=change.key,
            )
            self._by_key[change.key] = finding
            new.append(finding)
        return new

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"findings": [asdict(f) for f in self.every], "n_more": self.n_more}

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Findings":
        """The inverse of `to_json`.

        Raises:
            DataError: something else.
        """
        try:
            known = [finding_from_json(values) for values in content["findings"]]
            return Findings(known, int(content["n_more"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"no findings of a watch: {error}") from error


def finding_from_json(values: dict[str, Any]) -> Finding:
    """A finding from plain values.

    Raises:
        TypeError, ValueError: other values.
    """
    Kind(values["kind"])
    return Finding(**(values | {"atoms": tuple(values["atoms"])}))


_SEVERAL = {
    Kind.BOND_BROKEN: "bonds broke",
    Kind.BOND_MADE: "bonds formed",
    Kind.PROTON_MOVED: "protons moved",
    Kind.STEREO_INVERTED: "configurations changed",
    Kind.SHORT_CONTACT: "contacts are too short",
}


def in_words(changes: Sequence[Change | Finding]) -> str:
    """Changes in one line: of each kind the first, and how many there are besides."""
    groups: dict[str, list[Change | Finding]] = {}
    for change in changes:
        groups.setdefault(str(change.kind), []).append(change)
    words = []
    for kind, group in groups.items():
        more = f" ({len(group) - 1} more {_SEVERAL.get(Kind(kind), 'findings')})"
        words.append(group[0].text + (more if len(group) > 1 else ""))
    return "; ".join(words)
