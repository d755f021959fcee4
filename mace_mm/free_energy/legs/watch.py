"""What the watch of a leg saw: findings for its verdict, its result and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mace_mm.free_energy.analysis.convergence import Verdict
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.molecule_observer import (
    FORCE_ERROR,
    OBSERVER_NAME,
    MoleculeObserver,
)
from mace_mm.simulation.watch.findings import Finding, Findings


@dataclass(frozen=True, kw_only=True, eq=False)
class LegWatch:
    """What was seen of the molecule in all replicas of a leg.

    Attributes:
        watched: what was looked at, in words; empty if nobody looked.
        looks: frames looked at.
        not_looked: frames of the run that nobody looked at.
        findings: each change once; its step is an iteration.
        n_more: further changes that were only counted.
        largest_force_error: expected, eV/Å, None where it was never looked at.
        force_error_looks: how often it was.
    """

    watched: str
    looks: int
    not_looked: int
    findings: tuple[Finding, ...]
    n_more: int
    largest_force_error: float | None
    force_error_looks: int

    @property
    def verdict(self) -> Verdict:
        """Every finding is a reason not to use a number."""
        reasons = [
            f"{finding.text}, seen in {finding.looks} of {self.looks} looks, first in iteration "
            f"{finding.step}"
            for finding in self.findings
        ]
        if self.n_more:
            reasons.append(f"{self.n_more} further changes of the molecule are not listed")
        return Verdict(converged=not reasons, reasons=tuple(reasons))

    def in_words(self) -> str:
        """One sentence on what was looked at."""
        if not self.looks:
            return "Nobody looked whether the molecule stayed what it was."
        words = f"{self.looks} looks at {self.watched}"
        if self.largest_force_error is not None:
            words += (
                f"; the largest expected force error of an atom is "
                f"{1e3 * self.largest_force_error:.0f} meV/Å (looked at {self.force_error_looks} "
                "times)"
            )
        if self.not_looked:
            words += f"; {self.not_looked} frames were not looked at"
        return words + "."

    def to_json(self) -> dict[str, Any]:
        """Plain values for a results file."""
        return {
            "watched": self.watched,
            "looks": self.looks,
            "not_looked": self.not_looked,
            "largest_force_error_ev_per_angstrom": self.largest_force_error,
            "force_error_looks": self.force_error_looks,
            "findings": [
                {
                    "kind": finding.kind,
                    "text": finding.text,
                    "atoms": list(finding.atoms),
                    "iteration": finding.step,
                    "last_iteration": finding.last_step,
                    "looks": finding.looks,
                }
                for finding in self.findings
            ],
            "n_more": self.n_more,
        }


def watch_of(leg: Leg, journals: Mapping[str, Sequence[Journal]]) -> LegWatch | None:
    """Read what the molecule's observer stored, None for a leg that has none.

    Args:
        leg: with its observers.
        journals: of its windows and switches, by the name of the stage.

    Raises:
        DataError: damaged files.
    """
    observers = [o for o in leg.observers if isinstance(o, MoleculeObserver)]
    if not observers:
        return None
    observer, findings = observers[0], Findings()
    looks = missing = 0
    errors: list[float] = []
    for stage, parts in journals.items():
        for number, journal in enumerate(parts):
            observed = journal.observations(OBSERVER_NAME)
            if observed is None:
                missing += journal.n_iterations() * journal.n_replicas
                continue
            seen = ~np.isnan(observed.values[..., 0])
            looks += int(seen.sum())
            missing += int((~seen).sum())
            for iteration, replica in np.argwhere(seen):
                # Exchange keeps all replicas in one journal, everything else has one for each.
                where = f"{stage}, replica {max(number, int(replica)) + 1}"
                changes = observer.changes(observed.values[iteration, replica])
                placed = [replace(c, text=f"{c.text} ({where})") for c in changes]
                findings.add(placed, int(iteration) + 1, 0.0)
            column = observed.values[..., observed.columns.index(FORCE_ERROR)]
            errors += column[np.isfinite(column)].tolist()
    return LegWatch(
        watched=observer.identity.in_words(),
        looks=looks,
        not_looked=missing,
        findings=findings.every,
        n_more=findings.n_more,
        largest_force_error=max(errors) if errors else None,
        force_error_looks=len(errors),
    )


def before_event(leg: Leg, journal: Journal) -> Journal:
    """A journal up to the iteration before the one in which the molecule was destroyed.

    Raises:
        DataError: damaged files.
    """
    observed = journal.observations(OBSERVER_NAME)
    observers = [o for o in leg.observers if isinstance(o, MoleculeObserver)]
    if observed is None or not observers:
        return journal
    for iteration, rows in enumerate(observed.values):
        if any(observers[0].fatal(row) for row in rows if not np.isnan(row[0])):
            return journal.upto(iteration)
    return journal
